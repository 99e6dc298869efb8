"""The process that answers a query: what ends it, what it sees, and what an unlocked query may do there."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from made.catalogs import Catalog
from made.commands import ROOT, command, environment, shardscan
from shardscan import machine
from shardscan.answers import bounded
from shardscan.answers.questions import make_query
from shardscan.errors import QueryStopped

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
MEMORY, TIME = "allow more with --memory.\n", "give it longer with --timeout.\n"


# ---- what ends it


def test_a_result_larger_than_the_memory_allowed_is_refused(catalog: Catalog) -> None:
    large = make_query("SELECT repeat('x', 1000) || i AS x FROM range(20000) t(i)")
    # here, there, or by a DuckDB that dies of it: whichever comes first
    with pytest.raises(
        QueryStopped, match=r"(result is larger|query need(s|ed) more) than the 15 MB .* with --memory\.$"
    ):
        bounded.run_bounded(catalog.path, large, bounded.Bounds(60, 15_000_000))
    with pytest.raises(QueryStopped, match=r"The result is larger than the 15 MB .* with --memory\.$"):
        bounded._read_body(io.BytesIO(bytes(15_000_001)), bounded.Bounds(60, 15_000_000))
    assert bounded.run_bounded(catalog.path, large, bounded.Bounds(60, 200_000_000)).num_rows == 20_000


@contextmanager
def asleep(catalog: Catalog, *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command in the middle of a long query, and the process that runs it."""
    words = command("sql", "select pg_sleep(1000)", "--store", str(catalog.path.parent), *more)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            until(lambda: bool(children.read_text()))
            yield process, int(children.read_text())
        finally:
            process.kill()


def until(true: Callable[[], bool]) -> None:
    """Wait for something, which is there at once: the limit is for what never comes."""
    for _ in range(12_000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("this never came")


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@needs_proc
@pytest.mark.parametrize("death", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_of_duckdb_is_one_sentence(death: signal.Signals, catalog: Catalog) -> None:
    with asleep(catalog) as (process, child):
        os.kill(child, death)
        shown = process.communicate(timeout=120)
    assert (process.returncode, shown[0]) == (6, "")
    assert f"of memory that it may take, or crashed DuckDB ({death.name}): ask for less" in shown[1]
    assert shown[1].count("\n") == 1


@needs_proc
def test_an_interrupt_ends_the_query_too(catalog: Catalog) -> None:
    with asleep(catalog) as (process, child):
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=120)
        until(lambda: gone(child))
    assert (process.returncode, *shown) == (130, "", "Interrupted.\n")


@needs_proc
def test_a_query_does_not_outlive_a_killed_command(catalog: Catalog) -> None:
    with asleep(catalog) as (process, child):
        process.kill()
        process.wait()
        until(lambda: gone(child))


def test_a_question_that_ships_is_bounded_too(catalog: Catalog) -> None:
    done = shardscan(catalog.path.parent, "ask", "outliers", "--memory", "1B")
    assert (done.returncode, done.stdout, done.stderr.endswith(MEMORY)) == (6, "", True)


@pytest.mark.full_only  # so long that a busy machine answers in time, and the reader waits for longer
def test_the_clock_is_not_that_of_a_reader(catalog: Catalog) -> None:
    words = command(
        "sql", "select range as i from range(200000)", "--timeout", "10", "--store", str(catalog.path.parent)
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment()) as process:
        time.sleep(12)
        assert process.stdout
        assert sum(1 for _ in process.stdout) == 200_000
    assert process.returncode == 0


@pytest.mark.parametrize(
    "words",
    [("--timeout", "0"), ("--timeout", "nan"), ("--timeout", "1000001"), ("--memory", "much"), ("--memory", "-1")],
)
def test_bounds_that_are_none_are_refused(words: tuple[str, str], catalog: Catalog) -> None:
    done = shardscan(catalog.path.parent, "sql", "select 1", *words)
    assert (done.returncode, done.stdout, words[0] in done.stderr) == (2, "", True)


def test_bounds_come_from_the_environment(catalog: Catalog) -> None:
    words = command("sql", "select pg_sleep(1000)", "--store", str(catalog.path.parent))
    for name, value, end in (("SHARDSCAN_TIMEOUT", "1", TIME), ("SHARDSCAN_QUERY_MEMORY", "1B", MEMORY)):
        done = subprocess.run(words, capture_output=True, text=True, env=environment() | {name: value}, timeout=120)
        assert (done.returncode, done.stderr.endswith(end)) == (6, True)


def test_the_memory_of_a_query_is_half_of_what_is_free_and_at_most_four_gigabytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for free, expected in ((10**9, 5 * 10**8), (10**12, 4 * 10**9), (None, 4 * 10**9)):
        monkeypatch.setattr(machine, "available_memory", lambda free=free: free)
        assert bounded.free_memory() == expected


# ---- the other process


def test_it_loads_nothing_from_the_current_folder(catalog: Catalog, tmp_path: Path) -> None:
    for name in ("duckdb", "pyarrow", "json", "shardscan"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('loaded')")
    done = shardscan(catalog.path.parent, "sql", "select 1 as one", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"one": 1}\n', "")


@pytest.fixture(name="other")
def _other(tmp_path: Path) -> Path:
    """Another copy of the package, which only its own program knows of."""
    shutil.copytree(ROOT / "shardscan", tmp_path / "shardscan", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "main.py").write_text("from shardscan.cli import main; main()")
    return tmp_path


def run_other(other: Path, catalog: Catalog, change: tuple[str, str], sql: str) -> subprocess.CompletedProcess[str]:
    file = other / "shardscan" / "answers" / "connection.py"
    assert change[0] in file.read_text("utf-8")
    file.write_text(file.read_text("utf-8").replace(*change), "utf-8")
    words = [sys.executable, str(other / "main.py"), "sql", sql, "--store", str(catalog.path.parent)]
    return subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=120)


def test_it_has_the_same_package(other: Path, catalog: Catalog) -> None:
    done = run_other(other, catalog, ("a query is one", "a query is ONE"), "select 1; select 2")
    assert (done.returncode, "a query is ONE" in done.stderr) == (6, True)


def test_a_bug_there_is_a_bug_here(other: Path, catalog: Catalog) -> None:
    done = run_other(other, catalog, ("    statements = duckdb", "    1 / 0\n    statements = duckdb"), "select 1")
    assert (done.returncode, "ZeroDivisionError: division by zero" in done.stderr) == (1, True)


def test_this_one_never_loads_duckdb(catalog: Catalog) -> None:
    code = (
        "import sys; from shardscan.cli import main\n"
        f"main(['sql', 'select 1 as one', '--store', {str(catalog.path.parent)!r}], standalone_mode=False)\n"
        "print('duckdb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == '{"one": 1}\nFalse\n'


# ---- unlocked


def test_an_unlocked_query_reads_and_writes_files_and_says_so(catalog: Catalog, tmp_path: Path) -> None:
    pq.write_table(pa.table({"model": ["alpha"], "score": [7]}), tmp_path / "scores.parquet")
    join = "select model, score from models join 'scores.parquet' using (model)"
    read = shardscan(catalog.path.parent, "sql", join, "--unlocked", cwd=tmp_path)
    assert (read.returncode, json.loads(read.stdout)) == (0, {"model": "alpha", "score": 7})
    assert read.stderr.startswith("Unlocked: this query can read and write files")
    write = shardscan(catalog.path.parent, "sql", f"copy ({join}) to 'joined.parquet'", "--unlocked", cwd=tmp_path)
    assert (write.returncode, json.loads(write.stdout)) == (0, {"Count": 1})
    assert pq.read_table(tmp_path / "joined.parquet").to_pylist() == [{"model": "alpha", "score": 7}]


def test_an_unlocked_query_reads_stdin_and_writes_stdout(catalog: Catalog) -> None:
    sql = "copy (select a + 1 as b from read_csv('/dev/stdin')) to '/dev/stdout'"
    done = shardscan(catalog.path.parent, "sql", sql, "--unlocked", input="a\n41\n")
    assert (done.returncode, done.stdout) == (0, 'b\n42\n{"Count": 1}\n')


def test_an_unlocked_question_of_ones_own_reads_files(catalog: Catalog, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2, 3]}), tmp_path / "n.parquet")
    (tmp_path / "own.sql").write_text(
        "-- title: T\n-- why: W\n-- parameter: least = 2: n\n-- example: shardscan sql @own.sql\n"
        "SELECT count(*) AS n FROM 'n.parquet' WHERE n >= $least\n"
    )
    assert json.loads(shardscan(catalog.path.parent, "sql", "@own.sql", "--unlocked", cwd=tmp_path).stdout) == {"n": 2}
    assert shardscan(catalog.path.parent, "sql", "@own.sql", cwd=tmp_path).returncode == 6


def test_an_unlocked_query_is_bounded_too(catalog: Catalog) -> None:
    for sql, seconds, end in (("select pg_sleep(1000)", "1", TIME), ("select repeat('x', 4e9::bigint)", "50", MEMORY)):
        done = shardscan(catalog.path.parent, "sql", sql, "--unlocked", "--timeout", seconds, "--memory", "100MB")
        assert (done.returncode, done.stderr.endswith(end)) == (6, True)
