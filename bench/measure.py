"""One command as a process of its own: its wall time and its peak anonymous memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

INTERVAL = 0.02  # seconds between two looks at the memory


@dataclass(frozen=True, slots=True)
class Run:
    """Wall time in seconds, peak anonymous memory in bytes, and what the process printed."""

    seconds: float
    peak: int
    printed: str


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a Python command to its end; a failure ends the benchmark with what it said."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous(process.pid))
        time.sleep(INTERVAL)
    seconds = time.perf_counter() - started
    printed, said = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{said}")
    return Run(seconds, peak, printed)


def middle(runs: Sequence[Run]) -> Run:
    """The medians of several runs."""
    return Run(median(r.seconds for r in runs), int(median(r.peak for r in runs)), runs[-1].printed)


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)
