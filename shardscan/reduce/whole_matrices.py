"""REDUCE, its whole matrices: one spectrum at a time, streamed in panels along the longer side, on all BLAS threads.

A pass of its own, after the one that statistics and heads share: an accumulator of n² float64 values is too large to
have one in every worker, and the time is the eigensolver's, beside which a second reading is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.errors import CheckpointError
from shardscan.reduce.devices import Solver
from shardscan.reduce.kernels import cpu
from shardscan.reduce.panels import panels_of
from shardscan.reduce.result import MatrixResult, Result
from shardscan.reduce.spectra import METHODS, fitted, spectrum_floor


def reduce_matrix(placed: Placed, matrix: Matrix, solver: Solver) -> Result:
    """The singular values of one matrix, as the result of a unit that has no other."""
    n = min(matrix.rows, matrix.cols)
    try:
        sigma, by = solver.device.full_spectrum(lambda: panels_of(placed, matrix), n)
        method = by.gram
        if sigma[0] <= cpu.LEAST_SIGMA and any(panel.decoded().any() for panel in panels_of(placed, matrix)):
            sigma[:] = np.nan  # the squares vanished, the weights did not
        if solver.exact and _is_unsure(sigma, matrix.rows, matrix.cols):
            panels = (panel.decoded() for panel in panels_of(placed, matrix))
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
