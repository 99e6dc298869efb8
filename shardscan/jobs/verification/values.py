"""VERIFY, its arrays: NaN, infinities, zeros and constants in stored bytes. Pure: arrays in, values out.

Nothing is decoded where nothing is wrong: a float of 16 bits or more is finite unless its exponent is all ones, and of
8 bits only a few patterns are not. Tiles stay in a core's cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from shardscan.shards.dtypes import DTYPES, decode, pattern_values

TILE = 1 << 18  # bytes; a multiple of every dtype's that has NaN or infinities
BLOCK = 1 << 16  # bytes that are looked at together for zeros
# how wide a float is, and its exponent; a complex number is two of them
EXPONENTS = {
    "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F800000), "C64": ("<u4", 0x7F800000),
    "F64": ("<u8", 0x7FF0000000000000), "C128": ("<u8", 0x7FF0000000000000),
}  # fmt: skip


class NonFinite(NamedTuple):
    """How many NaN and infinite values there are, and the number of the first of each, counted from 0."""

    nans: int = 0
    infs: int = 0
    first_nan: int | None = None
    first_inf: int | None = None

    def then(self, other: NonFinite, before: int) -> NonFinite:
        """Join with what comes behind these `before` values."""
        return NonFinite(
            self.nans + other.nans,
            self.infs + other.infs,
            _earlier(self.first_nan, other.first_nan, before),
            _earlier(self.first_inf, other.first_inf, before),
        )


def _earlier(first: int | None, later: int | None, before: int) -> int | None:
    """The first of a kind: the one there is already, or that of the values which come behind these `before`."""
    if first is not None:
        return first
    return None if later is None else later + before


def non_finite(raw: np.ndarray, code: str) -> NonFinite:
    """NaN and infinite values in `raw`, uint8 (nbytes,), of whole values of dtype `code`; a complex one counts once."""
    odd_values = NonFinite()
    if code not in EXPONENTS and not _patterns(code):
        return odd_values
    for start in range(0, len(raw), TILE):
        tile = raw[start : start + TILE]
        if _is_finite(tile, code):
            continue
        values = decode(tile, code, (len(tile) * 8 // DTYPES[code].bits,))
        nan = np.isnan(values)
        nans, infs = np.flatnonzero(nan), np.flatnonzero(np.isinf(values) & ~nan)
        of_tile = NonFinite(len(nans), len(infs), _first(nans), _first(infs))
        odd_values = odd_values.then(of_tile, start * 8 // DTYPES[code].bits)
    return odd_values


def _first(places: np.ndarray) -> int | None:
    return int(places[0]) if len(places) else None


def _is_finite(tile: np.ndarray, code: str) -> bool:
    if code not in EXPONENTS:
        return not any((tile == pattern).any() for pattern in _patterns(code))
    unsigned, exponent = EXPONENTS[code]
    bits = np.require(tile.view(unsigned), requirements="A")
    return bool((bits & bits.dtype.type(exponent)).max() < exponent)


@cache
def _patterns(code: str) -> tuple[np.uint8, ...]:
    """The bit patterns of an 8-bit float that are not finite; none of any other dtype."""
    dtype = DTYPES[code]
    if dtype.kind != "float" or dtype.bits != 8:
        return ()
    return tuple(np.flatnonzero(~np.isfinite(pattern_values(code))).astype(np.uint8))


def constant(raw: np.ndarray, code: str) -> bytes | None:
    """The value, as stored, that all of `raw` has; None where they differ. Of dtypes under 8 bits, a few at once."""
    nbytes = {4: 1, 6: 3}.get(DTYPES[code].bits, DTYPES[code].bits // 8)
    for length in (1 << 12, len(raw)):  # most tensors show it at once
        beginning = raw[:length]
        if not np.array_equal(beginning[nbytes:], beginning[:-nbytes]):
            return None
    return raw[:nbytes].tobytes()


def zero_runs(raw: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where zero bytes begin and end: every run of at least two blocks, and whatever touches an end of `raw`."""
    count = -(-len(raw) // BLOCK)
    empty = {i for i in np.flatnonzero(raw[::BLOCK] == 0).tolist() if not _block(raw, i).any()}
    full = [i for i in range(count) if i not in empty]
    for before, after in pairwise([-1, *full, count]):
        if after - before > 1 or before < 0 or after == count:
            start = before * BLOCK + 1 + int(np.flatnonzero(_block(raw, before))[-1]) if before >= 0 else 0
            stop = after * BLOCK + int(np.flatnonzero(_block(raw, after))[0]) if after < count else len(raw)
            if start < stop:
                yield start, stop


def _block(raw: np.ndarray, number: int) -> np.ndarray:
    return raw[number * BLOCK : (number + 1) * BLOCK]


def joined(runs: Iterable[tuple[int, int]], least: int) -> list[tuple[int, int]]:
    """Ascending runs as one where they touch, less those that are shorter than `least`."""
    longer: list[tuple[int, int]] = []
    for start, stop in runs:
        if longer and longer[-1][1] == start:
            longer[-1] = (longer[-1][0], stop)
            continue
        if longer and longer[-1][1] - longer[-1][0] < least:
            longer.pop()
        longer.append((start, stop))
    return [(start, stop) for start, stop in longer if stop - start >= least]
