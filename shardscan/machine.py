"""The ground: the machine that this process runs on, its processors, its memory and the versions of what computes.

Memory is anonymous memory: what a machine runs out of. Pages of mapped shards can be dropped and are not counted.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shardscan.version import __version__

LIBRARIES = ("dask", "duckdb", "numba", "numpy", "pyarrow", "zarr")
STATUS = Path("/proc/self/status")
INTERVAL = 0.05  # seconds
M_MMAP_THRESHOLD, LARGE = -3, 1 << 20  # malloc.h; arrays from 1 MiB on get pages of their own
M_ARENA_MAX = -8  # malloc.h


def processors() -> int:
    """How many this process may use; on systems that cannot say, such as macOS, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of what computes: shardscan, Python and the libraries."""
    from importlib.metadata import version  # with it come email and zipfile, for whoever only asks a question

    return {"shardscan": __version__, "python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def host() -> dict[str, object]:
    """The machine, as a run records it."""
    return {"platform": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}


def is_private(folder: Path) -> bool:
    """Whether a folder is one where nobody but this user can put a file; OSError where there is nothing."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


class Peak:
    """The largest anonymous memory seen, in bytes; None where the system does not tell."""

    def __init__(self) -> None:
        self.bytes = anonymous_memory()

    def sample(self) -> None:
        """Look now."""
        seen = anonymous_memory()
        if seen is not None:
            self.bytes = max(self.bytes or 0, seen)


def anonymous_memory() -> int | None:
    """Anonymous memory in bytes, or None where there is no /proc."""
    return _status("RssAnon:")


def address_space() -> int | None:
    """Address space in bytes, used or not, or None where there is no /proc."""
    return _status("VmSize:")


def _status(key: str) -> int | None:
    try:
        line = next(line for line in STATUS.read_text("ascii").splitlines() if line.startswith(key))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def available_memory() -> int | None:
    """Bytes that this process could still take: of the machine, or of the cgroup (v1 or v2) that holds it, if less."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return min([machine, *_left_in_cgroups()])


def _left_in_cgroups() -> Iterator[int]:
    """For the cgroup of this process and each around it; their page cache can be dropped and does not count."""
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup") / controllers
        limit, used, cache = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else ("memory.max", "memory.current", "inactive_file")
        )
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(root):
                break
            with suppress(OSError, ValueError):  # "max" is no number, and no limit
                stat = dict(item.split() for item in (group / "memory.stat").read_text("ascii").splitlines())
                free = int((group / limit).read_text()) - int((group / used).read_text())
                yield max(0, free + int(stat.get(cache, 0)))


@contextmanager
def without_collector() -> Iterator[None]:
    """For making many values of which none is garbage: looking for cycles among them takes a quarter of that time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def give_back_memory() -> None:
    """Have what is freed leave the process at once, where the C library is glibc, and what was freed until now.

    Else freed arrays stay in each thread's heap, and a run's peak is a matter of luck.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.malloc_trim(0)


def use_one_heap() -> None:
    """Have all threads to come share one heap, where the C library is glibc: each reserves 64 MB of addresses else."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)


@contextmanager
def watch_memory() -> Iterator[Peak]:
    """Sample the process every 50 ms from a thread of its own."""
    peak, stop = Peak(), threading.Event()

    def watch() -> None:
        while not stop.wait(INTERVAL):
            peak.sample()

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak.sample()
