"""REDUCE, its whole matrices: one spectrum at a time, streamed in panels along the longer side, on all BLAS threads.

A pass of its own, after the one that statistics and heads share: an accumulator of n² float64 values is too large to
have one in every worker, and the time is the eigensolver's, beside which a second reading is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shardscan.errors import CheckpointError
from shardscan.kernels import cpu
from shardscan.plan import PANEL_BYTES, ROW_MULTIPLE, Unit
from shardscan.reduce.fits import fitted
from shardscan.reduce.result import METHODS, Result, Solver, spectrum_floor
from shardscan.reduce.values import kernel_values


def reduce_matrix(unit: Unit, solver: Solver) -> Result:
    """The singular values of one tensor's matrix."""
    matrix = unit.placed.matrix
    assert matrix
    n = min(matrix.rows, matrix.cols)
    try:
        sigma, method = cpu.full_spectrum(_panels(unit), n), "gram"
        if sigma[0] <= cpu.LEAST_SIGMA and any(panel.any() for panel in _panels(unit)):
            sigma[:] = np.nan  # the squares vanished, the weights did not
        if solver.exact and _is_unsure(sigma, matrix.rows, matrix.cols):
            sigma, method = cpu.exact_full_spectrum(_panels(unit), n), "qr_svd"
    except (OSError, CheckpointError, np.linalg.LinAlgError) as error:  # one bad tensor costs only itself
        return Result(failure=str(error))
    known = "none" if np.isnan(sigma).any() else method
    methods = np.array([METHODS.index(known)])
    return Result(full=fitted(sigma[None], methods, matrix.rows, matrix.cols))


def _is_unsure(sigma: np.ndarray, rows: int, cols: int) -> bool:
    """Whether a Gram matrix left values below its floor, or lost all of them to float64's range."""
    return bool(np.isnan(sigma).any() or sigma[-1] < spectrum_floor("gram", float(sigma[0]), rows, cols))


def _panels(unit: Unit) -> Iterator[np.ndarray]:
    """Float64 (k, n), n the shorter side: runs of rows of a tall matrix, runs of columns of a wide one, transposed."""
    tensor, matrix = unit.placed.tensor, unit.placed.matrix
    assert matrix
    rows, cols = matrix.rows, matrix.cols
    step = panel_rows(min(rows, cols))
    if rows >= cols:
        for start in range(0, rows, step):
            window = tensor.window(start, min(start + step, rows))
            values, table = kernel_values(window.raw(), window.dtype, (window.shape[0], cols))
            yield cpu.to_float64(values, table, 0, 0, np.empty((len(values), cols)))
        return
    window = tensor.window()
    values, table = kernel_values(window.raw(), window.dtype, (rows, cols))
    for start in range(0, cols, step):
        yield cpu.to_float64(values, table, 0, start, np.empty((rows, min(step, cols - start)))).T


def panel_rows(n: int) -> int:
    """Rows of a panel of `n` columns, of which every one begins on a byte."""
    return max(1, PANEL_BYTES // (8 * n) // ROW_MULTIPLE) * ROW_MULTIPLE
