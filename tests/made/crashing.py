"""Runs of the command that are killed, or whose disk fails, at a moment that a test chooses.

`Server` is a process that has imported everything, and forks one child for each run, so that a hundred of them take no
more than their work. Faults are injected below zarr and below our own code: in the raw files that Python writes, and in
os.write, rename, replace, fsync, mkdir, unlink and rmdir. DuckDB writes by itself: only kills and full disks reach it.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

MODULES = (
    *("answers.connection", "catalog.build", "cli.prints.scan", "jobs.comparison.values", "jobs.scan.job"),
    *("output.writer", "reduce.scan", "store.gate", "store.resume"),
)
KILL, FULL, BROKEN, TORN = "kill", "full", "broken", "torn"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the `at`-th write, rename, sync or removal, counted from 1, or after so many seconds.

    'kill' is SIGKILL before it, 'torn' half a write and then SIGKILL; 'full' is ENOSPC from then on, 'broken' one EIO.
    """

    kind: str
    at: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """Exit code, negative for a signal; everything printed; how many writes, renames and syncs there were."""

    code: int
    output: str
    events: int


class Server:
    """To be used in a `with` statement."""

    def __enter__(self) -> Self:
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()

    def run(
        self, words: Sequence[str], log: Path, fault: Fault | None = None, *, command: str = "shardscan.cli:main"
    ) -> Ended:
        """Run `shardscan` with these words, or another command of ours; `log` is a file that it may have."""
        assert self._process.stdin
        assert self._process.stdout
        order = {"words": list(words), "log": str(log), "fault": asdict(fault) if fault else None, "command": command}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        code = json.loads(self._process.stdout.readline())
        events = log.with_suffix(".events")
        return Ended(code, log.read_text("utf-8"), int(events.read_text() or 0))


def serve() -> None:
    """Fork a child for every line of stdin."""
    import_everything()
    for line in sys.stdin:
        order = json.loads(line)
        fault = Fault(**order["fault"]) if order["fault"] else None
        pid = os.fork()
        if not pid:
            child(order["words"], Path(order["log"]), fault, order["command"])
        if fault and fault.seconds:
            time.sleep(fault.seconds)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def import_everything() -> None:
    """What the command imports and reads bit by bit, once."""
    for name in ("rich.console", "rich.table", "pyarrow.parquet", *(f"shardscan.{name}" for name in MODULES)):
        import_module(name)
    import_module("pyarrow").table({"word": [""]})  # looks for pandas
    import_module("shardscan.anatomy.families.loading").load_families(())
    import_module("shardscan.reduce.blocks").compile_kernels({"BF16", "F32"})
    import_module("shardscan.reduce.comparison").compile_comparison_kernels({"BF16", "F32"})


def child(words: list[str], log: Path, fault: Fault | None, command: str) -> NoReturn:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    printed, counted = (os.open(file, flags) for file in (log, log.with_suffix(".events")))
    for ours, theirs in ((os.open(os.devnull, os.O_RDONLY), 0), (printed, 1), (printed, 2)):
        os.dup2(ours, theirs)
    write = os.write
    count = install(fault)
    module, _, name = command.partition(":")
    try:
        getattr(import_module(module), name)(words)
    except SystemExit as ended:
        write(counted, str(count()).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else bool(ended.code))
    os._exit(99)


def install(fault: Fault | None) -> Callable[[], int]:
    """Have every write, rename and sync of this process counted, and one of them go wrong; gives the count."""
    lock, seen = threading.Lock(), 0

    def event(tear: Callable[[], object] | None = None, *, frees: bool = False) -> None:
        nonlocal seen
        with lock:
            seen += 1
            here = seen
        if fault is None or not fault.at or here < fault.at or (here > fault.at and fault.kind != FULL):
            return
        if fault.kind == FULL and frees:
            return
        if fault.kind in (FULL, BROKEN):
            number = errno.ENOSPC if fault.kind == FULL else errno.EIO
            raise OSError(number, os.strerror(number))
        if fault.kind == TORN and tear:
            tear()
        os.kill(os.getpid(), signal.SIGKILL)

    write = os.write

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            view = memoryview(data).cast("B")
            event(lambda: write(self.fileno(), view[: len(view) // 2]))
            return write(self.fileno(), view)

    opened = io.open

    def opening(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        # one with an opener is no file of ours: Python's temporary ones, by which numba tries where it may keep kernels
        if isinstance(file, int) or "opener" in options or not set(mode) & set("wax+"):
            return opened(file, mode, *arguments, **options)
        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, options.get("encoding"), write_through=True)

    def counted(function: Callable[..., Any], frees: bool) -> Callable[..., Any]:
        def calling(*arguments: Any, **options: Any) -> Any:
            event(frees=frees)
            return function(*arguments, **options)

        return calling

    builtins.open = io.open = opening
    for name in ("write", "rename", "replace", "fsync", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name), frees=name in ("unlink", "rmdir")))
    return lambda: seen


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # as pytest has it: a command may be `made.compared:main`
    serve()
