"""The command line, its signals: Ctrl-C and SIGTERM end any command within seconds, whatever its threads are doing.

Both raise KeyboardInterrupt in the main thread. An eigensolver or DuckDB may keep that from being seen, or from ending
threads; so a thread of its own hears of every signal too and, a few seconds later, ends the process. What a store has
committed does not mind.
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

GRACE = 3.0  # seconds from a signal to the end


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Ctrl-C is a KeyboardInterrupt."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What shells give a process that a signal ended."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


@contextmanager
def heard(farewell: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Hear signals as the module says, where this is the main thread; gives what says farewell on stderr, once.

    It is said in any case before the process is ended from here. Ctrl-C stays ignored where it was.
    """
    said = threading.Lock()

    def say() -> None:
        if said.acquire(blocking=False):
            print(farewell(), file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield say
        return
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    before, terminating = signal.set_wakeup_fd(theirs), signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_listen, args=(ours, say), name="signals", daemon=True).start()
    try:
        yield say
    finally:
        signal.signal(signal.SIGTERM, terminating)
        signal.set_wakeup_fd(before)
        os.close(theirs)


def _terminate(_: int, __: FrameType | None) -> None:
    raise Terminated


def _listen(ours: int, say: Callable[[], None]) -> None:
    """Wait for a signal, then end the process after the grace; the end of the pipe ends the thread."""
    while number := os.read(ours, 1):
        if number[0] in (signal.SIGINT, signal.SIGTERM):
            time.sleep(GRACE)
            say()
            os._exit(128 + number[0])
    os.close(ours)
