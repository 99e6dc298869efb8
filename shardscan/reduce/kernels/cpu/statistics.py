"""REDUCE on the CPU, its statistics: sums, fingerprints and pattern counts of a block, in the form of every device."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shardscan.reduce.kernels import Sums
from shardscan.reduce.kernels.cpu.channels import channel_sums, keys
from shardscan.reduce.kernels.cpu.patterns import count_patterns, count_truncated

BINS = 1 << 16


def compiled() -> bool:
    """Whether kernels come out of numba's cache: to compile them takes up to a minute, and memory until the end."""
    return any(Path(str(channel_sums.stats.cache_path)).glob("channels.channel_sums-*.nbi"))


def statistics(values: np.ndarray, table: np.ndarray | None, first_row: int, columns: bool) -> Sums:
    """Reduce a block whose first row is row `first_row` of its tensor; without `columns` theirs are empty.

    `values` and `table` are as `channel_sums` takes them.
    """
    rows, cols = values.shape
    sums = channel_sums(values, table, keys(first_row, first_row + rows), keys(0, cols), columns)
    counts = np.zeros(BINS, np.uint64)
    if values.dtype.kind == "u":
        count_patterns(values.ravel(), counts)
        return Sums._make([*sums, counts, None])
    return Sums._make([*sums, counts, count_truncated(values.ravel(), counts)])
