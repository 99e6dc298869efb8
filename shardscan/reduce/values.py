"""REDUCE, its values: stored bytes as the arrays that kernels take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from shardscan.anatomy.axes import Run
from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.plan.tasks import ROW_MULTIPLE
from shardscan.reduce.kernels import cpu
from shardscan.shards.dtypes import DTYPES, codes, decode, pattern_values


def freeze(values: np.ndarray) -> np.ndarray:
    """In the one layout that kernels are compiled for."""
    view = np.ascontiguousarray(values).view()
    view.flags.writeable = False
    return view


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


def select_values(values: np.ndarray, rows: np.ndarray, cols: Run) -> np.ndarray:
    """Some rows of values (n, cols), by ascending indices, and some of their columns; a view where they are all."""
    down: slice | np.ndarray = rows
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        down = slice(int(rows[0]), int(rows[-1]) + 1)
    across: slice | np.ndarray = slice(cols.start, cols.start + len(cols))
    if cols.groups > 1:
        last = cols.start + (cols.groups - 1) * cols.stride
        across = cols.indices(0, len(cols)) if cols.length > 1 else slice(cols.start, last + 1, cols.stride)
    return freeze(values[down][:, across])


def matrix_rows(placed: Placed, matrix: Matrix, first: int, last: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The `first` to `last` of a matrix's rows as they are stored, and the table, as kernels take them."""
    rows, cols = placed.stored_shape
    indices = matrix.stored_rows.indices(first, last)
    # rows of dtypes under 8 bits begin on a byte
    start = int(indices[0]) // ROW_MULTIPLE * ROW_MULTIPLE
    stop = min(-(-(int(indices[-1]) + 1) // ROW_MULTIPLE) * ROW_MULTIPLE, rows)
    window = placed.tensor.rows(start, stop, cols)
    values, table = kernel_values(window.raw(), window.dtype, window.shape)
    return select_values(values, indices - start, matrix.stored_cols), table


def head_slices(placed: Placed, matrix: Matrix, heads: Iterable[int]) -> Iterator[np.ndarray]:
    """The float64 slices of some heads, of `Heads.slice_shape`; heads that are stored as columns are read together."""
    assert matrix.heads
    dim, together = matrix.heads.dim, None
    for head in heads:
        start = head * dim
        if matrix.stored_axis == "out":
            values, table = matrix_rows(placed, matrix, start, start + dim)
            weights = cpu.to_float64(values, table, 0, 0, np.empty((dim, values.shape[1])))
        else:
            together = together or matrix_rows(placed, matrix, 0, len(matrix.stored_rows))
            values, table = together
            weights = cpu.to_float64(values, table, 0, start, np.empty((len(values), dim)))
        yield weights.T if matrix.turned else weights
