"""REDUCE, what comes out: the results of one tensor, and the order of the statistics in their arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardscan.kernels import FITS
from shardscan.reduce.devices import CPU, Device
from shardscan.reduce.moments import CHANNEL_STATISTICS

METHODS = ("none", "gram", "qr_svd", "qr_cores", "gram_gpu")  # stored by index: new ones come last
VIOLATIONS = ("violations_2_4", "violations_4_8")
# of one channel, as they are stored; of an input channel there are no violations
STORED_STATISTICS = (*CHANNEL_STATISTICS, *VIOLATIONS)
# of one spectrum: index in METHODS, error of Σσ², below what σ are noise, what was fitted
SPECTRUM_FACTS = ("method", "self_check", "floor", *FITS)
METHOD, SELF_CHECK, FLOOR = range(3)
GRAM_FLOOR = 1e-5  # of σ₁: above it σ from a float64 Gram matrix keep 7 digits


def spectrum_floor(method: str, largest: float, rows: int, cols: int) -> float:
    """Below this a method's singular values are its own noise, relative to `largest`: σ₁, or that of two factors."""
    by_gram = method in ("gram", "gram_gpu")
    return largest * (GRAM_FLOOR if by_gram else max(rows, cols) * float(np.finfo(np.float64).eps))


@dataclass(frozen=True, slots=True)
class Solver:
    """How whole matrices are solved; `exact` redoes by QR and SVD what lies below the floor of a Gram matrix."""

    exact: bool = False
    device: Device = CPU


@dataclass(frozen=True, slots=True)
class Spectra:
    """Of n matrices of one shape: σ (n, rank), NaN where there are none, and SPECTRUM_FACTS (n, 16) of each."""

    sigma: np.ndarray
    facts: np.ndarray

    @property
    def methods(self) -> np.ndarray:
        """Indices in METHODS (n,)."""
        return self.facts[:, METHOD].astype(np.int64)

    def checked(self, norms: np.ndarray) -> Spectra:
        """With the self-check |Σσ² − ‖W‖_F²| / ‖W‖_F² against norms² (n,) from statistics; NaN where one is unknown."""
        facts = self.facts.copy()
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            found = np.sum(self.sigma**2, axis=1)
            facts[:, SELF_CHECK] = np.where(norms == found, 0.0, np.abs(found - norms) / norms)
        return Spectra(self.sigma, facts)

    @property
    def self_check(self) -> np.ndarray:
        """Relative errors (n,); NaN where nothing could be compared."""
        return self.facts[:, SELF_CHECK]


@dataclass(frozen=True, slots=True)
class MatrixResult:
    """Of one matrix; a field is None where its product was not asked for or does not exist.

    channels_out and _in (9, channels) in the order of CHANNEL_STATISTICS; fingerprints (channels,) uint64; VIOLATIONS
    of output channels (2, channels); the spectra of all heads, and that of the whole matrix.
    """

    channels_out: np.ndarray | None = None
    channels_in: np.ndarray | None = None
    fingerprints_out: np.ndarray | None = None
    fingerprints_in: np.ndarray | None = None
    violations: np.ndarray | None = None
    heads: Spectra | None = None
    full: Spectra | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Of one unit: tensor (14,) in the order of TENSOR_MOMENTS; counts (65536,) uint64; its matrices in their order.

    Of a composite there is nothing but the spectra of its heads.
    `failure` says why there is nothing at all.
    """

    tensor: np.ndarray | None = None
    counts: np.ndarray | None = None
    digest: str | None = None
    matrices: tuple[MatrixResult, ...] = ()
    composites: Spectra | None = None
    failure: str | None = None
