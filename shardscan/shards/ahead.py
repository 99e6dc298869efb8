"""OPEN, its reading ahead: windows of a local disk come into memory in order while others are being reduced.

A mapped page that is not in memory stops the worker that touches it, and its way through the page cache takes more of a
core than the values on it. So what the cache does not hold is read past it (O_DIRECT) into a few buffers, by a thread
that costs nearly nothing; what the cache does hold is mapped. Where a system or a file system has no such reads,
everything is mapped.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from shardscan.shards.address import Window

SECTOR = 4096  # direct reads begin and end on multiples of it, in file and memory
DIRECT: int | None = getattr(os, "O_DIRECT", None)
DEPTH = 2  # windows that are read before they are asked for


class Ahead:
    """Reads `windows` in order, `DEPTH` of them before they are asked for; to be used in a `with` statement.

    `raw` may be called from any thread, in about that order; for a window that is not among them it maps the file.
    """

    def __init__(self, windows: Iterable[Window]) -> None:
        self._windows = [window for window in windows if window.nbytes]
        self._numbers = {window: number for number, window in enumerate(self._windows)}
        self._begun = 0
        self._coming: dict[Window, Future[_Buffer | None]] = {}
        self._free: list[_Buffer] = []
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, "ahead")

    def __enter__(self) -> Self:
        self._begin(DEPTH)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._reader.shutdown(cancel_futures=True)

    @contextmanager
    def raw(self, window: Window) -> Iterator[np.ndarray]:
        """What `Window.raw` gives, for as long as the context lasts. Raises OSError and CheckpointError."""
        self._begin(self._numbers.get(window, -1) + 1 + DEPTH)
        with self._lock:
            coming = self._coming.pop(window, None)
        buffer = coming.result() if coming else None
        if buffer is None:
            yield window.raw()
            return
        try:
            yield buffer.held
        finally:
            with self._lock:
                self._free.append(buffer)

    def _begin(self, number: int) -> None:
        """Have the first `number` windows read."""
        with self._lock:
            for window in self._windows[self._begun : number]:
                self._coming[window] = self._reader.submit(self._fetch, window)
            self._begun = max(self._begun, number)

    def _fetch(self, window: Window) -> _Buffer | None:
        if DIRECT is None or _is_cached(window):
            return None
        with self._lock:
            buffer = self._free.pop() if self._free else _Buffer()
        return buffer if buffer.fill(window) else None


class _Buffer:
    """Anonymous memory on page borders, as large as the largest window it has held; `held` is what it holds now."""

    def __init__(self) -> None:
        self._memory = _anonymous(SECTOR)
        self.held = np.empty(0, np.uint8)

    def fill(self, window: Window) -> bool:
        """Read a window past the cache; False where its file system has no such reads."""
        start = window.offset - window.offset % SECTOR
        length = window.offset + window.nbytes - start
        room = -(-length // SECTOR) * SECTOR
        if len(self._memory) < room:
            self.held = np.empty(0, np.uint8)  # else the smaller memory stays until the next read is done
            self._memory = _anonymous(room)
        try:
            read = _read_direct(window.path, start, memoryview(self._memory)[:room])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTSUP):
                return False
            raise
        if read < length:
            raise window.too_short()
        self.held = np.frombuffer(self._memory, np.uint8, window.nbytes, window.offset - start)
        return True


def _anonymous(nbytes: int) -> mmap.mmap:
    # not shared, as Python's default is: such memory would not count as anonymous
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _read_direct(path: str, start: int, into: memoryview) -> int:
    """Fill `into` from byte `start` on, as far as the file goes; the bytes read."""
    fd = os.open(path, os.O_RDONLY | (DIRECT or 0))
    try:
        read = more = os.preadv(fd, [into], start)
        while more and read % SECTOR == 0 and read < len(into):  # anywhere else is the file's end
            more = os.preadv(fd, [into[read:]], start + read)
            read += more
        return read
    finally:
        os.close(fd)


def _is_cached(window: Window) -> bool:
    """Whether the page cache holds at least half of a window, which mincore(2) tells without reading.

    It tells the owner of a file and who may write it; to others it calls every page cached, and False stands for that.
    """
    if Path(window.path).stat().st_uid != os.geteuid() and not os.access(window.path, os.W_OK):
        return False
    raw = window.raw()
    start = raw.ctypes.data - raw.ctypes.data % mmap.PAGESIZE
    length = raw.ctypes.data + raw.nbytes - start
    pages = np.zeros(-(-length // mmap.PAGESIZE), np.uint8)
    failed = ctypes.CDLL(None).mincore(
        ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_void_p(pages.ctypes.data)
    )
    return bool(failed or 2 * np.count_nonzero(pages & 1) >= len(pages))
