"""REDUCE on the CPU, its values: how a stored element becomes a number, in a kernel and in an array."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from shardscan.reduce.kernels.cpu.compiler import kernel

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


@kernel()
def is_finite(x):
    """By its bits: compiled for speed, a comparison may be assumed never to meet a NaN."""
    return (np.float64(x).view(np.uint64) & _EXPONENT) != _EXPONENT


@kernel()
def _decode(values, table, top, left, out):
    for i in range(out.shape[0]):
        row, to = values[top + i, left : left + out.shape[1]], out[i]
        for j in range(to.size):
            to[j] = load(row, table, j)


def to_float64(values: np.ndarray, table: np.ndarray | None, top: int, left: int, out: np.ndarray) -> np.ndarray:
    """A piece of `values` (rows, cols), from this corner and of the shape of `out`, decoded into `out`.

    That is float64, or float32 where `values` are float32 or of at most 16 bits, which it holds exactly. `values` and
    `table` are as `channel_sums` takes them.
    """
    _decode(values, table, top, left, out)
    return out
