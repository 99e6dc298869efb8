"""OPEN, what a PyTorch pickle is read as: plain data, and inert values in the place of everything else.

A `Global` is a name, and never the thing that it names. Values compare by identity: a hash or a comparison that follows
what strangers nested would run out of stack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shardscan.errors import shown
from shardscan.shards.dtypes import DTYPES


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A name that a pickle wants imported; nothing ever is."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Node:
    """An object of a module or NumPy, never made: what was named, and the attributes that it was given last."""

    of: Global
    attributes: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of bytes that tensors are views of, by its key in the file; an untyped one has bytes (U8) for values."""

    key: str
    dtype: str
    is_typed: bool
    count: int

    @property
    def nbytes(self) -> int:
        return DTYPES[self.dtype].nbytes(self.count)


@dataclass(frozen=True, slots=True, eq=False)
class Strided:
    """A tensor: a view of a storage, `offset` bytes into it; strides count values, None where those are in order.

    `is_outside`: it is empty, and begins where its storage has nothing.
    """

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    offset: int
    is_outside: bool = False

    @property
    def nbytes(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return DTYPES[self.dtype].nbytes(count)

    @property
    def reach(self) -> int:
        """Bytes from the first value to the end of the last."""
        if self.strides is None:
            return self.nbytes
        width = DTYPES[self.dtype].bits // 8
        return width * (1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)))


def shown_key(key: Any) -> str:
    """A key of a dict as a message may carry it."""
    return shown(key) if type(key) is str else repr(key[:100] if type(key) is bytes else key)


# what may be a key of a dict or a member of a set: values whose hash and comparison end at themselves
KEYS = (str, int, float, bool, bytes, type(None))
LARGE = 1 << 60  # whole numbers from here on can be chosen to have one hash, and a dict of them takes for ever


def is_key(value: Any) -> bool:
    """Whether a value may be the key of a dict or in a set; ValueError for a number that no state dict has there."""
    if type(value) is int and not -LARGE < value < LARGE:
        raise ValueError(f"has the number {value} as a key in its pickle, which no state dict needs")
    return type(value) in KEYS


def kind(value: Any) -> str:
    """What a value is, in a word of a message."""
    match value:
        case Strided():
            return "a tensor"
        case Storage():
            return "a storage"
        case Global():
            return f"the name {value}"
        case Node():
            return f"an object of {value.of}"
    return f"a {type(value).__name__}"
