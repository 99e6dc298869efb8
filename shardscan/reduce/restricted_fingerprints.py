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
from shardscan.reduce.values import matrix_rows


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


def fingerprints(
    wanted: Sequence[Restricted], *, workers: int, progress: Callable[[int], None] | None = None
) -> list[np.ndarray | None]:
    """Of each matrix the fingerprints (channels,) uint64 of its axis, None where it cannot be read.

    `progress` is told the bytes of each as it is done.
    """
    graph = {("keep", each.name): (_of_matrix, each) for each in wanted}
    sizes = {("keep", each.name): each.nbytes for each in wanted}
    found: list[Any] = on_workers(graph, wanted, workers, Progress(sizes, progress))  # what the steps return
    return found


def _of_matrix(wanted: Restricted) -> np.ndarray | None:
    try:
        are_rows = (wanted.axis == "out") != wanted.matrix.turned
        return _of_rows(wanted) if are_rows else _of_columns(wanted)
    except CheckpointError:
        return None


def _of_rows(wanted: Restricted) -> np.ndarray:
    """Of the stored rows, over some of the columns."""
    rows, keys = len(wanted.matrix.stored_rows), cpu.keys(0, len(wanted.left))
    found = np.zeros(rows, np.uint64)
    for start, stop in _panels(wanted.matrix):
        values, table = matrix_rows(wanted.placed, wanted.matrix, start, stop)
        some = np.ascontiguousarray(values[:, wanted.left])
        found[start:stop] = cpu.channel_sums(some, table, cpu.keys(start, stop), keys, False)[2]
    return found


def _of_columns(wanted: Restricted) -> np.ndarray:
    """Of the stored columns, over some of the rows."""
    rows, cols = len(wanted.matrix.stored_rows), len(wanted.matrix.stored_cols)
    places = np.full(rows, -1)
    places[wanted.left] = np.arange(len(wanted.left))
    found, keys = np.zeros(cols, np.uint64), cpu.keys(0, len(wanted.left))
    for start, stop in _panels(wanted.matrix):
        here = np.flatnonzero(places[start:stop] >= 0)
        if len(here):
            values, table = matrix_rows(wanted.placed, wanted.matrix, start, stop)
            some = np.ascontiguousarray(values[here])
            found += cpu.channel_sums(some, table, keys[places[start:stop][here]], cpu.keys(0, cols), True)[5]
    return found


def _panels(matrix: Matrix) -> list[tuple[int, int]]:
    rows, step = len(matrix.stored_rows), panel_rows(len(matrix.stored_cols))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
