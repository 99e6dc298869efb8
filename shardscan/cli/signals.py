"""The command line, its signals: Ctrl-C and SIGTERM end any command within seconds, whatever its threads are doing.

Both raise KeyboardInterrupt in the main thread, of which DuckDB makes errors of its own. An eigensolver or DuckDB may
keep it from being seen, or from ending threads; so a thread of its own hears of every signal too and, a few seconds
later, ends the process. What a store has committed does not mind.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from shardscan.output.writer import abandon_stream

GRACE = 2.0  # seconds from a signal to the end


class Ears:
    """What was heard: the number of the last signal, None before there is one; `farewell` is said once, on stderr."""

    def __init__(self, farewell: Callable[[], str]) -> None:
        self.number: int | None = None
        self._farewell = farewell
        self._said = threading.Lock()

    @property
    def exit_code(self) -> int:
        """What shells give a process that a signal ended."""
        return 128 + (self.number or signal.SIGINT)

    def say_farewell(self) -> None:
        """Say it, unless that was done or nobody listens any more."""
        if self._said.acquire(blocking=False):
            try:
                print(self._farewell(), file=sys.stderr, flush=True)
            except (OSError, ValueError):
                abandon_stream(sys.stderr)

    def interrupt(self, number: int, _: FrameType | None) -> NoReturn:
        """Handle a signal."""
        self.number = number
        raise KeyboardInterrupt


@contextmanager
def heard(farewell: Callable[[], str]) -> Iterator[Ears]:
    """Hear signals as the module says, where this is the main thread. Ctrl-C stays ignored where it was."""
    ears = Ears(farewell)
    if threading.current_thread() is not threading.main_thread():
        yield ears
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    before, handlers = signal.set_wakeup_fd(theirs), {n: signal.signal(n, ears.interrupt) for n in numbers}
    threading.Thread(target=_listen, args=(ours, ears), name="signals", daemon=True).start()
    try:
        yield ears
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(theirs)


def _listen(ours: int, ears: Ears) -> None:
    """Wait for a signal, then end the process after the grace; the end of the pipe ends the thread."""
    while number := os.read(ours, 1):
        if number[0] in (signal.SIGINT, signal.SIGTERM):
            time.sleep(GRACE)
            threading.Thread(target=ears.say_farewell, daemon=True).start()  # a pipe that is full waits for ever
            time.sleep(0.1)
            os._exit(128 + number[0])
    os.close(ours)
