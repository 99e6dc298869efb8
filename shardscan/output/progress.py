"""Progress of long work on stderr: a line that moves where stderr is a terminal, a sentence now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Task

Advance = Callable[[int, int], None]

LOG_SECONDS = 10.0  # what a CI log can bear, and short of the silence that makes people kill a job
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
FINISHING = "building the catalog"


@contextmanager
def showing_progress(label: str, finishing: str = FINISHING) -> Iterator[Advance]:
    """Show on stderr what the function that this gives is told: the bytes done and in all; `finishing` comes last."""
    if sys.stderr.isatty():
        with _moving_line(label, finishing) as advance:
            yield advance
    else:
        yield _log_now_and_then(label)


@contextmanager
def _moving_line(label: str, finishing: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from shardscan.output.cells import visible

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        task = progress.add_task(visible(label), total=None, state="")

        def advance(done: int, total: int) -> None:
            known = progress.tasks[0]
            progress.update(task, completed=done, total=total, state=_describe_state(known, done, total, finishing))

        yield advance


def _describe_state(task: Task, done: int, total: int, finishing: str) -> str:
    if done >= total:
        return finishing
    return describe_progress(done, total, task.finished_speed or task.speed)


def describe_progress(done: int, total: int, speed: float | None) -> str:
    """`1.20 of 8.03 GB, 1.21 GB/s, 6 s left`; `speed` is in bytes a second, None before it is known.

    The unit is the total's: of many small tensors a line in GB would never move.
    """
    unit, word = next(((unit, word) for unit, word in UNITS if total >= unit), UNITS[-1])
    read = f"{done / unit:.2f} of {total / unit:.2f} {word}"
    if not speed:
        return read
    seconds = round((total - done) / speed)
    left = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
    return f"{read}, {speed / unit:.2f} {word}/s, {left} left"


def _log_now_and_then(label: str) -> Advance:
    from shardscan.output.cells import visible

    label, last_printed = visible(label), time.monotonic()
    first: tuple[float, int] | None = None  # the time before it went into compiling and says nothing of the speed

    def advance(done: int, total: int) -> None:
        nonlocal last_printed, first
        now = time.monotonic()
        first = first or (now, done)
        if done < total and now - last_printed >= LOG_SECONDS:
            last_printed = now
            speed = (done - first[1]) / (now - first[0]) if now > first[0] else None
            print(f"{label}: {describe_progress(done, total, speed)}.", file=sys.stderr, flush=True)

    return advance
