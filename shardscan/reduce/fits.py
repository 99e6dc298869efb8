"""REDUCE, its fits: singular values with what is read off them, which goes into the store with them."""

from __future__ import annotations

import numpy as np

from shardscan.kernels import FITS, cpu
from shardscan.reduce.result import FLOOR, METHOD, METHODS, SPECTRUM_FACTS, Spectra, spectrum_floor


def fitted(sigma: np.ndarray, methods: np.ndarray, rows: int, cols: int, largest: np.ndarray | None = None) -> Spectra:
    """Spectra of n (rows, cols) matrices: σ (n, rank) and indices in METHODS (n,). The self-check is yet to be made.

    `largest` (n,) is what a method's rounding is relative to: σ₁ unless said.
    """
    if largest is None:
        largest = sigma[:, :1].sum(axis=1)  # 0 where there are no values, NaN where they are unknown
    floors = np.array([spectrum_floor(METHODS[m], s, rows, cols) for m, s in zip(methods, largest, strict=True)])
    facts = np.full((len(sigma), len(SPECTRUM_FACTS)), np.nan)
    facts[:, METHOD], facts[:, FLOOR] = methods, floors
    facts[:, -len(FITS) :] = cpu.spectrum_fits(sigma, floors, rows, cols)
    return Spectra(sigma, facts)
