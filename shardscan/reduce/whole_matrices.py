"""REDUCE, its whole matrices: one spectrum at a time, streamed in panels along the longer side, on all BLAS threads.

    full          of a matrix: σ (rank,)
    full_facts    SPECTRUM_FACTS

A pass of its own, after the one that statistics and heads share: an accumulator of n² float64 values is too large to
have one in every worker, and the time is the eigensolver's, beside which a second reading is nothing.
"""

from __future__ import annotations

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.plan.products import has_spectrum
from shardscan.plan.tasks import Unit
from shardscan.reduce.devices import Solver
from shardscan.reduce.kernels import cpu
from shardscan.reduce.panels import panels_of
from shardscan.reduce.products import MatrixSteps, Stack, StackedArray, StackedArrays, StoredArray, Weights
from shardscan.reduce.result import Outcome
from shardscan.reduce.selfcheck import check_norms, compare_with_norms
from shardscan.reduce.spectra import METHODS, SPECTRUM_FACTS, Spectra, fit_spectra, spectrum_floor


def _solve(placed: Placed, matrix: Matrix, solver: Solver) -> dict[str, np.ndarray]:
    """The singular values of one matrix."""
    n = min(matrix.rows, matrix.cols)
    sigma, by = solver.device.full_spectrum(lambda: panels_of(placed, matrix), n)
    method = by.gram
    if sigma[0] <= cpu.LEAST_SIGMA and any(panel.decoded().any() for panel in panels_of(placed, matrix)):
        sigma[:] = np.nan  # the squares vanished, the weights did not
    if solver.exact and _is_unsure(sigma, matrix.rows, matrix.cols):
        panels = (panel.decoded() for panel in panels_of(placed, matrix))
        sigma, method = cpu.exact_full_spectrum(panels, n), "qr_svd"
    known = "none" if np.isnan(sigma).any() else method
    spectra = fit_spectra(sigma[None], np.array([METHODS.index(known)]), matrix.rows, matrix.cols)
    return {"full": spectra.sigma[0], "full_facts": spectra.facts[0]}


def _check(unit: Unit, outcome: Outcome, stored: StoredArray) -> Outcome:
    def checked(i: int, matrix: Matrix) -> dict[str, np.ndarray]:
        arrays = outcome.of_matrices[i]
        if not arrays:
            return {}
        spectra = Spectra(arrays["full"][None], arrays["full_facts"][None])
        spectra = compare_with_norms(spectra, matrix, "out", lambda name: stored(i, name))
        check_norms(spectra, of_heads=False)
        return {"full": spectra.sigma[0], "full_facts": spectra.facts[0]}

    return Outcome(of_matrices=tuple(checked(i, m) for i, m in enumerate(unit.matrices[: len(outcome.of_matrices)])))


def _matrix_arrays(stack: Stack, weights: Weights) -> StackedArrays:
    ranks = [min(matrix.rows, matrix.cols) for p, matrix in weights if has_spectrum(p, matrix)]
    if not ranks:
        return {}
    facts = (*stack, len(SPECTRUM_FACTS))
    return {
        "full": StackedArray(("layer", "expert", "full_rank"), (*stack, max(ranks)), "float64", 2),
        "full_facts": StackedArray(("layer", "expert", "spectrum_fact"), facts, "float64", 2),
    }


def _is_unsure(sigma: np.ndarray, rows: int, cols: int) -> bool:
    """Whether a Gram matrix left values below its floor, or lost all of them to float64's range."""
    return bool(np.isnan(sigma).any() or sigma[-1] < spectrum_floor("gram", float(sigma[0]), rows, cols))


STEPS = MatrixSteps(words={"spectrum_fact": SPECTRUM_FACTS}, matrix_arrays=_matrix_arrays, check=_check, solve=_solve)
