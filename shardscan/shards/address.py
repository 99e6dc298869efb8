"""OPEN, its values: a tensor is an address, not an array.

Nothing here reads a byte until `Window.raw` or `Window.read` is called; until then a checkpoint of any size is a few
frozen values that pickle in microseconds and that any worker, thread or cluster node can open by itself.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shardscan.dtypes import DTYPES, decode
from shardscan.errors import CheckpointError, shown


@dataclass(frozen=True, slots=True)
class Window:
    """A run of whole rows of one tensor: what one worker reads at a time."""

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return DTYPES[self.dtype].nbytes(math.prod(self.shape))

    def raw(self) -> np.ndarray:
        """The bytes as stored: uint8 `(nbytes,)`, mapped, not copied; the pages leave memory with the last view."""
        if not self.nbytes:
            return np.empty(0, np.uint8)
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        fd = os.open(self.path, os.O_RDONLY)
        try:
            mapped = mmap.mmap(fd, self.offset + self.nbytes - start, access=mmap.ACCESS_READ, offset=start)
        except ValueError as error:
            raise self.too_short() from error
        finally:
            os.close(fd)
        return np.frombuffer(mapped, np.uint8, self.nbytes, self.offset - start)

    def too_short(self) -> CheckpointError:
        """What to raise where the file ends within the window."""
        return CheckpointError(f"{self.path} is shorter than its header says: it changed after it was opened.")

    def read(self) -> np.ndarray:
        """The values in `shape`: a view where NumPy has the dtype, else decoded to float32 (see `shardscan.dtypes`)."""
        return decode(self.raw(), self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a shard; valid by construction: its bytes are exactly what dtype and shape need."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    path: str
    offset: int
    nbytes: int

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
            return Window(self.path, self.offset, self.dtype, ())
        stop = self.shape[0] if stop is None else stop
        before = DTYPES[self.dtype].nbytes(start * math.prod(self.shape[1:])) if start else 0
        return Window(self.path, self.offset + before, self.dtype, (stop - start, *self.shape[1:]))

    def rows(self, first: int, last: int, cols: int) -> Window:
        """Rows `first` to `last` where it is seen as rows of `cols` values; see `window` for dtypes under 8 bits."""
        before = DTYPES[self.dtype].nbytes(first * cols) if first else 0
        return Window(self.path, self.offset + before, self.dtype, (last - first, cols))


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file of a checkpoint: its name in the folder, where it really is, its sizes and what its header hashes to."""

    name: str
    path: str
    nbytes: int
    header_nbytes: int
    header_digest: str
    tensors: int


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

    @property
    def parameters(self) -> int:
        return sum(t.parameters for t in self.tensors.values())

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())
