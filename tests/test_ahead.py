"""What is read ahead, past the page cache, is what is mapped, in any order and from many threads."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from shardscan.errors import CheckpointError
from shardscan.shards import ahead
from shardscan.shards.address import Window
from shardscan.shards.ahead import Ahead

SIZES = (1, 4095, 4096, 4097, 100_000, 12_345, 3, 65_536)
direct = pytest.mark.skipif(ahead.DIRECT is None, reason="this system has no O_DIRECT")


@pytest.fixture
def windows(tmp_path: Path) -> list[Window]:
    """Windows of a file of random bytes, one after the other from byte 17 on, none of which is in the page cache."""
    path = tmp_path / "shard"
    path.write_bytes(np.random.default_rng(0).bytes(17 + sum(SIZES)))
    starts = np.cumsum([17, *SIZES[:-1]])
    evict(path)
    return [Window(str(path), int(start), "U8", (n,)) for start, n in zip(starts, SIZES, strict=True)]


def evict(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@direct
def test_windows_are_what_the_file_holds(windows: list[Window]) -> None:
    data = Path(windows[0].path).read_bytes()
    evict(Path(windows[0].path))
    with Ahead(windows) as reader:
        for window in windows:
            with reader.raw(window) as raw:
                assert raw.tobytes() == data[window.offset : window.offset + window.nbytes]


@direct
def test_the_page_cache_stays_as_it_was(windows: list[Window]) -> None:
    large = windows[4]
    assert not ahead._is_cached(large)
    with Ahead(windows) as reader, reader.raw(large) as raw:
        assert raw.nbytes == large.nbytes
    assert not ahead._is_cached(large)
    Path(large.path).read_bytes()
    assert ahead._is_cached(large)


@pytest.mark.parametrize("order", [(7, 6, 5, 4, 3, 2, 1, 0), (1, 0, 3, 2, 5, 4, 7, 6), (7,)])
def test_windows_may_be_asked_for_in_any_order(windows: list[Window], order: tuple[int, ...]) -> None:
    with Ahead(windows) as reader:
        for number in order:
            with reader.raw(windows[number]) as raw:
                assert raw.tobytes() == windows[number].raw().tobytes()


def test_many_threads_share_few_buffers(windows: list[Window]) -> None:
    wrong: list[Window] = []
    turn = iter(windows * 20)
    lock = threading.Lock()

    def work(reader: Ahead) -> None:
        while True:
            with lock:
                window = next(turn, None)
            if window is None:
                return
            with reader.raw(window) as raw:
                if raw.tobytes() != window.raw().tobytes():
                    wrong.append(window)

    with Ahead(windows * 20) as reader:
        threads = [threading.Thread(target=work, args=(reader,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


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
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(ahead, "_read_direct", refuse)
    with Ahead(windows) as reader, reader.raw(windows[4]) as raw:
        assert raw.tobytes() == windows[4].raw().tobytes()


@direct
def test_a_disk_that_fails_costs_a_window(windows: list[Window], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ahead, "_read_direct", fail)
    with Ahead(windows) as reader, pytest.raises(OSError, match=os.strerror(errno.EIO)), reader.raw(windows[4]):
        pass
