"""The statistics once more: slow, plain and in float64, from the formulas alone, to check the fast code against.

Nothing of shardscan is imported here. Sums are `math.fsum`, which rounds once; moments take two passes about the mean.
Magnitudes beyond 1e±75 leave float64's range in the fourth power; no float32 does.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NEAR_ZERO = 1e-8
FITS = (
    *("alpha", "xmin", "ks_distance", "tail_values"),
    *("alpha_weighted", "log_alpha_norm", "log_norm", "log_spectral_norm"),
    *("mp_edge", "mp_spikes", "mp_soft_rank", "snr", "snr_threshold"),
)


def channel_statistics(x: Array, axis: str) -> dict[str, Array]:
    """Statistics of each row (axis 'out') or column ('in') of `x` (2-D float64), over its finite values.

    Each is float64 `(channels,)`: count, mean, std (population), min, max, mean_abs, absmax, rms, kurtosis, zeros. A
    channel without finite values has NaN but for the counts; a constant one has std 0 and kurtosis NaN.
    """
    channels = x if axis == "out" else x.T
    each = [_moments(channel) for channel in channels]
    names = ("count", "mean", "std", "min", "max", "mean_abs", "absmax", "rms", "kurtosis", "zeros")
    return {name: np.array([values[name] for values in each], np.float64) for name in names}


def group_violations(x: Array, length: int) -> Array:
    """Of each row of `x` (2-D), its aligned groups of `length` values of which more than half are not zero: int64.

    Only whole groups count; NaN and infinities are not zero.
    """
    groups = [row[: row.size // length * length].reshape(-1, length) for row in x]
    return np.array([sum(sum(v != 0 for v in group) > length // 2 for group in g) for g in groups], np.int64)


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


def spectrum_fits(sigma: Sequence[float], floor: float, rows: int, cols: int) -> dict[str, float]:
    """Power law, Marchenko–Pastur edge and SNR of one spectrum, from its σ that are neither 0 nor below `floor`.

    NaN where a value does not exist. Squares and powers of σ must stay inside float64's range.
    """
    kept = sorted(float(s) for s in sigma if s > 0 and s >= floor)
    lambdas = [s * s for s in kept]
    found = dict.fromkeys(FITS, math.nan)
    if not kept:
        return found
    found["log_norm"], found["log_spectral_norm"] = math.log10(math.fsum(lambdas)), math.log10(lambdas[-1])
    if len(kept) == 1:
        return found
    alpha, xmin, distance = _power_law(lambdas)
    if not math.isnan(alpha):
        found |= {"alpha": alpha, "xmin": xmin, "ks_distance": distance}
        found["tail_values"] = sum(v >= xmin for v in lambdas)
        found["alpha_weighted"] = alpha * math.log10(lambdas[-1])
        found["log_alpha_norm"] = math.log10(math.fsum(v**alpha for v in lambdas))
    aspect = min(rows, cols) / max(rows, cols)
    found["mp_edge"] = _bulk_edge(lambdas, (1 + math.sqrt(aspect)) ** 2)
    found["mp_spikes"] = sum(v > found["mp_edge"] for v in lambdas)
    found["mp_soft_rank"] = found["mp_edge"] / lambdas[-1]
    low, high = np.quantile(kept, [0.25, 0.75])
    found["snr_threshold"] = float(high - low) / 1.349 * (1 + math.sqrt(aspect))
    signal = math.fsum(s for s in kept if s > found["snr_threshold"])
    noise = [s for s in kept if s <= found["snr_threshold"]]
    found["snr"] = signal / (math.fsum(noise) if noise else 1) / kept[-1]
    return found


def _power_law(ascending: list[float]) -> tuple[float, float, float]:
    """α, xmin and D of the tail that is nearest to a power law; NaN where all values are equal."""
    best = (math.nan, math.nan, math.inf)
    for xmin in sorted(set(ascending)):
        tail = [v for v in ascending if v >= xmin]
        logs = math.fsum(math.log(v / xmin) for v in tail)
        if logs > 0:
            alpha = 1 + len(tail) / logs
            distance = max(abs(1 - (v / xmin) ** (1 - alpha) - j / len(tail)) for j, v in enumerate(tail))
            if distance < best[2]:
                best = (alpha, xmin, distance)
    return best


def _bulk_edge(lambdas: list[float], factor: float) -> float:
    bulk = lambdas
    while True:
        edge = factor * math.fsum(bulk) / len(bulk)
        inside = [v for v in bulk if v <= edge]
        if len(inside) == len(bulk):
            return edge
        bulk = inside


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
