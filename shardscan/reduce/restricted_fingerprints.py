"""REDUCE, its restricted fingerprints: what channels would be called if only some of those across were left.

A fingerprint is of a whole channel. Where both axes of a matrix were cut none of the original's is left; but once it is
known which channels of one axis survived, the original's can be made again over those alone, and found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.errors import CheckpointError
from shardscan.reduce.graph import Progress, on_workers
from shardscan.reduce.kernels import cpu
from shardscan.reduce.panels import panel_rows
from shardscan.reduce.values import freeze, matrix_rows


@dataclass(frozen=True, slots=True, eq=False)
class Restricted:
    """A matrix, the axis whose channels are wanted ('out' for rows), and which of the other one are left, in order."""

    placed: Placed
    matrix: Matrix
    axis: str
    left: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.matrix.id} {self.axis}"

    @property
    def nbytes(self) -> int:
        return self.placed.tensor.nbytes


def find_restricted_fingerprints(
    wanted: Sequence[Restricted], *, workers: int, progress: Callable[[int], None] | None = None
) -> list[np.ndarray | None]:
    """Of each matrix the fingerprints (channels,) uint64 of its axis, None where it cannot be read.

    `progress` is told the bytes of each as it is done.
    """
    graph = {("keep", restricted.name): (_fingerprint, restricted) for restricted in wanted}
    sizes = {("keep", restricted.name): restricted.nbytes for restricted in wanted}
    fingerprints: list[Any] = on_workers(graph, wanted, workers, Progress(sizes, progress))  # what the steps return
    return fingerprints


def _fingerprint(restricted: Restricted) -> np.ndarray | None:
    try:
        are_rows = (restricted.axis == "out") != restricted.matrix.turned
        return _fingerprint_rows(restricted) if are_rows else _fingerprint_columns(restricted)
    except CheckpointError:
        return None


def _fingerprint_rows(restricted: Restricted) -> np.ndarray:
    """Of the stored rows, over some of the columns."""
    rows, keys = len(restricted.matrix.stored_rows), cpu.keys(0, len(restricted.left))
    fingerprints = np.zeros(rows, np.uint64)
    for start, stop in _panels(restricted.matrix):
        values, table = matrix_rows(restricted.placed, restricted.matrix, start, stop)
        values_left = freeze(values[:, restricted.left])
        fingerprints[start:stop] = cpu.channel_sums(values_left, table, cpu.keys(start, stop), keys, False)[2]
    return fingerprints


def _fingerprint_columns(restricted: Restricted) -> np.ndarray:
    """Of the stored columns, over some of the rows."""
    rows, cols = len(restricted.matrix.stored_rows), len(restricted.matrix.stored_cols)
    places = np.full(rows, -1)
    places[restricted.left] = np.arange(len(restricted.left))
    fingerprints, keys = np.zeros(cols, np.uint64), cpu.keys(0, len(restricted.left))
    for start, stop in _panels(restricted.matrix):
        rows_left = np.flatnonzero(places[start:stop] >= 0)
        if len(rows_left):
            values, table = matrix_rows(restricted.placed, restricted.matrix, start, stop)
            values_left = freeze(values[rows_left])
            keys_left = keys[places[start:stop][rows_left]]
            fingerprints += cpu.channel_sums(values_left, table, keys_left, cpu.keys(0, cols), True)[5]
    return fingerprints


def _panels(matrix: Matrix) -> list[tuple[int, int]]:
    rows, step = len(matrix.stored_rows), panel_rows(len(matrix.stored_cols))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
