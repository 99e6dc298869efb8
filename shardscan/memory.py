"""Anonymous memory of this process: what a machine runs out of. Pages of mapped shards can be dropped: not counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATUS = Path("/proc/self/status")
INTERVAL = 0.05  # seconds


class Peak:
    """The largest anonymous memory seen, in bytes; None where the system does not tell."""

    def __init__(self) -> None:
        self.bytes = anonymous()

    def sample(self) -> None:
        """Look now."""
        seen = anonymous()
        if seen is not None:
            self.bytes = max(self.bytes or 0, seen)


def anonymous() -> int | None:
    """Anonymous memory in bytes, or None where there is no /proc."""
    try:
        line = next(line for line in STATUS.read_text("ascii").splitlines() if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


@contextmanager
def watched() -> Iterator[Peak]:
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
