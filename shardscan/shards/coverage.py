"""OPEN, its extents: how many bytes of a file its tensors have, each byte once. Pure.

Tensors of a PyTorch file may share bytes (tied weights, views of one storage) and may leave bytes of a storage to
nobody (a slice). So their sizes do not add up to the file's, and whoever asks why it did not shrink needs both numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from shardscan.shards.dtypes import DTYPES
from shardscan.shards.header import Entry

MOST_RUNS = 1 << 21  # of bytes that lie together, in one file: each takes some 60 bytes of memory for a moment


def covered(entries: Iterable[Entry]) -> int:
    """Bytes that at least one of the entries of a file has.

    Never more than their sizes together. Exact up to MOST_RUNS runs; of views that are finer, as every other column
    is, the gaps count as theirs as far as that bound allows.
    """
    left, total = MOST_RUNS, 0
    for group in _overlapping(entries):
        if len(group) == 1 and group[0].strides is None:
            total += group[0].nbytes
            continue
        starts, ends = [], []
        for entry in group:
            first, length = _runs(entry, left)
            left -= len(first)
            starts.append(first)
            ends.append(first + length)
        total += min(_union(np.concatenate(starts), np.concatenate(ends)), sum(entry.nbytes for entry in group))
    return total


def _overlapping(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries that may share bytes together: those between whose first and last values the others' begin."""
    group: list[Entry] = []
    end = -1
    for entry in sorted((e for e in entries if e.nbytes), key=lambda e: e.begin):
        if group and entry.begin >= end:
            yield group
            group = []
        group.append(entry)
        end = max(end, entry.end)
    if group:
        yield group


def _runs(entry: Entry, most: int) -> tuple[np.ndarray, int]:
    """Where the runs of bytes of an entry begin, int64 in any order, and the bytes in each; at most so many, or one."""
    starts = np.array([entry.begin])
    if entry.strides is None:
        return starts, entry.nbytes
    width = DTYPES[entry.dtype].bits // 8
    steps = sorted((s * width, n) for s, n in zip(entry.strides, entry.shape, strict=True) if s and n > 1)
    count, length = math.prod(n for _, n in steps), width
    for step, n in steps:
        if step <= length or count > most:
            length += (n - 1) * step
        else:
            starts = np.add.outer(starts, np.arange(n) * step).ravel()
        count //= n
    return starts, length


def _union(starts: np.ndarray, ends: np.ndarray) -> int:
    """Bytes in at least one of the runs."""
    order = np.argsort(starts)
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    before = np.concatenate([starts[:1], ends[:-1]])
    return int(np.maximum(ends - np.maximum(starts, before), 0).sum())
