"""OPEN, a source: how the bytes behind an address are reached.

An address is a text that any thread, process or node can open by itself: a path on a disk, or `scheme://place/name`.
A source that has names, sizes and ranges of bytes needs no more than `list_names`, `take_witness` and `read_range`; all
else follows from those. A disk does much of it better, and says so in `sources.local`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

import numpy as np

from shardscan.errors import CheckpointError, OptionError, shown

IO = ("auto", "mmap", "read")

# device, inode, size and time of change: equal only if nobody wrote to the file; a copy differs
Witness = tuple[int, int, int, int]
Kind = Literal["folder", "file", "other", "nothing"]
Fill = Callable[[memoryview, int], None]


class StoredFile(Protocol):
    """A file that is open for reading: what a header's reader gets.

    `size` and `witness` are of the moment in which it was opened; `on_disk` is how many of its bytes are there, where
    most are a hole that reads as zeros, and None of every other file.
    """

    size: int
    witness: Witness
    on_disk: int | None

    def seek(self, place: int, /) -> int:
        """Go to a place."""

    def read(self, length: int, /) -> bytes:
        """At most `length` bytes from there on, fewer only at the end of the file."""

    def read_at(self, start: int, length: int) -> bytes:
        """At most `length` bytes from `start` on, wherever the file is at."""


class Source(ABC):
    """How what lies below the addresses of one scheme is listed and read. It has no state that a worker would need."""

    @abstractmethod
    def list_names(self, folder: str) -> list[str]:
        """What lies directly in a folder, files and folders; OSError where that is none."""

    @abstractmethod
    def take_witness(self, address: str) -> Witness:
        """What tells this file from what it is after a change; OSError where it is none. The third number is its size.

        The first may differ from one node of a cluster to the next, and is not compared.
        """

    @abstractmethod
    def read_range(self, address: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on, fewer only where the file ends; OSError where it cannot be read."""

    def find_kind(self, address: str) -> Kind:
        """What is at an address."""
        try:
            self.take_witness(address)
        except OSError:
            pass
        else:
            return "file"
        try:
            self.list_names(address)
        except OSError:
            return "nothing"
        return "folder"

    def is_listed(self, address: str) -> bool:
        """Whether anything is there, be it a link to nowhere."""
        return self.find_kind(address) != "nothing"

    def make_absolute(self, address: str) -> str:
        """The same address, as it may be kept."""
        return address.rstrip("/")

    def resolve(self, address: str) -> str:
        """The address without links."""
        return address

    def identify(self, address: str) -> object:
        """What two names of one file have in common."""
        return address

    def list_entries(self, folder: str) -> Iterable[tuple[str, bool]]:
        """What lies in a folder, in the order of names, and whether it is a folder, which a link to one is not."""
        return [(name, self.find_kind(join(folder, name)) == "folder") for name in sorted(self.list_names(folder))]

    def describe_special(self, address: str) -> str | None:
        """What is at an address that is no file and never ends as one, such as "a FIFO"; OSError if nothing is."""
        return None

    def is_link(self, address: str) -> bool:
        """Whether an address leads to another."""
        return False

    def open_file(self, address: str) -> AbstractContextManager[StoredFile]:
        """Open a regular file for reading; ValueError, the end of a sentence, where it is none, and OSError."""
        return _open_ranges(self, address)

    def read_small(self, address: str, limit: int) -> str:
        """Read a small UTF-8 text file of at most `limit` bytes; ValueError and OSError. A byte order mark stays."""
        with self.open_file(address) as file:
            return decode_text(file.read(limit + 1), limit)

    @contextmanager
    def open_to_fill(self, address: str) -> Iterator[Fill]:
        """A function that fills memory with all the bytes from a place on; CheckpointError where they are not there."""
        yield lambda into, start: self.read_into(address, into, start, len(into))

    def read_into(self, address: str, into: memoryview, start: int, least: int) -> None:
        """Fill `into` with bytes from `start` on, as far as the file goes; CheckpointError where that is below `least`.

        At most what is needed is asked for at once, and no more than is asked for is taken.
        """
        filled = 0
        try:
            while filled < len(into) and (data := self.read_range(address, start + filled, len(into) - filled)):
                data = data[: len(into) - filled]
                into[filled : filled + len(data)] = data
                filled += len(data)
        except OSError as error:
            raise unreadable(address, error) from error
        if filled < least:
            raise too_short(address)

    def decide_mapping(self, io: str) -> Callable[[Witness], bool]:
        """Whether a file is to be mapped, by its witness, where `io` is one of IO; OptionError where it is not."""
        check_io(io)
        return lambda witness: False

    def map_range(self, address: str, start: int, length: int) -> np.ndarray:
        """Bytes as uint8 (length,), of which none is read before somebody looks at it; of files that may be mapped."""
        raise CheckpointError(f"{shown(address, 400)} cannot be mapped into memory: its source reads ranges only.")

    def is_to_bypass_cache(self, address: str, start: int, length: int) -> bool:
        """Whether bytes are to be read by `read_directly`, since no cache of the system's has them."""
        return False

    def read_directly(self, address: str, into: memoryview, start: int, least: int) -> bool:
        """Like `read_into`, past the system's cache; False where there is no such way."""
        return False


class _Ranges:
    """A file of a source that has ranges only, as one that can be read in order."""

    def __init__(self, source: Source, address: str) -> None:
        self.on_disk: int | None = None
        self.witness = source.take_witness(address)
        self.size = self.witness[2]
        self._source, self._address, self._place = source, address, 0

    def seek(self, place: int, /) -> int:
        self._place = place
        return place

    def read(self, length: int, /) -> bytes:
        data = self.read_at(self._place, length)
        self._place += len(data)
        return data

    def read_at(self, start: int, length: int) -> bytes:
        length = max(0, min(length, self.size - start))
        data = b""
        while len(data) < length:
            more = self._source.read_range(self._address, start + len(data), length - len(data))
            if not more:
                break
            data += more
        return data[:length]


@contextmanager
def _open_ranges(source: Source, address: str) -> Iterator[StoredFile]:
    try:
        file = _Ranges(source, address)
    except FileNotFoundError:
        raise ValueError("is not there") from None
    yield file


def decode_text(data: bytes, limit: int) -> str:
    """UTF-8 text of at most `limit` bytes; ValueError of what is longer, or no text."""
    if len(data) > limit:
        raise ValueError(f"is longer than the {limit:,} bytes that such a file may have")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start:,})") from None


def join(folder: str, name: str) -> str:
    """The address of what is called `name` in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def parent_of(address: str) -> str:
    """The address of the folder that something is in."""
    return address.rpartition("/")[0] or "/"


def name_of(address: str) -> str:
    """The name of something in its folder."""
    return address.rpartition("/")[2]


def is_below(address: str, folder: str) -> bool:
    """Whether an address is that of a folder or of anything below it; both without links."""
    return address == folder or address.startswith(f"{folder.rstrip('/')}/")


def check_io(io: str) -> None:
    """OptionError unless `io` is one of IO."""
    if io not in IO:
        raise OptionError(f"{shown(io)} is no --io: take {', '.join(IO)}.")


def unreadable(address: str, error: OSError) -> CheckpointError:
    """The error of a file that could be read when its header was."""
    return CheckpointError(f"{address} cannot be read: {error.strerror or error}.")


def too_short(address: str) -> CheckpointError:
    """The error of a file that has lost its end."""
    return CheckpointError(f"{address} is shorter than its header says: it changed after it was opened.")
