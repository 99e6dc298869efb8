"""REDUCE on the CPU, its histogram: bit patterns counted, exactly or by their bfloat16 truncation."""

from __future__ import annotations

import numpy as np

from shardscan.reduce.kernels.cpu.compiler import kernel
from shardscan.reduce.kernels.cpu.values import is_finite


@kernel()
def count_patterns(codes, counts):
    """Add the bit patterns `codes` (n,) uint8 or uint16 to `counts`, in place."""
    for i in range(codes.size):
        counts[codes[i]] += np.uint64(1)


@kernel()
def _truncated_pattern(x):
    """The bfloat16 pattern of x truncated towards zero: what float32 rounds away from zero is stepped back."""
    f = np.float32(x)
    bits = f.view(np.uint32)
    if abs(np.float64(f)) > abs(np.float64(x)):
        bits -= np.uint32(1)
    return bits >> np.uint32(16)


@kernel()
def count_truncated(values, counts):
    """Add the truncated bfloat16 patterns of the finite `values` (n,) float32 or float64 to `counts`, in place.

    Returns what such bins cannot tell: zeros, near zeros (|x| <= 1e-8), NaNs, infinities and the least |x| not 0.
    """
    zeros = near = nans = infs = 0
    least = np.inf
    for i in range(values.size):
        x = values[i]
        if not is_finite(x):
            nans += 1 if x != x else 0
            infs += 1 if x == x else 0
            continue
        magnitude = abs(np.float64(x))
        zeros += 1 if magnitude == 0.0 else 0
        near += 1 if magnitude <= 1e-8 else 0
        if 0.0 < magnitude < least:
            least = magnitude
        counts[_truncated_pattern(x)] += np.uint64(1)
    return zeros, near, nans, infs, least
