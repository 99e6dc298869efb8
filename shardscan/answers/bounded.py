"""ASK, its bounds: one query in a process of its own, which a clock and a limit of memory end.

Promises: whatever a query does — it runs for ever, takes all memory, crashes DuckDB — comes to a table or to one
sentence within `Bounds`, and leaves no process behind. The answer and the errors are those of `run_query`; this process
never loads DuckDB. The other one is a new interpreter with this environment and this very package; it holds its
address space to its own size and the memory allowed (where there is a /proc; DuckDB's own limit holds everywhere, but
not for all of its functions), and ends with the process that started it. The result is held once more in this one.

Query and answer go through pipes: JSON in one line, answered by JSON in one line and, where that names no error, Arrow.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import shardscan
from shardscan import errors, machine
from shardscan.answers.questions import Query
from shardscan.errors import QueryStopped, ShardscanError

if TYPE_CHECKING:
    import pyarrow as pa

MOST = 4 * 10**9
OVERHEAD = 128 * 2**20  # address space of threads' stacks, and of code that loads later
GRACE = 5  # seconds after which a child whose parent is gone ends, even deep inside DuckDB
_PIECE = 1 << 20
_LINE = 1 << 20  # bytes of an error, as JSON
# not `-m`: it would look for the package, and for DuckDB, in the current folder
_START = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("shardscan", sys.argv[1])
sys.modules["shardscan"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from shardscan.answers.bounded import answer_parent
answer_parent(*map(int, sys.argv[2:]))
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The seconds that a query may run, start and all, and the bytes that it and its result may take."""

    seconds: int
    memory: int


def free_memory() -> int:
    """The memory that a query may take where nobody says: half of what is free, at most 4 GB."""
    return min(MOST, (machine.available_memory() or 2 * MOST) // 2)


def run_bounded(store: str | Path, query: Query, bounds: Bounds, *, unlocked: bool = False) -> pa.Table:
    """The rows of a query, as `run_query` gives them, or its errors; QueryStopped at the end of the bounds."""
    order = {"store": str(store), "query": asdict(query), "bounds": asdict(bounds), "unlocked": unlocked}
    expired = threading.Event()
    with _running_child(order, bounds, expired) as (child, pipe):
        import pyarrow as pa  # while the child loads DuckDB

        head = pipe.readline(_LINE)
        body = _read_body(pipe, bounds) if head.endswith(b"\n") else b""
        crash = child.wait()
    if expired.is_set():
        raise QueryStopped(
            f"The query was stopped after {bounds.seconds} s: ask for less, or give it longer with --timeout."
        )
    if crash or not head.endswith(b"\n"):
        raise QueryStopped(
            f"The query needed more than the {-(-bounds.memory // 10**6):,} MB of memory that it may take, or crashed "
            f"DuckDB ({_name_cause(crash)}): ask for less, or allow more with --memory."
        )
    outcome = json.loads(head)
    if outcome["error"] is None:
        return pa.ipc.open_stream(pa.py_buffer(body)).read_all()
    raise getattr(errors, outcome["error"], RuntimeError)(outcome["text"])


@contextmanager
def holding_memory(bounds: Bounds) -> Iterator[None]:
    """Hold this process to so much more memory, too, for making text of a result; QueryStopped at its end."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    _limit_memory(bounds.memory)
    try:
        yield
    except MemoryError as error:
        raise QueryStopped(
            f"The result takes more than {-(-bounds.memory // 10**6):,} MB of memory to write as text: ask for smaller "
            "values, write it to a .parquet file with -o, or allow more with --memory."
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _running_child(
    order: dict[str, Any], bounds: Bounds, expired: threading.Event
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A child that was asked, and the pipe that it answers through; it ends with the clock or this block."""
    their_question, our_question = os.pipe()
    our_answer, their_answer = os.pipe()
    theirs = (their_question, their_answer)
    safe = "-I" if sys.flags.isolated else "-P"
    words = [sys.executable, safe, "-c", _START, str(shardscan.__file__), *map(str, theirs)]
    asking = os.fdopen(our_question, "wb")
    with os.fdopen(our_answer, "rb") as answering:
        try:
            # a group of its own: Ctrl-C is for us, who then end it; stdin and stdout are ours, for an unlocked query
            child = subprocess.Popen(  # noqa: S603  # the words are ours
                words, stderr=subprocess.DEVNULL, pass_fds=theirs, process_group=0
            )
        finally:
            for pipe in theirs:
                os.close(pipe)

        def stop() -> None:
            expired.set()
            child.kill()

        clock = threading.Timer(bounds.seconds, stop)
        clock.daemon = True
        try:
            clock.start()
            with suppress(BrokenPipeError):  # it died at once, and the empty answer says so
                asking.write(json.dumps(order).encode() + b"\n")
                asking.flush()
            yield child, answering
        finally:
            clock.cancel()
            child.kill()
            child.wait()
            with suppress(BrokenPipeError):
                asking.close()


def _read_body(pipe: IO[bytes], bounds: Bounds) -> bytearray:
    body = bytearray()
    while piece := pipe.read(_PIECE):
        body += piece
        if len(body) > bounds.memory:
            raise QueryStopped(
                f"The result is larger than the {-(-bounds.memory // 10**6):,} MB of memory that a query may take: ask "
                "for fewer rows or columns, or allow more with --memory."
            )
    return body


def _name_cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


# ---- in the child


def answer_parent(asked: int, answered: int) -> NoReturn:
    """Run the query that comes through one pipe, answer through the other, and end; at once where the parent does."""
    asking = os.fdopen(asked, "rb")
    order = json.loads(asking.readline())
    threading.Thread(target=_end_with_parent, args=(asked,), daemon=True).start()
    signal.alarm(order["bounds"]["seconds"] + GRACE)
    with os.fdopen(answered, "wb") as stream:
        try:
            _write_answer(_run_order(order), stream)
        except ShardscanError as error:
            _limit_memory(None)
            stream.write(_encode_head(type(error).__name__, str(error)))
        except MemoryError:
            os._exit(1)
        except BaseException:
            _limit_memory(None)
            stream.write(_encode_head("a bug", traceback.format_exc()))
    os._exit(0)


def _run_order(order: dict[str, Any]) -> pa.Table:
    from shardscan.answers.connection import Access, run_query

    bounds = Bounds(**order["bounds"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(bounds.memory)
    return run_query(order["store"], Query(**order["query"]), Access(bounds.memory, order["unlocked"]))


def _write_answer(table: pa.Table, stream: IO[bytes]) -> None:
    import pyarrow as pa

    stream.write(_encode_head(None, ""))
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)


def _encode_head(error: str | None, text: str) -> bytes:
    return json.dumps({"error": error, "text": text}).encode() + b"\n"


def _limit_memory(allowed: int | None) -> None:
    """Hold the address space to its size now and `allowed` more bytes; None lets go of it, to tell of an error."""
    size = machine.address_space()
    if size is None:
        return
    machine.use_one_heap()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = hard if allowed is None else size + allowed + OVERHEAD
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _end_with_parent(asked: int) -> None:
    os.read(asked, 1)  # nothing more is ever written: this is the end of the pipe, or of the parent
    os._exit(1)
