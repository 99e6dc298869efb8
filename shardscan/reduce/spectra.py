"""REDUCE, its spectra: singular values, how they were found, and what is read off them, stored together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shardscan.reduce.kernels import FITS, cpu
from shardscan.reduce.products import Stack, StackedArray, StackedArrays

METHODS = ("none", "gram", "qr_svd", "qr_cores", "gram_gpu")  # stored by index: new ones come last
# of one spectrum: index in METHODS, error of Σσ², below what σ are noise, what was fitted
SPECTRUM_FACTS = ("method", "self_check", "floor", *FITS)
METHOD, SELF_CHECK, FLOOR = range(3)
GRAM_FLOOR = 1e-5  # of σ₁: above it σ from a float64 Gram matrix keep 7 digits


def spectrum_floor(method: str, largest: float, rows: int, cols: int) -> float:
    """Below this a method's singular values are its own noise, relative to `largest`: σ₁, or that of two factors."""
    by_gram = method in ("gram", "gram_gpu")
    return largest * (GRAM_FLOOR if by_gram else max(rows, cols) * float(np.finfo(np.float64).eps))


@dataclass(frozen=True, slots=True)
class Spectra:
    """Of n matrices of one shape: σ (n, rank), NaN where there are none, and SPECTRUM_FACTS (n, 16) of each."""

    sigma: np.ndarray
    facts: np.ndarray

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], name: str) -> Spectra:
        """Those that are stored under a name."""
        return cls(arrays[name], arrays[f"{name}_facts"])

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """σ and facts as they are stored under a name."""
        return {name: self.sigma, f"{name}_facts": self.facts}

    @property
    def methods(self) -> np.ndarray:
        """Indices in METHODS (n,)."""
        return self.facts[:, METHOD].astype(np.int64)

    def checked(self, norms: np.ndarray) -> Spectra:
        """With the self-check |Σσ² − ‖W‖_F²| / ‖W‖_F² against norms² (n,) from statistics; NaN where one is unknown."""
        facts = self.facts.copy()
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            squares = np.sum(self.sigma**2, axis=1)
            facts[:, SELF_CHECK] = np.where(norms == squares, 0.0, np.abs(squares - norms) / norms)
        return Spectra(self.sigma, facts)

    @property
    def self_check(self) -> np.ndarray:
        """Relative errors (n,); NaN where nothing could be compared."""
        return self.facts[:, SELF_CHECK]


def fit_spectra(
    sigma: np.ndarray, methods: np.ndarray, rows: int, cols: int, largest: np.ndarray | None = None
) -> Spectra:
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


def stacked_spectra(name: str, stack: Stack, sizes: Sequence[tuple[int, int]]) -> StackedArrays:
    """The arrays of heads or composites, from the number and the rank of those of each layer."""
    if not sizes:
        return {}
    shape = (stack[0], *(max(lengths) for lengths in zip(*sizes, strict=True)))
    facts = (*shape[:2], len(SPECTRUM_FACTS))
    return {
        name: StackedArray(("layer", "head", f"{name.removesuffix('s')}_rank"), shape, "float64", 1, sharded=True),
        f"{name}_facts": StackedArray(("layer", "head", "spectrum_fact"), facts, "float64", 1),
    }
