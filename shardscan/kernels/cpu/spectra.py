"""REDUCE on the CPU, its spectra: float64 Gram matrices and what LAPACK makes of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from shardscan.kernels.cpu.lapack import add_gram, eigenvalues
from shardscan.kernels.cpu.values import to_float64

LEAST_SIGMA = 1e-140  # below it squares leave float64's range


def row_grams(values: np.ndarray, table: np.ndarray | None, dim: int) -> np.ndarray:
    """W_h W_hᵀ in float64 of every head of `dim` rows: (rows, cols) → (rows / dim, dim, dim)."""
    rows, cols = values.shape
    grams, w = np.empty((rows // dim, dim, dim)), np.empty((dim, cols))
    for head, gram in enumerate(grams):
        to_float64(values, table, head * dim, 0, w)
        with np.errstate(invalid="ignore", over="ignore"):  # such a Gram matrix is not finite, which the spectra see
            np.matmul(w, w.T, out=gram)
    return grams


def column_grams(values: np.ndarray, table: np.ndarray | None, dim: int) -> np.ndarray:
    """W_hᵀ W_h in float64 of every head of `dim` columns: (rows, cols) → (cols / dim, dim, dim)."""
    rows, cols = values.shape
    grams, w = np.empty((cols // dim, dim, dim)), np.empty((rows, dim))
    for head, gram in enumerate(grams):
        to_float64(values, table, 0, head * dim, w)
        with np.errstate(invalid="ignore", over="ignore"):
            np.matmul(w.T, w, out=gram)
    return grams


def gram_spectra(grams: np.ndarray, rank: int, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Singular values from Gram matrices (n, d, d): σ (n, rank), largest first, and which of the n rows hold.

    A row holds if no σ lies below floor·σ₁ and σ₁ is so large that no square of it vanished, as all squares of a zero
    matrix have. Rows that do not hold are for `exact_spectrum`; those of a Gram matrix that is not finite are NaN.
    """
    sigma = np.full((len(grams), rank), np.nan)
    finite = np.isfinite(grams).all(axis=(1, 2))
    if finite.any():
        eigenvalues = np.linalg.eigvalsh(grams[finite])[:, ::-1][:, :rank]
        sigma[finite] = np.sqrt(np.maximum(eigenvalues, 0.0))
    holds = finite & (sigma[:, -1] >= floor * sigma[:, 0]) & (sigma[:, 0] > LEAST_SIGMA) if rank else finite
    return sigma, holds


def exact_spectrum(w: np.ndarray) -> np.ndarray | None:
    """σ of a float64 matrix by QR and SVD, largest first; None where it holds a value that is not finite.

    The check comes first because LAPACK may hang on an infinity; the scaling because Σx² may overflow.
    """
    if not np.isfinite(w).all():
        return None
    scale = np.abs(w).max(initial=0.0)
    if scale == 0.0:
        return np.zeros(min(w.shape))
    w = (w if w.shape[0] >= w.shape[1] else w.T) / scale
    sigma: np.ndarray = np.linalg.svd(np.linalg.qr(w, mode="r"), compute_uv=False) * scale
    return sigma


def full_spectrum(panels: Iterable[np.ndarray], n: int) -> np.ndarray:
    """σ (n,), largest first, of a matrix with `n` columns that comes as float64 panels (k, n) of its rows.

    From its Gram matrix, the only thing of size n² in memory; NaN where a value, or a square, is not finite. As BLAS
    has more threads the last bits change.
    """
    gram = np.zeros((n, n))
    for panel in panels:
        add_gram(panel, gram)
    if not np.isfinite(gram.diagonal()).all():
        return np.full(n, np.nan)
    return np.asarray(np.sqrt(np.maximum(eigenvalues(gram)[::-1], 0.0)))


def exact_full_spectrum(panels: Iterable[np.ndarray], n: int) -> np.ndarray:
    """The same by QR and SVD, whose σ are good to the last bits of σ₁: triangles of panels are joined as they come.

    TSQR (Demmel et al., "Communication-optimal parallel and sequential QR", arXiv 0808.2664), in about 8 n² float64
    values of memory.
    """
    triangle: np.ndarray = np.zeros((0, n))
    scale = 0.0
    for panel in panels:
        if not np.isfinite(panel).all():
            return np.full(n, np.nan)
        scale = scale or float(np.abs(panel).max(initial=0.0))  # squares of what is extreme leave float64's range
        triangle = np.asarray(np.linalg.qr(np.vstack([triangle, panel / (scale or 1.0)]), mode="r"))
    sigma = np.linalg.svd(triangle, compute_uv=False) * scale
    return np.concatenate([sigma, np.zeros(n - len(sigma))])
