"""OPEN, its values: a tensor is an address, not an array.

Nothing here reads a byte until `Window.raw` or `Window.read` is called; until then a checkpoint of any size is a few
frozen values that pickle in microseconds and that any worker, thread or cluster node can open by itself. What cannot be
read is a CheckpointError.
What is at an address is known to its source alone (`shardscan.shards.sources`): a disk of this machine, or another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from shardscan.errors import CheckpointError, shown
from shardscan.shards.dtypes import DTYPES, decode
from shardscan.shards.sources.schemes import source_of
from shardscan.shards.sources.source import Witness
from shardscan.shards.strided import View, gathered


@dataclass(frozen=True, slots=True)
class Window:
    """A run of whole rows of one tensor: what one worker reads at a time.

    Of a `view`, whose values are not stored in their order, `offset` is where the tensor's first value is.
    """

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    mapped: bool = True
    view: View | None = None

    @property
    def nbytes(self) -> int:
        return DTYPES[self.dtype].nbytes(math.prod(self.shape))

    def raw(self) -> np.ndarray:
        """The bytes as stored: uint8 `(nbytes,)`; where `mapped`, not copied: pages leave memory with the last view.

        Those of a view are gathered, in the order of its values: a copy, and never mapped.
        """
        if not self.nbytes:
            return np.empty(0, np.uint8)
        source = source_of(self.path)
        if self.view:
            width, count = DTYPES[self.dtype].bits // 8, math.prod(self.shape)
            with source.open_to_fill(self.path) as fill:
                return gathered(fill, self.offset, width, self.view, count)
        if self.mapped:
            return source.map_range(self.path, self.offset, self.nbytes)
        into = np.empty(self.nbytes, np.uint8)
        source.read_into(self.path, into.data, self.offset, self.nbytes)
        return into

    def read(self) -> np.ndarray:
        """The values in `shape`: a view where NumPy has the dtype, else decoded to float32 (see `dtypes`)."""
        return decode(self.raw(), self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a shard; valid by construction: its bytes are exactly what dtype and shape need.

    `mapped` says how its windows are read. `strides` count values and are None where those are stored in their order;
    otherwise `nbytes` are of the values, and how many of the file's those share is another matter.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    path: str
    offset: int
    nbytes: int
    mapped: bool = True
    strides: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        needed = DTYPES[self.dtype].nbytes(self.parameters)
        if needed != self.nbytes:
            kind = f"{self.dtype} {list(self.shape)}"
            raise CheckpointError(f"{self.file}: {shown(self.name)} has {self.nbytes} bytes; {kind} needs {needed}.")

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    def window(self, start: int = 0, stop: int | None = None) -> Window:
        """Rows `start` to `stop` along the first axis; a 0-d tensor is one row.

        Rows of a dtype under 8 bits must begin on a byte: multiples of 8 always do.
        """
        if not self.shape:
            return self.run(0, ())
        stop = self.shape[0] if stop is None else stop
        return self.run(start * math.prod(self.shape[1:]), (stop - start, *self.shape[1:]))

    def rows(self, first: int, last: int, cols: int) -> Window:
        """Rows `first` to `last` where it is seen as rows of `cols` values; see `window` for dtypes under 8 bits."""
        return self.run(first * cols, (last - first, cols))

    def run(self, start: int, shape: tuple[int, ...]) -> Window:
        """Values from number `start` on, counted row-major, in any shape; they begin on a byte."""
        if self.strides is not None:
            return Window(self.path, self.offset, self.dtype, shape, False, View(self.shape, self.strides, start))
        before = DTYPES[self.dtype].nbytes(start) if start else 0
        return Window(self.path, self.offset + before, self.dtype, shape, self.mapped)


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file of a checkpoint: its name in the folder, where it really is, its sizes and what its header hashes to.

    `data_nbytes` are of all tensors or storages, `used_nbytes` those of them that tensors of the checkpoint have, each
    byte once; the rest of the file is the header and what the format needs. `tensors` are all of its header. `seen` is
    the witness that its source gave of it when its header was read.
    """

    name: str
    path: str
    nbytes: int
    header_nbytes: int
    data_nbytes: int
    used_nbytes: int
    header_digest: str
    tensors: int
    seen: Witness


@dataclass(frozen=True)
class Checkpoint(Mapping[str, Tensor]):
    """Every tensor of a model by name, in header order, with the config beside it.

    `notes` are oddities that a user should hear about and that do not stop the reading.
    """

    path: str
    name: str
    format: str
    files: tuple[ShardFile, ...]
    tensors: Mapping[str, Tensor] = field(repr=False)
    config: Mapping[str, Any] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @cached_property
    def shared(self) -> Mapping[str, str]:
        """Tensors that have the very bytes of one before them, as tied weights have: their name to its name."""
        first_of: dict[tuple[object, ...], str] = {}
        shared = {}
        for name, t in self.tensors.items():
            where = t.path, t.offset, t.nbytes, t.dtype, t.strides, t.strides and t.shape
            if t.nbytes and (first := first_of.setdefault(where, name)) != name:
                shared[name] = first
        return shared

    @property
    def parameters(self) -> int:
        """Values of all tensors; of those that have the very same bytes of one."""
        return sum(t.parameters for name, t in self.tensors.items() if name not in self.shared)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())
