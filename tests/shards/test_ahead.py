"""What is read ahead, past the page cache, is what is mapped, in any order and from many threads."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from made.page_cache import evict
from shardscan import machine
from shardscan.errors import CheckpointError
from shardscan.shards import ahead
from shardscan.shards.address import Window
from shardscan.shards.ahead import Ahead
from shardscan.shards.sources import local
from shardscan.shards.strided import View

SIZES = (1, 4095, 4096, 4097, 100_000, 12_345, 3, 65_536)
direct = pytest.mark.skipif(local.DIRECT is None, reason="this system has no O_DIRECT")


@pytest.fixture
def windows(tmp_path: Path) -> list[Window]:
    """Windows of a file of random bytes, one after the other from byte 17 on, none of which is in the page cache."""
    path = tmp_path / "shard"
    path.write_bytes(np.random.default_rng(0).bytes(17 + sum(SIZES)))
    starts = np.cumsum([17, *SIZES[:-1]])
    evict(path)
    return [Window(str(path), int(start), "U8", (n,)) for start, n in zip(starts, SIZES, strict=True)]


def is_cached(window: Window) -> bool:
    return local.is_cached(window.path, window.offset, window.nbytes)


def direct_reads_fail(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local, "is_cached", lambda *_: False)
    monkeypatch.setattr(os, "preadv", fail)


@direct
def test_windows_are_what_the_file_holds(windows: list[Window]) -> None:
    data = Path(windows[0].path).read_bytes()
    evict(Path(windows[0].path))
    with Ahead(windows) as reader:
        for window in windows:
            with reader.raw(window) as raw:
                assert raw.tobytes() == data[window.offset : window.offset + window.nbytes]


@direct
def test_a_window_that_comes_twice_waits_for_its_second_turn(windows: list[Window]) -> None:
    order = [windows[4], windows[7], windows[4], windows[5], windows[4]]
    with Ahead(order) as reader:
        for begun, window in enumerate(order):
            with reader.raw(window) as raw:
                assert raw.tobytes() == window.raw().tobytes()
                assert reader._begun <= begun + 1 + ahead.DEPTH


@direct
def test_the_page_cache_stays_as_it_was(windows: list[Window]) -> None:
    large = windows[4]
    if is_cached(large):
        pytest.skip("this file system is memory")
    with Ahead(windows) as reader, reader.raw(large) as raw:
        assert raw.nbytes == large.nbytes
    assert not is_cached(large)
    Path(large.path).read_bytes()
    assert is_cached(large)


@pytest.mark.parametrize("order", [(7, 6, 5, 4, 3, 2, 1, 0), (1, 0, 3, 2, 5, 4, 7, 6), (7,)])
def test_windows_may_be_asked_for_in_any_order(windows: list[Window], order: tuple[int, ...]) -> None:
    with Ahead(windows) as reader:
        for number in order:
            with reader.raw(windows[number]) as raw:
                assert raw.tobytes() == windows[number].raw().tobytes()


@direct
def test_a_view_is_read_when_it_is_asked_for_and_a_window_that_comes_again_again_ahead(
    windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = Window(windows[4].path, windows[4].offset, "U8", (50, 2), False, View((2, 50), (1, 2), 0))
    fetched: list[Window] = []
    fetch = Ahead._fetch

    def noted(reader: Ahead, window: Window) -> ahead._Buffer | None:
        fetched.append(window)
        return fetch(reader, window)

    monkeypatch.setattr(Ahead, "_fetch", noted)
    order = [windows[2], view, windows[2], windows[3], view, windows[2], windows[5]]
    with Ahead(order) as reader:
        for window in order:
            with reader.raw(window) as raw:
                assert raw.tobytes() == window.raw().tobytes()
    assert fetched == [window for window in order if window != view]


@direct
def test_many_threads_share_few_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, workers, made = tmp_path / "shard", 4, list[object]()
    path.write_bytes(np.random.default_rng(1).bytes(200 * 5000))
    windows = [Window(str(path), 5000 * i, "U8", (5000,)) for i in range(200)]
    make = ahead._Buffer

    def counted() -> ahead._Buffer:
        made.append(None)
        return make()

    monkeypatch.setattr(local, "is_cached", lambda *_: False)
    monkeypatch.setattr(ahead, "_Buffer", counted)
    turns, lock, right = iter(windows), threading.Lock(), list[bool]()

    def work(reader: Ahead) -> None:
        while True:
            with lock:
                window = next(turns, None)
            if window is None:
                return
            with reader.raw(window) as raw:
                first = raw.tobytes()
                time.sleep(0.001)  # others read and are read meanwhile
                right.append(first == raw.tobytes() == window.raw().tobytes())

    with Ahead(windows) as reader:
        threads = [threading.Thread(target=work, args=(reader,)) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 200
    assert len(made) <= workers + ahead.DEPTH + 1


@direct
def test_buffers_are_counted_as_anonymous_memory() -> None:
    before = machine.anonymous_memory()
    if before is None:
        pytest.skip("this system does not say how much memory a process has")
    held = ahead._anonymous(64 << 20)
    held.write(bytes(64 << 20))
    assert (machine.anonymous_memory() or 0) - before > 60 << 20


@direct
def test_what_is_not_told_is_read(windows: list[Window], monkeypatch: pytest.MonkeyPatch) -> None:
    Path(windows[4].path).read_bytes()
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not is_cached(windows[4])


def test_a_window_that_was_not_announced_is_mapped(windows: list[Window]) -> None:
    with Ahead(windows[:2]) as reader, reader.raw(windows[5]) as raw:
        assert raw.tobytes() == windows[5].raw().tobytes()


@direct
def test_a_file_that_lost_its_end_says_so_and_what_is_left_is_read(windows: list[Window]) -> None:
    path = Path(windows[0].path)
    os.truncate(path, windows[5].offset + 1)
    evict(path)
    with Ahead(windows) as reader:
        with pytest.raises(CheckpointError, match="is shorter than its header says"), reader.raw(windows[5]):
            pass
        with reader.raw(windows[4]) as raw:
            assert raw.nbytes == windows[4].nbytes


@direct
def test_a_file_system_without_direct_reads_is_mapped(windows: list[Window], monkeypatch: pytest.MonkeyPatch) -> None:
    direct_reads_fail(monkeypatch, errno.EINVAL)
    with Ahead(windows) as reader, reader.raw(windows[4]) as raw:
        assert raw.tobytes() == windows[4].raw().tobytes()


@direct
def test_a_disk_that_fails_costs_a_window(windows: list[Window], monkeypatch: pytest.MonkeyPatch) -> None:
    direct_reads_fail(monkeypatch, errno.EIO)
    with Ahead(windows) as reader, pytest.raises(CheckpointError, match=os.strerror(errno.EIO)), reader.raw(windows[4]):
        pass
