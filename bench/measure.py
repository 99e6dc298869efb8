"""One command as a process of its own: its wall time and the peak anonymous memory of it and all its children.

A run may be given a limit, which a memory cgroup enforces where this machine allows one (v1 or v2, root) and which is
else only compared with the sampled peak. Runs of two sides are interleaved, so that a slow minute hits both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INTERVAL = 0.02  # seconds between two looks at the memory
CGROUPS = Path("/sys/fs/cgroup")


class Failed(Exception):
    """A process ended badly, or what it found is wrong: the row has no number, and says this instead."""


@dataclass(frozen=True, slots=True)
class Run:
    """Wall time in seconds, peak anonymous memory in bytes, what was printed, and what held the memory down, if any."""

    seconds: float
    peak: int
    printed: str
    enforced_by: str | None = None

    @property
    def found(self) -> dict[str, Any]:
        """The JSON that a script of ours or of a peer printed last."""
        found: dict[str, Any] = json.loads(self.printed.strip().splitlines()[-1])
        return found

    def inner(self) -> Run:
        """The run with the seconds that the script itself measured, imports and preparation left out."""
        return replace(self, seconds=float(self.found["seconds"]))


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, *, limit: int | None = None) -> Run:
    """Run a Python command to its end, under a memory limit in bytes if one is given. Raises Failed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with _limited(limit) as (group, enforced_by), TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
            stdout=out,  # files: nobody empties a pipe while memory is watched
            stderr=err,
            preexec_fn=(lambda: _enter(group)) if group else None,  # there is one thread here
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, _tree(process.pid))
            time.sleep(INTERVAL)
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        printed, said = out.read(), err.read()
    if process.returncode:
        last = said.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        killed = " (killed: out of memory?)" if process.returncode == -9 else ""
        raise Failed(f"{' '.join(Path(word).name for word in command[:4])}{killed}: {last[0]}")
    return Run(seconds, peak, printed, enforced_by)


def in_turn(runs: int, *ways: Callable[[], Run]) -> list[list[Run]]:
    """Every way once, then every way again: for each way its runs."""
    rounds = [[way() for way in ways] for _ in range(runs)]
    return [list(column) for column in zip(*rounds, strict=True)]


def middle(runs: Sequence[Run]) -> Run:
    """The medians of several runs."""
    return replace(runs[-1], seconds=median(r.seconds for r in runs), peak=int(median(r.peak for r in runs)))


def times_as_fast(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """Median over the rounds of their seconds over ours."""
    return median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True))


def make_cold(folder: Path, *, everything: bool = True) -> str:
    """Drop a checkpoint's pages from the cache; how: the kernel's whole cache where root may, else by file."""
    os.sync()  # dirty pages stay where they are
    if everything:
        with suppress(OSError):
            Path("/proc/sys/vm/drop_caches").write_text("3\n", "ascii")
            return "drop_caches"
    if not hasattr(os, "posix_fadvise"):
        return "not dropped: this system has no way"
    for path in folder.glob("*.safetensors"):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    return "posix_fadvise"


def _tree(pid: int) -> int:
    """Anonymous bytes of a process and everything below it."""
    total = 0
    with suppress(OSError):  # it ended meanwhile
        status = Path(f"/proc/{pid}/status").read_text("ascii")
        total = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            total += sum(_tree(int(child)) for child in children.read_text("ascii").split())
    return total


@contextmanager
def _limited(limit: int | None) -> Iterator[tuple[Path | None, str | None]]:
    """A new cgroup of `limit` bytes and its kind, or two Nones where none is asked for or allowed."""
    if limit is None:
        yield None, None
        return
    for version, parent, file in (
        ("cgroup v1", CGROUPS / "memory", "memory.limit_in_bytes"),
        ("cgroup v2", CGROUPS, "memory.max"),
    ):
        group = parent / f"shardscan-bench-{os.getpid()}"
        if not (parent / "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
            (group / file).write_text(str(limit), "ascii")
            with suppress(OSError):  # swap would make the limit soft; there is no such file without a swap controller
                (group / "memory.swap.max").write_text("0", "ascii")
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        try:
            yield group, version
        finally:
            _remove(group)
        return
    yield None, None


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()), "ascii")


def _remove(group: Path) -> None:
    for _ in range(50):  # the last process may still be leaving
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(INTERVAL)
