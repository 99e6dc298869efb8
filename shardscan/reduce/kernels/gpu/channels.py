"""REDUCE on the GPU, its channels: sums, fingerprints and pattern counts of a block.

Sums are taken about the mean of a channel's finite values: all of them, because a pass over values that are on the
device already costs little. That shift cancels at least as little as the CPU's, the mean of a sample.
"""

from __future__ import annotations

import numpy as np

from shardscan.reduce.kernels import Sums, Tails
from shardscan.reduce.kernels.gpu.device import bordered, library
from shardscan.reduce.kernels.gpu.values import THREADS, Block, blocks_of, launch, threads_for

SUMS = 9  # S1, S2, S3, S4, SABS, MIN, MAX, COUNT, ZEROS
BINS = 1 << 16
SLICE_ROWS, SLICES = 64, 1024  # a thread sums one column of a slice: at least this many rows, at most this many slices
COUNT_BLOCKS = 1024

_Channels = tuple[np.ndarray, np.ndarray, np.ndarray]


@bordered()
def statistics(block: Block, first_row: int, columns: bool) -> Sums:
    """Reduce a block whose first row is row `first_row` of its tensor; without `columns` theirs are empty."""
    return Sums(*_rows(block), *(_columns(block, first_row) if columns else _no_columns()), *_counts(block))


def _rows(block: Block) -> _Channels:
    cupy = library()
    rows, cols = block.shape
    shifts, sums, prints = cupy.empty(rows), cupy.empty((SUMS, rows)), cupy.empty(rows, np.uint64)
    sizes = np.int64(rows), np.int64(cols)
    launch(block, "row_channels", (rows,), threads_for(cols), block.values, block.table, *sizes, shifts, sums, prints)
    return cupy.asnumpy(shifts), cupy.asnumpy(sums), cupy.asnumpy(prints)


def _columns(block: Block, first_row: int) -> _Channels:
    cupy = library()
    rows, cols = block.shape
    step = max(SLICE_ROWS, -(-rows // SLICES))
    slices, threads = -(-rows // step), threads_for(cols)
    shifts, sums, prints = cupy.empty(cols), cupy.empty((SUMS, cols)), cupy.empty(cols, np.uint64)
    means, parts = cupy.empty((2, slices, cols)), cupy.empty((slices, SUMS, cols))
    part_prints = cupy.empty((slices, cols), np.uint64)
    one = (blocks_of(cols, threads),)
    every = (*one, slices)
    given = (block.values, block.table, np.int64(rows), np.int64(cols), np.int64(step))
    merged = (np.int64(slices), np.int64(cols))
    launch(block, "column_means", every, threads, *given, means)
    launch(block, "column_shifts", one, threads, means, *merged, shifts)
    launch(block, "column_channels", every, threads, *given, np.int64(first_row), shifts, parts, part_prints)
    launch(block, "column_totals", one, threads, parts, part_prints, *merged, sums, prints)
    return cupy.asnumpy(shifts), cupy.asnumpy(sums), cupy.asnumpy(prints)


def _no_columns() -> _Channels:
    return np.empty(0), np.empty((SUMS, 0)), np.empty(0, np.uint64)


def _counts(block: Block) -> tuple[np.ndarray, Tails | None]:
    cupy = library()
    n = block.values.size
    counts = cupy.zeros(BINS, np.uint64)
    # the least magnitude travels as bits, whose order is that of positive floats
    tails = cupy.asarray(np.array([0, 0, 0, 0, np.float64(np.inf).view(np.uint64)], np.uint64))
    launch(block, "count", (min(blocks_of(n), COUNT_BLOCKS),), THREADS, block.values, np.int64(n), counts, tails)
    if not block.wide:
        return cupy.asnumpy(counts), None
    held = cupy.asnumpy(tails)
    zeros, near_zeros, nans, infs = (int(number) for number in held[:4])
    return cupy.asnumpy(counts), (zeros, near_zeros, nans, infs, float(held.view(np.float64)[4]))
