"""REDUCE on the GPU, its spectra: float64 Gram matrices, and their eigenvalues with a check of each solution.

cuSOLVER is watched: both trace(G) = Σλ and ‖G‖² = Σλ² must hold, because its batched solver has returned diagonals in
the place of eigenvalues (cupy#4847), which only the second sees. Batches are cut so that the solver's workspace stays
below 2³¹ bytes, beyond which its sizes overflowed (cupy#7261).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shardscan.reduce.kernels.gpu.device import OutOfMemory, bordered, library
from shardscan.reduce.kernels.gpu.values import Block, decoded, load

WORKSPACE = 1 << 31  # bytes
COPIES, LEAST_DIM = 4, 32  # float64 matrices of workspace for each given, generously; small ones are padded to 32 × 32
ROUNDOFF = 32 * np.finfo(float).eps  # times the number of eigenvalues: what the two sums may be off by


class Inaccurate(Exception):
    """The eigenvalues do not have the sums that the matrix has, or it holds a value that is not finite."""


@bordered()
def row_grams(block: Block, dim: int) -> np.ndarray:
    """W_h W_hᵀ in float64 of every head of `dim` rows: (rows, cols) → (rows / dim, dim, dim)."""
    rows, cols = block.shape
    heads = rows // dim
    if heads * cols == 0:
        return np.zeros((heads, dim, dim))
    w = decoded(block)[: heads * dim].reshape(heads, dim, cols)
    grams: np.ndarray = library().asnumpy(w @ w.transpose(0, 2, 1))
    return grams


@bordered()
def column_grams(block: Block, dim: int) -> np.ndarray:
    """W_hᵀ W_h in float64 of every head of `dim` columns: (rows, cols) → (cols / dim, dim, dim)."""
    rows, cols = block.shape
    heads = cols // dim
    if rows * heads == 0:
        return np.zeros((heads, dim, dim))
    w = decoded(block).reshape(rows, heads, dim).transpose(1, 2, 0)
    grams: np.ndarray = library().asnumpy(w @ w.transpose(0, 2, 1))
    return grams


@bordered()
def gram_spectra(grams: np.ndarray, rank: int, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Singular values from Gram matrices (n, d, d): σ (n, rank), largest first, and which of the n rows hold.

    As the CPU's; a row does not hold either, and is NaN, where its eigenvalues fail a check. Raises OutOfMemory where
    not even one matrix fits.
    """
    from shardscan.reduce.kernels.cpu.spectra import LEAST_SIGMA  # here, because numba would load with it

    sigma = np.full((len(grams), rank), np.nan)
    solved = np.isfinite(grams).all(axis=(1, 2))
    if solved.any():
        scaled, exponents = _scaled(grams[solved])
        eigenvalues = _eigenvalues(scaled)
        right = _agree(eigenvalues, np.trace(scaled, axis1=1, axis2=2), np.square(scaled).sum(axis=(1, 2)))
        solved[solved] = right
        roots = np.sqrt(np.maximum(eigenvalues[right, ::-1][:, :rank], 0.0))
        sigma[solved] = np.ldexp(roots, exponents[right, None] // 2)
    if rank == 0:
        return sigma, solved
    return sigma, solved & (sigma[:, -1] >= floor * sigma[:, 0]) & (sigma[:, 0] > LEAST_SIGMA)


@bordered()
def full_spectrum(panels: Iterator[tuple[np.ndarray, np.ndarray | None]], n: int) -> np.ndarray:
    """σ (n,) float64 of a matrix of n columns, largest first, from its panels of rows: (values (k, n), table) each.

    Raises OutOfMemory where the matrix G = Σ PᵀP, its copy or the solver's workspace does not fit, and Inaccurate.
    """
    cupy = library()
    gram = cupy.zeros((n, n))
    for values, table in panels:
        if len(values):
            panel = decoded(load(values, table))
            gram += panel.T @ panel
    if n == 0:
        return np.empty(0)
    diagonal = cupy.asnumpy(gram.diagonal())
    if not np.isfinite(diagonal).all():  # no entry of a Gram matrix is larger than its diagonal's largest
        raise Inaccurate("The Gram matrix holds values that are not finite, which the solver must not see.")
    exponent = int(_even_exponents(diagonal.max()))
    gram *= np.ldexp(1.0, -exponent)
    trace, square = float(gram.trace()), float(cupy.square(gram).sum())
    eigenvalues = cupy.asnumpy(cupy.linalg.eigvalsh(gram))
    if not _agree(eigenvalues[None], np.array([trace]), np.array([square]))[0]:
        raise Inaccurate("The eigenvalues that the device found do not have the sums that their matrix has.")
    sigma: np.ndarray = np.ldexp(np.sqrt(np.maximum(eigenvalues[::-1], 0.0)), exponent // 2)
    return sigma


def _scaled(grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrices with their largest entry near 1, so that no square overflows, and the exponents that they lost (n,)."""
    exponents = _even_exponents(np.abs(grams).max(axis=(1, 2), initial=0.0))
    return np.ldexp(grams, -exponents[:, None, None]), exponents


def _even_exponents(largest: np.ndarray) -> np.ndarray:
    """Even, so that the roots of what was scaled are scaled exactly; bounded, so that 2 to their negative is finite."""
    exponents: np.ndarray = np.maximum(np.frexp(largest)[1] // 2 * 2, -1000)
    return exponents


def _agree(eigenvalues: np.ndarray, traces: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Whether Σλ is the trace and Σλ² the squared Frobenius norm of each matrix: (n, d), (n,), (n,) → (n,)."""
    tolerance = ROUNDOFF * eigenvalues.shape[1]
    with np.errstate(invalid="ignore", over="ignore"):  # what the solver left unsolved may be anything
        sums, sums_of_squares = eigenvalues.sum(axis=1), np.square(eigenvalues).sum(axis=1)
        agree: np.ndarray = np.abs(sums - traces) <= tolerance * np.abs(traces)
        agree &= np.abs(sums_of_squares - squares) <= tolerance * squares
    return agree


def _eigenvalues(grams: np.ndarray) -> np.ndarray:
    """Eigenvalues (n, d), ascending, of matrices (n, d, d): as many at once as the solver's workspace allows."""
    most = max(1, WORKSPACE // (COPIES * 8 * max(grams.shape[1], LEAST_DIM) ** 2))
    return np.concatenate([_halved(grams[i : i + most]) for i in range(0, len(grams), most)])


def _halved(grams: np.ndarray) -> np.ndarray:
    """The same of one batch: by halves where it does not fit, OutOfMemory where one matrix does not."""
    try:
        return _solved(grams)
    except OutOfMemory:
        if len(grams) == 1:
            raise
    # not in the handler: the error holds on to what the failed attempt had put on the device
    middle = len(grams) // 2
    return np.concatenate([_halved(grams[:middle]), _halved(grams[middle:])])


@bordered()
def _solved(grams: np.ndarray) -> np.ndarray:
    cupy = library()
    # sorted here: a batched solver does so only if it is told to
    eigenvalues: np.ndarray = np.sort(cupy.asnumpy(cupy.linalg.eigvalsh(cupy.asarray(grams))), axis=1)
    return eigenvalues
