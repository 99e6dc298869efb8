"""REDUCE, what comes out: the results of one tensor, and the order of the statistics in their arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardscan.reduce.moments import CHANNEL_STATISTICS

TENSOR_STATISTICS = (*CHANNEL_STATISTICS, "absmin", "near_zeros", "nans", "infs", "p99_abs", "p999_abs")
METHODS = ("none", "gram", "qr_svd")
GRAM_FLOOR = 1e-5  # of σ₁: above it σ from a float64 Gram matrix keep 7 digits


def spectrum_floor(method: str, sigma_max: float, rows: int, cols: int) -> float:
    """Below this a method's singular values are its own noise."""
    relative = GRAM_FLOOR if method == "gram" else max(rows, cols) * float(np.finfo(np.float64).eps)
    return relative * sigma_max


@dataclass(frozen=True, slots=True)
class Result:
    """Of one tensor; a field is None where its product was not asked for or does not exist.

    tensor (15,) in the order of TENSOR_STATISTICS; channels_out and _in (9, channels) in that of CHANNEL_STATISTICS;
    fingerprints (channels,) uint64; counts (65536,) uint64; heads σ (heads, rank), NaN where there are none, and for
    each head the index of its method in METHODS. `failure` says why there is nothing at all.
    """

    tensor: np.ndarray | None = None
    channels_out: np.ndarray | None = None
    channels_in: np.ndarray | None = None
    fingerprints_out: np.ndarray | None = None
    fingerprints_in: np.ndarray | None = None
    counts: np.ndarray | None = None
    digest: str | None = None
    heads: np.ndarray | None = None
    methods: np.ndarray | None = None
    failure: str | None = None
