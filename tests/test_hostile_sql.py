"""SQL of strangers: what it must not reach, and what must stop it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalogs import Catalog, build
from shardscan import confined, memory
from shardscan.ask import connect, run
from shardscan.errors import QueryError, QueryStopped
from shardscan.questions import query

pytestmark = pytest.mark.hostile
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")

ROOT = Path(__file__).resolve().parents[1]
SECRET = "do-not-tell-6502"
LINES = (ROOT / "tests" / "hostile_sql.txt").read_text("utf-8").splitlines()
STATEMENTS = [line for line in LINES if line and not line.startswith("# ")]
HARMLESS = {
    "FROM checkpoint('catalog')": "a checkpoint of what is attached read-only writes nothing",
    "FROM truncate_duckdb_logs()": "the logs are in memory, empty, and this connection's own",
    "SELECT write_log('{secret}')": "logging is off and cannot be turned on",
    "FROM duckdb_logs()": "likewise",
    "SELECT current_setting('secret_directory')": "the path of a folder that cannot be opened",
    "FROM duckdb_secrets()": "there are none: the folder that holds them cannot be opened",
    "FROM which_secret('s3://bucket', 's3')": "likewise",
    "SELECT getvariable('path')": "no variable can be set",
    "SELECT '{secret}' AS path": "a path is text until somebody opens it",
    "SELECT * FROM query('SELECT 1')": "what it runs is one SELECT under the same lock",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))": "likewise, and pointers cannot be deserialized",
    "SELECT 1; -- DROP TABLE tensors": "a comment",
    "SELECT ';' AS a": "one statement",
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return build(tmp_path_factory.mktemp("store"))


@pytest.fixture(name="told")
def _told(catalog: Catalog, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A statement with the paths it is after; afterwards every file is what it was."""
    (tmp_path / "secret.txt").write_text(f"a,b\n{SECRET},1\n")
    pq.write_table(pa.table({"a": [SECRET]}), tmp_path / "secret.parquet")

    def state() -> dict[Path, bytes]:
        return {file: file.read_bytes() for folder in (tmp_path, catalog.path.parent) for file in folder.iterdir()}

    before = state()
    yield lambda sql: sql.format(folder=tmp_path, secret=tmp_path / "secret.txt", catalog=catalog.path)
    assert state() == before


Told = Callable[[str], str]
Record = Callable[[str, object], None]


# ---- what it must not reach


def test_there_are_many_statements() -> None:
    assert len(set(STATEMENTS)) == len(STATEMENTS) > 200


@pytest.mark.parametrize("sql", STATEMENTS)
def test_a_statement_that_reaches_out_is_refused(
    sql: str, catalog: Catalog, told: Told, record_property: Record
) -> None:
    record_property("inputs", 1)
    python_table = pa.table({"a": [SECRET]})
    with pytest.raises(QueryError) as refusal:
        run(catalog.path, told(sql))
    assert SECRET not in str(refusal.value)
    # a connection in Python may make temporary tables, and still reaches nothing
    with connect(catalog.path) as connection, suppress(duckdb.Error):
        assert SECRET not in str(connection.execute(told(sql)).fetchall())
    assert python_table.num_rows == 1


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_is_accepted_is_harmless(sql: str, catalog: Catalog, told: Told, record_property: Record) -> None:
    record_property("inputs", 1)
    assert SECRET not in str(run(catalog.path, told(sql)).to_pylist())


@pytest.mark.parametrize("arguments", ["('{secret}')", "('{folder}/secret.parquet')", "('{folder}', '{secret}')", "()"])
def test_no_function_that_duckdb_has_opens_a_file(
    arguments: str, catalog: Catalog, told: Told, record_property: Record
) -> None:
    with connect(catalog.path) as connection:
        every = (
            "SELECT DISTINCT function_name, function_type FROM duckdb_functions() WHERE function_name ~ '^[a-z_0-9]+$'"
        )
        functions = connection.sql(every).fetchall()
        for name, kind in functions:
            call = f'"{name}"{told(arguments)}'
            with suppress(duckdb.Error):
                found = connection.sql(
                    f"FROM {call} LIMIT 9" if kind.startswith(("table", "pragma")) else f"SELECT {call}"
                )
                assert SECRET not in str(found)
    assert len(functions) > 500
    record_property("inputs", len(functions))


@pytest.mark.parametrize(
    "sql", ["FROM read_parquet('x')", "FROM 'x.csv'", "COPY tensors TO 'x'", "ATTACH 'x'", "LOAD x", "SET threads = 1"]
)
def test_a_refusal_of_files_and_settings_names_the_way_to_them(sql: str, catalog: Catalog) -> None:
    with pytest.raises(QueryError, match=r"files, the network and settings are locked here, and .* --unlocked` opens"):
        run(catalog.path, sql)


# ---- what must stop it, through the command


def command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "shardscan", *words]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("SHARDSCAN")} | {"PYTHONPATH": str(ROOT)}


def shardscan(catalog: Catalog, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    words = (*words, "--store", str(catalog.path.parent))
    return subprocess.run(command(*words), capture_output=True, text=True, env=environment(), timeout=60, **more)


def nested(before: str, after: str, depth: int) -> str:
    return f"select {before * depth}1{after * depth}"


MEMORY, TIME = "allow more with --memory.\n", "give it longer with --timeout.\n"
RUNAWAY = {
    "select repeat('x', 4e9::bigint)": MEMORY,
    "select list(range) from range(1e9::bigint)": MEMORY,
    "from range(1000000000)": MEMORY,
    "select range(100000000000)": "Lists larger than 2^32 elements are not supported\n",
    "select string_agg(range::varchar, ',') from range(1e9::bigint)": MEMORY,
    "with recursive t(x) as (select 'x' union all select x || x from t) select max(length(x)) from t": MEMORY,
    "select printf('%2000000000d', 1)": MEMORY,
    "select array_agg(i order by random()) from range(100000000) t(i)": MEMORY,
    "from range(1000000) a, range(1000000) b order by random()": MEMORY,
    "select 1 where 1 in (" + ", ".join(map(str, range(100_000))) + ")": MEMORY,
    "with recursive t(x) as (select 1 union all select x + 1 from t) select max(x) from t": TIME,
    "select sum(a.i * b.i % 7) from range(1e7::bigint) a(i), range(1e7::bigint) b(i)": TIME,
    "select regexp_matches(repeat('a', 10000000), '(a?){1000}b')": TIME,
    "select pg_sleep(1000)": TIME,
    nested("[", "]", 900): TIME,
    nested("(", ")", 5_000): "maximum expression depth.\n",
}


@needs_proc
@pytest.mark.parametrize("sql", RUNAWAY, ids=lambda sql: sql[:60])
def test_a_query_that_would_never_end_ends_in_a_sentence(sql: str, catalog: Catalog, record_property: Record) -> None:
    record_property("inputs", 1)
    seconds = "1" if RUNAWAY[sql] == TIME else "50"
    done = shardscan(catalog, "sql", "-", "--timeout", seconds, "--memory", "100MB", input=sql)
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.endswith(RUNAWAY[sql])
    assert done.stderr.count("\n") == 1


def test_a_result_larger_than_the_memory_allowed_is_refused(catalog: Catalog) -> None:
    large = query("SELECT repeat('x', 1000) || i AS x FROM range(20000) t(i)")
    with pytest.raises(QueryStopped, match=r"The result is larger than the 15 MB .* with --memory\.$"):
        confined.rows(catalog.path, large, confined.Bounds(60, 15_000_000))
    assert confined.rows(catalog.path, large, confined.Bounds(60, 200_000_000)).num_rows == 20_000


def test_a_cast_that_crashes_duckdb_comes_to_a_sentence_or_to_rows(catalog: Catalog, record_property: Record) -> None:
    record_property("inputs", 1)
    done = shardscan(catalog, "sql", "select (repeat('[', 100000) || repeat(']', 100000))::json::variant is null")
    assert done.returncode in (0, 6)
    assert "Traceback" not in done.stderr
    assert done.stderr == "" or done.stderr.startswith("Error: The query needed more than the ")


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
    for _ in range(1_000):
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
        shown = process.communicate(timeout=60)
    assert (process.returncode, shown[0]) == (6, "")
    assert f"of memory that it may take, or crashed DuckDB ({death.name}): ask for less" in shown[1]
    assert shown[1].count("\n") == 1


@needs_proc
def test_an_interrupt_ends_the_query_too(catalog: Catalog) -> None:
    with asleep(catalog) as (process, child):
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=60)
        assert gone(child)
    assert (process.returncode, *shown) == (130, "", "Interrupted.\n")


@needs_proc
def test_a_query_does_not_outlive_a_killed_command(catalog: Catalog) -> None:
    with asleep(catalog) as (process, child):
        process.kill()
        process.wait()
        until(lambda: gone(child))


def test_a_question_that_ships_is_bounded_too(catalog: Catalog) -> None:
    done = shardscan(catalog, "ask", "outliers", "--memory", "1B")
    assert (done.returncode, done.stdout, done.stderr.endswith(MEMORY)) == (6, "", True)


def test_the_clock_is_not_that_of_a_reader(catalog: Catalog) -> None:
    words = command(
        "sql", "select range as i from range(200000)", "--timeout", "2", "--store", str(catalog.path.parent)
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment()) as process:
        time.sleep(3)
        assert process.stdout
        assert sum(1 for _ in process.stdout) == 200_000
    assert process.returncode == 0


@pytest.mark.parametrize(
    "words",
    [("--timeout", "0"), ("--timeout", "nan"), ("--timeout", "1000001"), ("--memory", "much"), ("--memory", "-1")],
)
def test_bounds_that_are_none_are_refused(words: tuple[str, str], catalog: Catalog) -> None:
    done = shardscan(catalog, "sql", "select 1", *words)
    assert (done.returncode, done.stdout, words[0] in done.stderr) == (2, "", True)


def test_bounds_come_from_the_environment(catalog: Catalog) -> None:
    words = command("sql", "select pg_sleep(1000)", "--store", str(catalog.path.parent))
    for name, value, end in (("SHARDSCAN_TIMEOUT", "1", TIME), ("SHARDSCAN_QUERY_MEMORY", "1B", MEMORY)):
        done = subprocess.run(words, capture_output=True, text=True, env=environment() | {name: value}, timeout=60)
        assert (done.returncode, done.stderr.endswith(end)) == (6, True)


def test_the_memory_of_a_query_is_half_of_what_is_free_and_at_most_four_gigabytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for free, expected in ((10**9, 5 * 10**8), (10**12, 4 * 10**9), (None, 4 * 10**9)):
        monkeypatch.setattr(memory, "available", lambda free=free: free)
        assert confined.free_memory() == expected


# ---- the other process


def test_it_loads_nothing_from_the_current_folder(catalog: Catalog, tmp_path: Path) -> None:
    for name in ("duckdb", "pyarrow", "json", "shardscan"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('loaded')")
    done = shardscan(catalog, "sql", "select 1 as one", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"one": 1}\n', "")


@pytest.fixture(name="other")
def _other(tmp_path: Path) -> Path:
    """Another copy of the package, which only its own program knows of."""
    shutil.copytree(ROOT / "shardscan", tmp_path / "shardscan", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "main.py").write_text("from shardscan.cli import main; main()")
    return tmp_path


def run_other(other: Path, catalog: Catalog, change: tuple[str, str], sql: str) -> subprocess.CompletedProcess[str]:
    file = other / "shardscan" / "ask.py"
    assert change[0] in file.read_text("utf-8")
    file.write_text(file.read_text("utf-8").replace(*change), "utf-8")
    words = [sys.executable, str(other / "main.py"), "sql", sql, "--store", str(catalog.path.parent)]
    return subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=60)


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
    read = shardscan(catalog, "sql", join, "--unlocked", cwd=tmp_path)
    assert (read.returncode, json.loads(read.stdout)) == (0, {"model": "alpha", "score": 7})
    assert read.stderr.startswith("Unlocked: this query can read and write files")
    write = shardscan(catalog, "sql", f"copy ({join}) to 'joined.parquet'", "--unlocked", cwd=tmp_path)
    assert (write.returncode, json.loads(write.stdout)) == (0, {"Count": 1})
    assert pq.read_table(tmp_path / "joined.parquet").to_pylist() == [{"model": "alpha", "score": 7}]


def test_an_unlocked_question_of_ones_own_reads_files(catalog: Catalog, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2, 3]}), tmp_path / "n.parquet")
    (tmp_path / "own.sql").write_text(
        "-- title: T\n-- why: W\n-- parameter: least = 2: n\n-- example: shardscan sql @own.sql\n"
        "SELECT count(*) AS n FROM 'n.parquet' WHERE n >= $least\n"
    )
    assert json.loads(shardscan(catalog, "sql", "@own.sql", "--unlocked", cwd=tmp_path).stdout) == {"n": 2}
    assert shardscan(catalog, "sql", "@own.sql", cwd=tmp_path).returncode == 6


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM tensors",
        "UPDATE tensors SET tensor = 'x'",
        "DROP TABLE tensors",
        "CREATE TABLE catalog.mine AS SELECT 1",
        "ATTACH '{catalog}' AS again",
        "SELECT 1; SELECT 2",
        "DETACH catalog",
    ],
)
def test_not_even_an_unlocked_query_changes_the_catalog(
    sql: str, catalog: Catalog, told: Told, record_property: Record
) -> None:
    record_property("inputs", 1)
    with pytest.raises(QueryError):
        confined.rows(catalog.path, query(told(sql)), confined.Bounds(60, 10**9), unlocked=True)


def test_an_unlocked_query_is_bounded_too(catalog: Catalog) -> None:
    for sql, seconds, end in (("select pg_sleep(1000)", "1", TIME), ("select repeat('x', 4e9::bigint)", "50", MEMORY)):
        done = shardscan(catalog, "sql", sql, "--unlocked", "--timeout", seconds, "--memory", "100MB")
        assert (done.returncode, done.stderr.endswith(end)) == (6, True)
