"""REDUCE, its tensors: what is stored of the values of one, and the statistics that this gives.

A stack of experts is stored in runs, each a task of its own. So what is stored are partials that still merge.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import reduce

import numpy as np

from shardscan.reduce.distribution import Tails, magnitude_quantile, tails_of_exact
from shardscan.reduce.moments import CHANNEL_STATISTICS, Moments

TENSOR_STATISTICS = (*CHANNEL_STATISTICS, "absmin", "near_zeros", "nans", "infs", "p99_abs", "p999_abs")
MOMENTS = tuple(field.name for field in fields(Moments))
TENSOR_MOMENTS = (*MOMENTS, "absmin", "near_zeros", "nans", "infs")


def stored_moments(moments: Moments, tails: Tails | None, dtype: str, counts: np.ndarray) -> np.ndarray:
    """TENSOR_MOMENTS (14,) of the values of all channels."""
    total, tails = moments.total(), tails or tails_of_exact(dtype, counts)
    of_values = [float(getattr(total, name)[0]) for name in MOMENTS]
    return np.array([*of_values, tails.absmin, tails.near_zeros, tails.nans, tails.infs])


def statistics_of_runs(runs: Iterable[np.ndarray], dtype: str, counts: np.ndarray) -> np.ndarray:
    """TENSOR_STATISTICS (15,) of a tensor stored in `runs` of TENSOR_MOMENTS, NaN where one does not exist.

    `counts` (65536,) are of the bit patterns of them all.
    """
    rows = list(runs)
    moments = reduce(Moments.merge, (Moments(*(np.array([x]) for x in row[: len(MOMENTS)])) for row in rows))
    absmin = min(float(row[len(MOMENTS)]) for row in rows)
    tails = np.sum([row[len(MOMENTS) + 1 :] for row in rows], axis=0)
    quantiles = [magnitude_quantile(dtype, counts, per_mille) for per_mille in (990, 999)]
    return np.array([*moments.statistics()[:, 0], absmin if np.isfinite(absmin) else np.nan, *tails, *quantiles])
