"""REDUCE, its whole matrices: one spectrum at a time, streamed in panels along the longer side, on all BLAS threads.

A pass of its own, after the one that statistics and heads share: an accumulator of n² float64 values is too large to
have one in every worker, and the time is the eigensolver's, beside which a second reading is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shardscan.anatomy import Placed
from shardscan.errors import CheckpointError
from shardscan.kernels import cpu
from shardscan.matrices import Matrix
from shardscan.reduce.fits import fitted
from shardscan.reduce.result import METHODS, MatrixResult, Result, Solver, spectrum_floor
from shardscan.reduce.values import matrix_rows
from shardscan.tasks import PANEL_BYTES, ROW_MULTIPLE


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


def reduce_matrix(placed: Placed, matrix: Matrix, solver: Solver) -> Result:
    """The singular values of one matrix, as the result of a unit that has no other."""
    n = min(matrix.rows, matrix.cols)
    try:
        sigma, by = solver.device.full_spectrum(lambda: _panels(placed, matrix), n)
        method = by.gram
        if sigma[0] <= cpu.LEAST_SIGMA and any(panel.decoded().any() for panel in _panels(placed, matrix)):
            sigma[:] = np.nan  # the squares vanished, the weights did not
        if solver.exact and _is_unsure(sigma, matrix.rows, matrix.cols):
            panels = (panel.decoded() for panel in _panels(placed, matrix))
            sigma, method = cpu.exact_full_spectrum(panels, n), "qr_svd"
    except (CheckpointError, np.linalg.LinAlgError) as error:  # one bad tensor costs only itself
        return Result(failure=str(error))
    known = "none" if np.isnan(sigma).any() else method
    methods = np.array([METHODS.index(known)])
    return Result(matrices=(MatrixResult(full=fitted(sigma[None], methods, matrix.rows, matrix.cols)),))


def join(results: Sequence[Result]) -> Result:
    """The results of all matrices of a unit as one; a failure of one is the tensor's."""
    failure = next((result.failure for result in results if result.failure), None)
    return Result(failure=failure) if failure else Result(matrices=tuple(m for r in results for m in r.matrices))


def _is_unsure(sigma: np.ndarray, rows: int, cols: int) -> bool:
    """Whether a Gram matrix left values below its floor, or lost all of them to float64's range."""
    return bool(np.isnan(sigma).any() or sigma[-1] < spectrum_floor("gram", float(sigma[0]), rows, cols))


def _panels(placed: Placed, matrix: Matrix) -> Iterator[Panel]:
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
