"""OPEN, its views: values that are not stored in the order in which they count, gathered by bounded reads.

A transposed or sliced tensor in a PyTorch file is a shape and strides over a storage. Nothing here reads more than
`SPAN` bytes at once, so a window over a view costs its own size, however large the storage behind it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

SPAN = 1 << 18  # bytes that are read at once, if a quarter of them is wanted
LEAST = 1 << 13  # bytes of which it does not matter how many are wanted


class View(NamedTuple):
    """Values from number `start` on, counted row-major, of a tensor whose strides count values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int


Read = Callable[[memoryview, int], None]


def gathered(read: Read, offset: int, width: int, view: View, count: int) -> np.ndarray:
    """The bytes of `count` values of `width` bytes, uint8 (count · width,); `read(into, at)` fills from the file.

    `offset` is where the tensor's first value is.
    """
    values = np.empty(count, f"u{width}" if width <= 8 else f"V{width}")
    scratch = np.empty(SPAN, np.uint8)
    at = 0
    for first, box in boxes(view.shape, view.start, view.start + count):
        size = math.prod(box)
        begin = offset + width * sum(i * stride for i, stride in zip(first, view.strides, strict=True))
        _fill(values[at : at + size].reshape(box), view.strides, begin, read, scratch)
        at += size
    return values.view(np.uint8)


def boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut values `start` to `stop` of an array, counted row-major, into boxes: where each begins, and its shape."""
    if start >= stop:
        return
    if not shape:
        yield (), ()
        return
    inner = math.prod(shape[1:])
    row, before = divmod(start, inner)
    last, after = divmod(stop, inner)
    if row == last:
        yield from (((row, *at), (1, *box)) for at, box in boxes(shape[1:], before, after))
        return
    if before:
        yield from (((row, *at), (1, *box)) for at, box in boxes(shape[1:], before, inner))
        row += 1
    if last > row:
        yield (row, *[0] * len(shape[1:])), (last - row, *shape[1:])
    yield from (((last, *at), (1, *box)) for at, box in boxes(shape[1:], 0, after))


def _fill(target: np.ndarray, strides: tuple[int, ...], begin: int, read: Read, scratch: np.ndarray) -> None:
    """Fill an array from strided values of a file: at once where they lie close, else one half after the other."""
    width = target.itemsize
    reach = [(n - 1) * stride for n, stride in zip(target.shape, strides, strict=True)]
    span = (1 + sum(reach)) * width
    if span <= LEAST or (span <= SPAN and span <= 4 * target.nbytes):
        source = scratch[:span]
        read(source.data, begin)
        target[...] = as_strided(source.view(target.dtype), target.shape, [stride * width for stride in strides])
        return
    axis = reach.index(max(reach))
    half = target.shape[axis] // 2
    before = (slice(None),) * axis
    _fill(target[(*before, slice(half))], strides, begin, read, scratch)
    _fill(target[(*before, slice(half, None))], strides, begin + half * strides[axis] * width, read, scratch)
