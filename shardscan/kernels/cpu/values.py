"""REDUCE on the CPU, its values: how a stored element becomes a number, in a kernel and in an array."""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

_EXPONENT = np.uint64(0x7FF0000000000000)


def load(values, table, j):
    """Element j as float64; typed below by what `values` and `table` are."""
    raise NotImplementedError


@overload(load)
def _load_typed(values, table, j):
    if isinstance(values.dtype, types.Float):
        return lambda values, table, j: np.float64(values[j])
    if isinstance(table, types.Array):
        return lambda values, table, j: np.float64(table[values[j]])
    # uint16 without a table is bfloat16: the upper half of a float32
    return lambda values, table, j: np.float64(np.uint32(np.uint32(values[j]) << 16).view(np.float32))


@njit(cache=True, nogil=True)
def is_finite(x):
    """By its bits: compiled for speed, a comparison may be assumed never to meet a NaN."""
    return (np.float64(x).view(np.uint64) & _EXPONENT) != _EXPONENT


def to_float64(values: np.ndarray, table: np.ndarray | None) -> np.ndarray:
    """A copy of `values` as float64, decoded as `channel_sums` decodes them."""
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        if values.dtype.kind == "f":
            return values.astype(np.float64)
        if table is not None:
            return np.asarray(table[values], np.float64)
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
