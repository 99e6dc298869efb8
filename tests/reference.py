"""The statistics once more: slow, plain and in float64, from the formulas alone, to check the fast code against.

Nothing of shardscan is imported here. Sums are `math.fsum`, which rounds once; moments take two passes about the mean.
Magnitudes beyond 1e±75 leave float64's range in the fourth power; no float32 does.
"""

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NEAR_ZERO = 1e-8


def channel_statistics(x: Array, axis: str) -> dict[str, Array]:
    """Statistics of each row (axis 'out') or column ('in') of `x` (2-D float64), over its finite values.

    Each is float64 `(channels,)`: count, mean, std (population), min, max, mean_abs, absmax, rms, kurtosis, zeros. A
    channel without finite values has NaN but for the counts; a constant one has std 0 and kurtosis NaN.
    """
    channels = x if axis == "out" else x.T
    each = [_moments(channel) for channel in channels]
    names = ("count", "mean", "std", "min", "max", "mean_abs", "absmax", "rms", "kurtosis", "zeros")
    return {name: np.array([values[name] for values in each], np.float64) for name in names}


def tensor_statistics(x: Array) -> dict[str, float]:
    """Statistics of all of `x` (any shape) over its finite values; NaN where no value has them.

    mean, std (population), min, max, absmax, absmin (non-zero), mean_abs, rms, kurtosis, p99_abs and p999_abs; and the
    counts zeros, near_zeros (|x| ≤ 1e-8, zeros among them), nans and infs.
    """
    flat = np.asarray(x, np.float64).ravel()
    magnitudes = np.sort(np.abs(flat[np.isfinite(flat)]))
    nonzero = magnitudes[magnitudes > 0]
    return _moments(flat) | {
        "absmin": float(nonzero[0]) if nonzero.size else math.nan,
        "near_zeros": float(np.count_nonzero(magnitudes <= NEAR_ZERO)),
        "nans": float(np.count_nonzero(np.isnan(flat))),
        "infs": float(np.count_nonzero(np.isinf(flat))),
        "p99_abs": _at_rank(magnitudes, 99, 100),
        "p999_abs": _at_rank(magnitudes, 999, 1000),
    }


def head_singular_values(W: Array, heads: int, layout: str) -> Array:
    """Singular values of each head's slice of `W` (2-D), float64 `(heads, min(head_dim, other))`, descending.

    Layout '(heads d) m' has head h in the rows [h·d, (h+1)·d), as q, k and v have; 'm (heads d)' in the columns, as o.
    """
    axis = {"(heads d) m": 0, "m (heads d)": 1}[layout]
    slices = np.split(np.asarray(W, np.float64), heads, axis)
    return np.array([np.linalg.svd(part, compute_uv=False) for part in slices])


def _moments(values: Array) -> dict[str, float]:
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    n = x.size
    counts = {"count": float(n), "zeros": float(np.count_nonzero(x == 0))}
    if not n:
        return counts | dict.fromkeys(("mean", "std", "min", "max", "mean_abs", "absmax", "rms", "kurtosis"), math.nan)
    mean = math.fsum(x) / n
    constant = bool(x.min() == x.max())  # the mean of equal values may miss them by a rounding: std would not be 0
    variance = 0.0 if constant else math.fsum((x - mean) ** 2) / n
    return counts | {
        "mean": mean,
        "std": math.sqrt(variance),
        "min": float(x.min()),
        "max": float(x.max()),
        "mean_abs": math.fsum(np.abs(x)) / n,
        "absmax": float(np.abs(x).max()),
        "rms": math.sqrt(math.fsum(x**2) / n),
        "kurtosis": math.fsum((x - mean) ** 4) / n / variance**2 if variance else math.nan,
    }


def _at_rank(ascending: Array, numerator: int, denominator: int) -> float:
    """The smallest value whose rank, from 1, is at least ceil(n · numerator / denominator), in integers."""
    n = ascending.size
    return float(ascending[-(-n * numerator // denominator) - 1]) if n else math.nan
