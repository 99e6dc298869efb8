"""OPEN, what container formats have in common: a header is its tensors' entries, and what is legal and odd in them.

A reader of a format is a function from an open file to a `Header` that obeys every rule of the format. It raises
ValueError with the end of a sentence; `formats.kinds` knows which file it is about, and raises HeaderError.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shardscan.errors import shown
from shardscan.shards.dtypes import DTYPES, MAX_DIMENSIONS
from shardscan.shards.sources.source import Witness

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
RESERVED_NAME = re.compile(r"c|zarr\.json|__.*__|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


class Entry(NamedTuple):
    """One tensor of a header; `begin` and `end` count bytes from where the header's body begins.

    `strides` count values, of a view whose values are not stored in their order: then `begin` is where the first is
    and `end` where the last ends, and there may be fewer or more bytes between than the values have.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    strides: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        """Of the values, which are not always those that are stored."""
        return DTYPES[self.dtype].nbytes(math.prod(self.shape))


@dataclass(frozen=True, slots=True)
class Header:
    """A header that obeys every rule: its tensors in its own order, the bytes that were read for it, their hash.

    `format` is the name of its container format. Entries count from `body`; `data_nbytes` are those of all tensors, or
    of all storages. `on_disk` is how many of the file's `nbytes` are there, where most are a hole that reads as zeros;
    `seen` witnesses which file this was.
    """

    format: str
    tensors: tuple[Entry, ...]
    body: int
    header_nbytes: int
    nbytes: int
    data_nbytes: int
    digest: str
    metadata: Mapping[str, str]
    notes: tuple[str, ...]
    on_disk: int | None
    seen: Witness


def these_have(names: Sequence[str]) -> str:
    """Begin a note on one tensor or on many, with one of their names."""
    return (
        f"The tensor {shown(names[0])} has"
        if len(names) == 1
        else f"{len(names):,} tensors, like {shown(names[0])}, have"
    )


def oddities(tensors: tuple[Entry, ...]) -> Iterator[str]:
    """Tell what is legal in names, shapes and dtypes, and surprises somebody further on; one sentence for each kind."""
    kinds: tuple[tuple[Callable[[Entry], bool], str], ...] = (
        (lambda e: not PLAIN_NAME.fullmatch(e.name) and _is_odd_text(e.name), "a name with unusual characters"),
        (
            lambda e: RESERVED_NAME.fullmatch(e.name) is not None,
            "a name that is reserved by Zarr, Windows or JavaScript",
        ),
        (lambda e: len(e.name.encode()) > 200, "a name too long for a file's"),
        (lambda e: len(e.shape) > MAX_DIMENSIONS, f"more than the {MAX_DIMENSIONS} dimensions that NumPy allows"),
        (lambda e: max(e.shape, default=0) >= 2**31 and _overflows_numpy(e.shape), "a shape that no array can have"),
        (lambda e: DTYPES[e.dtype].bits < 8, "a dtype below 8 bits, read as packed without padding"),
    )
    for is_odd, what in kinds:
        if names := [entry.name for entry in tensors if is_odd(entry)]:
            yield f"{these_have(names)} {what}"


def _is_odd_text(name: str) -> bool:
    """Empty, an option or a hidden file by its first character, or with anything but letters, marks, digits and ._-."""
    return name[:1] in ("", ".", "-") or not all(c in "._-" or unicodedata.category(c)[0] in "LMN" for c in name)


def _overflows_numpy(shape: tuple[int, ...]) -> bool:
    # NumPy multiplies the non-zero sizes into a signed 64-bit integer
    product = 1
    for size in shape:
        product *= size or 1
        if product >= 2**60:
            return True
    return False


def shown_shape(shape: Sequence[int]) -> str:
    """A shape as a message may carry it: its first dimensions, and how many there are."""
    sizes = list(shape[:8])
    return str(sizes) if len(shape) <= 8 else f"{str(sizes)[:-1]}, … {len(shape):,} dimensions]"
