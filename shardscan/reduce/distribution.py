"""REDUCE, its histogram: the count of every bit pattern of a tensor, and what follows from it exactly.

Dtypes of up to 16 bits have at most 65,536 patterns, so their distribution is exact. Wider values are counted by the
pattern of their bfloat16 truncated towards zero: bins under 0.8 % wide, with `Tails` for what those cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardscan.shards.dtypes import DTYPES, pattern_values

BINS = 65_536
NEAR_ZERO = 1e-8


@dataclass(frozen=True, slots=True)
class Tails:
    """Counts over single values, and the least magnitude that is not zero (inf where there is none)."""

    zeros: int
    near_zeros: int
    nans: int
    infs: int
    absmin: float

    def merge(self, other: Tails) -> Tails:
        """Both sets of values."""
        return Tails(
            self.zeros + other.zeros,
            self.near_zeros + other.near_zeros,
            self.nans + other.nans,
            self.infs + other.infs,
            min(self.absmin, other.absmin),
        )


def is_exact(dtype: str) -> bool:
    """Whether each bin of this dtype's distribution is one value."""
    return DTYPES[dtype].bits <= 16


def bin_edges(dtype: str, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest value, float64, of each bin (n,); NaN and infinite bins have NaN and infinite edges."""
    if is_exact(dtype):
        values = _values(dtype)[bins]
        return values, values
    magnitudes = _values("BF16")
    near = magnitudes[bins & 0x7FFF]
    above = magnitudes[np.minimum((bins & 0x7FFF) + 1, 0x7F80)]
    far = np.where(np.isfinite(near), np.nextafter(above, 0.0), near)
    negative = bins >= 0x8000
    return np.where(negative, -far, near), np.where(negative, -near, far)


def _values(dtype: str) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return pattern_values(dtype).astype(np.float64)


def tails_of_exact(dtype: str, counts: np.ndarray) -> Tails:
    """Tails (see there) from an exact distribution `counts` (BINS,)."""
    bins = np.flatnonzero(counts)
    values, n = bin_edges(dtype, bins)[0], counts[bins]
    magnitudes = np.abs(values)
    return Tails(
        zeros=int(n[magnitudes == 0].sum()),
        near_zeros=int(n[magnitudes <= NEAR_ZERO].sum()),
        nans=int(n[np.isnan(values)].sum()),
        infs=int(n[np.isinf(values)].sum()),
        absmin=float(magnitudes[magnitudes > 0].min(initial=np.inf)),
    )


def magnitude_quantile(dtype: str, counts: np.ndarray, per_mille: int) -> float:
    """The smallest |x| whose rank is at least ceil(n·per_mille/1000); NaN for no finite value.

    Bins that are not exact give their edge next to zero.
    """
    bins = np.flatnonzero(counts)
    lo, hi = bin_edges(dtype, bins)
    magnitudes = np.minimum(np.abs(lo), np.abs(hi))
    finite = np.isfinite(lo)
    order = np.argsort(magnitudes[finite], kind="stable")
    cumulative = np.cumsum(counts[bins][finite][order].astype(np.int64))
    if not cumulative.size:
        return float("nan")
    rank = -(-int(cumulative[-1]) * per_mille // 1000)
    return float(magnitudes[finite][order][np.searchsorted(cumulative, rank)])
