"""REDUCE on the CPU, its N:M sparsity: aligned groups of 4 and of 8 values in which more than 2 and 4 are not zero.

A pass of its own, after that of `channels`, over what may hold a group that obeys: that takes two zeros, and how many a
stored row has is known by then. Few rows of trained weights have as many, so hardly any is looked at. Both kinds of
groups are counted in one pass: a group of 8 is two groups of 4, side by side. Where the last one is alone, zeros stand
beside it, which obey.
"""

from __future__ import annotations

import numpy as np

from shardscan.reduce.kernels.cpu.compiler import kernel
from shardscan.reduce.kernels.cpu.values import load

FOUR, EIGHT = 4, 8
LEAST_ZEROS = 2
_BYTE = np.uint64(0xFF)


@kernel()
def _mark(values, table, marks):
    """1 for a value that is zero, of either sign, and 0 for every other, NaN among them."""
    for j in range(values.size):
        marks[j] = np.uint8(load(values, table, j) == 0.0)


@kernel()
def _violating(eights):
    """Violating groups of 4 and of 8 of a row, whose marks are the bytes of `eights` (n,) uint64."""
    of_four = of_eight = 0
    for marks in eights:
        pairs = marks + (marks >> np.uint64(16))
        sums = pairs + (pairs >> np.uint64(8))
        low, high = np.int64(sums & _BYTE), np.int64((sums >> np.uint64(32)) & _BYTE)
        of_four += int(low < 2) + int(high < 2)
        of_eight += int(low + high < 4)
    return of_four, of_eight


@kernel()
def _along_rows(values, table, zeros, out):
    rows, cols = values.shape
    marks = np.ones((cols + EIGHT - 1) // EIGHT * EIGHT, np.uint8)
    for i in range(rows):
        if zeros[i] < LEAST_ZEROS:
            out[0, i], out[1, i] = cols // FOUR, cols // EIGHT
        else:
            _mark(values[i], table, marks[:cols])
            out[0, i], out[1, i] = _violating(marks.view(np.uint64))


@kernel()
def _add_marks(values, table, sums):
    for j in range(values.size):
        sums[j] += np.uint8(load(values, table, j) == 0.0)


@kernel()
def _down_columns(values, table, zeros, out):
    rows, cols = values.shape
    low, high = np.empty(cols, np.uint8), np.empty(cols, np.uint8)
    fours = eights = 0  # of every column, in rows that are not looked at
    for i in range(0, rows, EIGHT):
        end = min(i + EIGHT, rows)
        held = 0.0
        for r in range(i, end):
            held += zeros[r]
        if held < LEAST_ZEROS:
            fours += (end - i) // FOUR
            eights += (end - i) // EIGHT
            continue
        for j in range(cols):
            low[j], high[j] = 0, i + EIGHT - end
        for r in range(i, end):
            _add_marks(values[r], table, low if r < i + FOUR else high)
        for j in range(cols):
            out[0, j] += (low[j] < 2) + (high[j] < 2)
            out[1, j] += low[j] + high[j] < 4
    for j in range(cols):
        out[0, j] += fours
        out[1, j] += eights


@kernel()
def group_violations(values, table, zeros, down):
    """Groups along every row, or `down` every column, that break 2:4 and 4:8: int64 (2, rows) or (2, cols).

    `values` and `table` are as `channel_sums` takes them, a multiple of 4 long; 4 that 8 leaves are no group of 8.
    `zeros` (rows,) float64 are those in each row.
    """
    out = np.zeros((2, values.shape[1] if down else values.shape[0]), np.int64)
    if down:
        _down_columns(values, table, zeros, out)
    else:
        _along_rows(values, table, zeros, out)
    return out
