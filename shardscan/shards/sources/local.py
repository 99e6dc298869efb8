"""OPEN, its disks: files of this machine, which can be mapped, and read past the page cache where that is faster.

Opening never waits: a FIFO or a device in the place of a file is refused. A mapped file that loses its end while it is
mapped kills the process (SIGBUS); one that is read into memory instead, as those on a network are, costs the window.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shardscan.errors import CheckpointError
from shardscan.shards.sources import disks
from shardscan.shards.sources.source import (
    Fill,
    Kind,
    Source,
    StoredFile,
    Witness,
    too_short,
    unreadable,
)

SECTOR = 4096  # direct reads begin and end on multiples of it, in file and memory
DIRECT: int | None = getattr(os, "O_DIRECT", None)
SPECIAL = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a disk"))


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open a regular file for reading; ValueError for anything else, without ever waiting for it."""
    try:
        # a plain open of a FIFO waits for a writer for ever
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ValueError(
            "is not there" if not Path(path).is_symlink() else "is a link to a file that is not there"
        ) from None
    except OSError as error:
        raise ValueError(f"cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("is not a regular file")
    with open(fd, "rb") as file:
        yield file


def witness_of(status: os.stat_result) -> Witness:
    """Device, inode, size and time of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class LocalFile:
    """A regular file of this machine, as the readers of headers see it."""

    def __init__(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        self.size, self.witness, self.on_disk = status.st_size, witness_of(status), _count_bytes_on_disk(status)
        self.seek, self.read, self._fd = file.seek, file.read, file.fileno()

    def read_at(self, start: int, length: int) -> bytes:
        return os.pread(self._fd, length, start)


class LocalDisk(Source):
    """Paths of this machine. Relative ones count from the current folder."""

    def list_names(self, folder: str) -> list[str]:
        return os.listdir(folder)  # noqa: PTH208

    def take_witness(self, address: str) -> Witness:
        return witness_of(os.stat(address))  # noqa: PTH116

    def read_range(self, address: str, start: int, length: int) -> bytes:
        with opened(address) as file:
            return os.pread(file.fileno(), length, start)

    def find_kind(self, address: str) -> Kind:
        where = Path(address)
        try:
            return (
                "folder" if where.is_dir() else "file" if where.is_file() else "other" if where.exists() else "nothing"
            )
        except (OSError, ValueError):
            return "nothing"

    def is_listed(self, address: str) -> bool:
        return os.path.lexists(address)

    def make_absolute(self, address: str) -> str:
        return os.path.abspath(address)  # noqa: PTH100 - not resolved: people know the model by the link's name

    def resolve(self, address: str) -> str:
        return os.path.realpath(address)

    def identify(self, address: str) -> object:
        return self.take_witness(address)[:2]

    def list_entries(self, folder: str) -> Iterable[tuple[str, bool]]:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        return ((entry.name, entry.is_dir(follow_symlinks=False)) for entry in ordered)

    def describe_special(self, address: str) -> str | None:
        mode = os.stat(address).st_mode  # noqa: PTH116
        return next((kind for is_kind, kind in SPECIAL if is_kind(mode)), None)

    def is_link(self, address: str) -> bool:
        return os.path.islink(address)  # noqa: PTH114

    @contextmanager
    def open_file(self, address: str) -> Iterator[StoredFile]:
        with opened(address) as file:
            yield LocalFile(file)

    @contextmanager
    def open_to_fill(self, address: str) -> Iterator[Fill]:
        with _opened_again(address) as fd:
            yield lambda into, start: _fill(fd, address, into, start, len(into))

    def read_into(self, address: str, into: memoryview, start: int, least: int) -> None:
        with _opened_again(address) as fd:
            _fill(fd, address, into, start, least)

    def decide_mapping(self, io: str) -> Callable[[Witness], bool]:
        is_mapped = disks.mapping(io)
        return lambda witness: is_mapped(witness[0])

    def map_range(self, address: str, start: int, length: int) -> np.ndarray:
        page = start - start % mmap.ALLOCATIONGRANULARITY
        with _opened_again(address) as fd:
            try:
                pages = mmap.mmap(fd, start + length - page, access=mmap.ACCESS_READ, offset=page)
            except ValueError as error:
                raise too_short(address) from error
        return np.frombuffer(pages, np.uint8, length, start - page)

    def is_to_bypass_cache(self, address: str, start: int, length: int) -> bool:
        return DIRECT is not None and not is_cached(address, start, length)

    def read_directly(self, address: str, into: memoryview, start: int, least: int) -> bool:
        try:
            with _opened_again(address, DIRECT or 0) as fd:
                _fill(fd, address, into, start, least, is_direct=True)
        except CheckpointError as error:
            if getattr(error.__cause__, "errno", None) in (errno.EINVAL, errno.ENOTSUP):
                return False  # this file system has no such reads
            raise
        return True


def is_cached(path: str, start: int, length: int) -> bool:
    """Whether the page cache holds at least half of these bytes, which mincore(2) tells without reading.

    It tells the owner of a file and who may write it; to others it calls every page cached, and False stands for that.
    """
    try:
        is_told = Path(path).stat().st_uid == os.geteuid() or os.access(path, os.W_OK)
    except OSError:
        return False  # reading it will say so
    if not is_told:
        return False
    raw = LOCAL.map_range(path, start, length)
    first = raw.ctypes.data - raw.ctypes.data % mmap.PAGESIZE
    size = raw.ctypes.data + raw.nbytes - first
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    failed = ctypes.CDLL(None).mincore(
        ctypes.c_void_p(first), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)
    )
    return bool(failed or 2 * np.count_nonzero(pages & 1) >= len(pages))


@contextmanager
def _opened_again(path: str, flags: int = 0) -> Iterator[int]:
    """The descriptor of a file whose header was read before; CheckpointError where it is no file any more."""
    try:
        # a shard that became a FIFO since its header was read would be waited for
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CheckpointError(f"{path} is not a regular file any more: it changed after it was opened.")
            yield fd
        finally:
            os.close(fd)
    except CheckpointError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error


def _fill(fd: int, path: str, into: memoryview, start: int, least: int, *, is_direct: bool = False) -> None:
    """Fill memory from a file; a direct read that ends off a sector is the last."""
    filled = more = os.preadv(fd, [into], start)
    while more and filled < least and not (is_direct and filled % SECTOR):
        more = os.preadv(fd, [into[filled:]], start + filled)
        filled += more
    if filled < least:
        raise too_short(path)


def _count_bytes_on_disk(status: os.stat_result) -> int | None:
    """How many bytes of a file are there, where most are a hole; None of a file that is there."""
    present = status.st_blocks * 512
    return present if status.st_size > 1 << 20 and present < status.st_size // 8 else None


LOCAL = LocalDisk()
