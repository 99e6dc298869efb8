"""REDUCE, its values: stored bytes as the arrays that kernels take."""

from __future__ import annotations

import math

import numpy as np

from shardscan.anatomy import Heads
from shardscan.dtypes import DTYPES, codes, decode, pattern_values
from shardscan.kernels import cpu
from shardscan.plan import ROW_MULTIPLE
from shardscan.shards.address import Tensor


def kernel_values(raw: np.ndarray, dtype: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """What kernels take: values (rows, cols) and their table. Views where they can be; always aligned and read-only.

    Complex values become their moduli, integers of 32 bits and more float64.
    """
    info = DTYPES[dtype]
    table = None if info.bits > 16 or dtype == "BF16" else pattern_values(dtype)
    values: np.ndarray
    if info.bits <= 16:
        values = codes(raw, dtype)
    else:
        values = decode(raw, dtype, (math.prod(shape),))
        if info.kind == "complex":
            with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
                values = np.abs(values.astype(np.complex128))
        elif info.kind == "int":
            values = values.astype(np.float64)
    # one layout for all: numba compiles a signature for each
    values = np.require(values.reshape(shape), requirements=["C", "A"]).view()
    values.flags.writeable = False
    return values, table


def head_slice(tensor: Tensor, heads: Heads, head: int) -> np.ndarray:
    """The float64 slice of one head, of `Heads.slice_shape`; nothing else of a tensor whose heads are rows is read."""
    start, stop = head * heads.dim, (head + 1) * heads.dim
    first, last = 0, tensor.shape[0]
    if heads.axis == "out":
        first, last = start // ROW_MULTIPLE * ROW_MULTIPLE, min(-(-stop // ROW_MULTIPLE) * ROW_MULTIPLE, last)
    window = tensor.window(first, last)
    values, table = kernel_values(window.raw(), window.dtype, (last - first, math.prod(tensor.shape[1:])))
    if heads.axis == "in":
        return cpu.to_float64(values, table, 0, start, np.empty((last, heads.dim)))
    return cpu.to_float64(values, table, start - first, 0, np.empty((heads.dim, values.shape[1])))
