"""REDUCE, its panels: a whole matrix, a run of its longer side at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.plan.tasks import PANEL_BYTES, ROW_MULTIPLE
from shardscan.reduce.kernels import cpu
from shardscan.reduce.values import matrix_rows


@dataclass(frozen=True, slots=True)
class Panel:
    """(k, n) of a matrix, n its shorter side: `width` columns of `values` from `left` on, `turned` where it is wide.

    `values` (rows, cols) and `table` are as kernels take them.
    """

    values: np.ndarray
    table: np.ndarray | None
    left: int
    width: int
    turned: bool

    def stored(self) -> tuple[np.ndarray, np.ndarray | None]:
        """A view of the values, as they are stored, and their table."""
        piece = self.values[:, self.left : self.left + self.width]
        return piece.T if self.turned else piece, self.table

    def decoded(self) -> np.ndarray:
        """A copy in float64."""
        out = cpu.to_float64(self.values, self.table, 0, self.left, np.empty((len(self.values), self.width)))
        return out.T if self.turned else out


def panels_of(placed: Placed, matrix: Matrix) -> Iterator[Panel]:
    """The panels of a matrix as it is stored, which has the same σ: rows of a tall one, columns of a wide one."""
    rows, cols = len(matrix.stored_rows), len(matrix.stored_cols)
    step = panel_rows(min(rows, cols))
    if rows >= cols:
        for start in range(0, rows, step):
            yield Panel(*matrix_rows(placed, matrix, start, min(start + step, rows)), 0, cols, False)
        return
    values, table = matrix_rows(placed, matrix, 0, rows)
    for start in range(0, cols, step):
        yield Panel(values, table, start, min(step, cols - start), True)


def panel_rows(n: int) -> int:
    """Rows of a panel of `n` columns, of which every one begins on a byte."""
    return max(1, PANEL_BYTES // (8 * n) // ROW_MULTIPLE) * ROW_MULTIPLE
