"""OPEN, its reading ahead: windows of a local disk come into memory in order while others are being reduced.

A mapped page that is not in memory stops the worker that touches it, and its way through the page cache takes more of a
core than the values on it. So what the cache does not hold is read past it (O_DIRECT) into a few buffers, by a thread
that costs nearly nothing; what the cache does hold is mapped, and so is everything where a system or a file system has
no such reads. Windows that are not to be mapped are read into the same buffers, through the cache if need be.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import numpy as np

from shardscan.shards.address import Window
from shardscan.shards.sources.local import SECTOR
from shardscan.shards.sources.schemes import source_of

DEPTH = 2  # windows that are read before they are asked for


class Ahead:
    """Reads `windows` in order, `depth` of them before they are asked for; to be used in a `with` statement.

    `raw` may be called from any thread, in about that order; a window that is not among them is not read ahead, nor is
    one of a view, whose bytes do not lie together. One that comes twice is read twice, each time when its turn comes.
    """

    def __init__(self, windows: Iterable[Window], depth: int = DEPTH) -> None:
        self._depth = depth
        self._windows = [window for window in windows if window.nbytes and not window.view]
        self._numbers: dict[Window, deque[int]] = {}
        for number, window in enumerate(self._windows):
            self._numbers.setdefault(window, deque()).append(number)
        self._begun = 0
        self._coming: dict[int, Future[_Buffer | None]] = {}
        self._free: list[_Buffer] = []
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, "ahead")

    def __enter__(self) -> Self:
        self._begin(self._depth)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._reader.shutdown(cancel_futures=True)

    @contextmanager
    def raw(self, window: Window) -> Iterator[np.ndarray]:
        """What `Window.raw` gives, for as long as the context lasts."""
        with self._lock:
            turns = self._numbers.get(window)
            number = turns.popleft() if turns else -1
        self._begin(number + 1 + self._depth)
        with self._lock:
            coming = self._coming.pop(number, None)
        buffer = coming.result() if coming else None
        if buffer is None:
            yield window.raw()
            return
        try:
            yield buffer.raw
        finally:
            with self._lock:
                self._free.append(buffer)

    def _begin(self, number: int) -> None:
        """Have the first `number` windows read."""
        with self._lock:
            for turn, window in enumerate(self._windows[self._begun : number], self._begun):
                self._coming[turn] = self._reader.submit(self._fetch, window)
            self._begun = max(self._begun, number)

    def _fetch(self, window: Window) -> _Buffer | None:
        is_direct = source_of(window.path).is_to_bypass_cache(window.path, window.offset, window.nbytes)
        if window.mapped and not is_direct:
            return None
        with self._lock:
            buffer = self._free.pop() if self._free else _Buffer()
        if is_direct and buffer.fill_directly(window):
            return buffer
        if window.mapped:
            return None
        buffer.fill(window)
        return buffer


class _Buffer:
    """Anonymous memory on page borders, as large as the largest window read into it; `raw` is the last one's bytes."""

    def __init__(self) -> None:
        self._memory = _anonymous(SECTOR)
        self.raw = np.empty(0, np.uint8)

    def fill(self, window: Window) -> None:
        """Read a window in the usual way, through a cache if there is one."""
        room = self._room(window.nbytes)
        source_of(window.path).read_into(window.path, room, window.offset, window.nbytes)
        self.raw = np.frombuffer(self._memory, np.uint8, window.nbytes)

    def fill_directly(self, window: Window) -> bool:
        """Read a window past the cache; False where its file system has no such reads."""
        start = window.offset - window.offset % SECTOR
        length = window.offset + window.nbytes - start
        room = self._room(-(-length // SECTOR) * SECTOR)
        if not source_of(window.path).read_directly(window.path, room, start, length):
            return False
        self.raw = np.frombuffer(self._memory, np.uint8, window.nbytes, window.offset - start)
        return True

    def _room(self, nbytes: int) -> memoryview:
        if len(self._memory) < nbytes:
            self.raw = np.empty(0, np.uint8)  # else the smaller memory stays until the next read is done
            self._memory = _anonymous(nbytes)
        return memoryview(self._memory)[:nbytes]


def _anonymous(nbytes: int) -> mmap.mmap:
    # not shared, as Python's default is: such memory would not count as anonymous
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
