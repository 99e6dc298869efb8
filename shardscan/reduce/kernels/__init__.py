"""REDUCE, its kernels: the same few functions for each device; arrays in, arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

# what kernels read off a spectrum, in the order of their columns
FITS = (
    "alpha",
    "xmin",
    "ks_distance",
    "tail_values",
    "alpha_weighted",
    "log_alpha_norm",
    "log_norm",
    "log_spectral_norm",
    "mp_edge",
    "mp_spikes",
    "mp_soft_rank",
    "snr",
    "snr_threshold",
)

Tails = tuple[int, int, int, int, float]  # zeros, near zeros, NaNs, infinities and the least |x| not 0


class Sums(NamedTuple):
    """What a block's values are reduced to in one pass.

    Shifts (n,), sums (9, n) about them and uint64 fingerprints (n,) of rows and columns; counts (65536,) uint64 of bit
    patterns; `tails`, of values wider than 16 bits only.
    """

    row_shifts: np.ndarray
    row_sums: np.ndarray
    row_prints: np.ndarray
    column_shifts: np.ndarray
    column_sums: np.ndarray
    column_prints: np.ndarray
    counts: np.ndarray
    tails: Tails | None
