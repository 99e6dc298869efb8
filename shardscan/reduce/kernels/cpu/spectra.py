"""REDUCE on the CPU, its spectra: float64 Gram matrices and what LAPACK makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from shardscan.reduce.kernels.cpu.lapack import add_gram, eigenvalues, triangle
from shardscan.reduce.kernels.cpu.values import to_float64

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
    scaled = _scaled(w if w.shape[0] >= w.shape[1] else w.T)
    if scaled is None:
        return None
    sigma: np.ndarray = np.linalg.svd(triangle(scaled[0]), compute_uv=False) * scaled[1]
    return sigma


def _scaled(w: np.ndarray) -> tuple[np.ndarray, float] | None:
    """The values over their largest magnitude, and that; None where a value is not finite."""
    if not np.isfinite(w).all():
        return None
    scale = float(np.abs(w).max(initial=0.0))
    return w / (scale or 1.0), scale


class Core(NamedTuple):
    """What the spectrum of a product needs of a factor w (long, d) = scale · Q · triangle.

    `triangle` (min(long, d), d) and its largest singular value `norm`; `gram` (d, d) is that of w / scale, for checks.
    """

    triangle: np.ndarray
    gram: np.ndarray
    norm: float
    scale: float


def core(w: np.ndarray) -> Core | None:
    """The core of a float64 factor (long, d); None where it holds a value that is not finite."""
    scaled = _scaled(w)
    if scaled is None:
        return None
    values, scale = scaled
    gram = values.T @ values
    r = triangle(values)
    return Core(r, gram, float(np.linalg.norm(r, 2)), scale)


def product_spectrum(left: Core, right: Core) -> tuple[np.ndarray, float, float] | None:
    """Of left · rightᵀ, whose factors have one d: σ, largest first; what their rounding is relative to; a self-check.

    The rounding of a product is relative to ‖left‖₂·‖right‖₂, however small its own σ₁ is. The self-check is
    |Σσ² − ⟨leftᵀ·left, rightᵀ·right⟩| / (‖left‖_F²·‖right‖_F²). None where squares leave float64's range.
    """
    scale = left.scale * right.scale
    if left.scale and right.scale and not LEAST_SIGMA < scale < 1 / LEAST_SIGMA:
        return None
    sigma = np.linalg.svd(left.triangle @ right.triangle.T, compute_uv=False)
    squares = float(np.trace(left.gram) * np.trace(right.gram))
    error = abs(float(np.sum(sigma**2) - np.vdot(left.gram, right.gram))) / (squares or 1.0)
    return sigma * scale, left.norm * right.norm * scale, error


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
    joined: np.ndarray = np.zeros((0, n))
    scale = 0.0
    for panel in panels:
        if not np.isfinite(panel).all():
            return np.full(n, np.nan)
        scale = scale or float(np.abs(panel).max(initial=0.0))  # squares of what is extreme leave float64's range
        joined = triangle(np.vstack([joined, panel / (scale or 1.0)]))
    sigma = np.linalg.svd(joined, compute_uv=False) * scale
    return np.concatenate([sigma, np.zeros(n - len(sigma))])
