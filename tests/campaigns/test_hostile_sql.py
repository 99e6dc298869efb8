"""SQL of strangers: what it must not reach, and what must stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from made.campaigns import sampled
from made.catalogs import Catalog
from made.commands import ROOT, shardscan
from oracles.tally import Tally
from shardscan.answers import bounded
from shardscan.answers.connection import connect, run_sql
from shardscan.answers.questions import make_query
from shardscan.errors import QueryError

pytestmark = pytest.mark.hostile
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")

SECRET = "do-not-tell-6502"
LINES = (ROOT / "tests" / "campaigns" / "hostile_sql.txt").read_text("utf-8").splitlines()
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


# ---- what it must not reach


def test_a_catalog_of_a_stranger_reaches_no_more_than_its_sql(
    told: Told, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("theirs") / "catalog.duckdb"
    with duckdb.connect(str(file)) as theirs:
        theirs.execute(told("CREATE VIEW models AS FROM read_csv('{secret}')"))
        theirs.execute(told("CREATE MACRO stolen() AS TABLE FROM read_text('{folder}/*')"))
    for sql in ("FROM models", "FROM stolen()"):
        with pytest.raises(QueryError, match="are locked here") as refusal:
            run_sql(file, sql)
        assert SECRET not in str(refusal.value)


def test_there_are_many_statements() -> None:
    assert len(set(STATEMENTS)) == len(STATEMENTS) > 200


@pytest.mark.parametrize("sql", sampled(STATEMENTS, 5))
def test_a_statement_that_reaches_out_is_refused(sql: str, catalog: Catalog, told: Told, tally: Tally) -> None:
    tally(inputs=1)
    python_table = pa.table({"a": [SECRET]})
    with pytest.raises(QueryError) as refusal:
        run_sql(catalog.path, told(sql))
    assert SECRET not in str(refusal.value)
    # a connection in Python may make temporary tables, and still reaches nothing
    with connect(catalog.path) as connection, suppress(duckdb.Error):
        assert SECRET not in str(connection.execute(told(sql)).fetchall())
    assert python_table.num_rows == 1


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_is_accepted_is_harmless(sql: str, catalog: Catalog, told: Told, tally: Tally) -> None:
    tally(inputs=1)
    assert SECRET not in str(run_sql(catalog.path, told(sql)).to_pylist())


@pytest.mark.parametrize(
    "arguments", sampled(["('{secret}')", "('{folder}/secret.parquet')", "('{folder}', '{secret}')", "()"], 4)
)
def test_no_function_that_duckdb_has_opens_a_file(arguments: str, catalog: Catalog, told: Told, tally: Tally) -> None:
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
    tally(inputs=len(functions))


@pytest.mark.parametrize(
    "sql", ["FROM read_parquet('x')", "FROM 'x.csv'", "COPY tensors TO 'x'", "ATTACH 'x'", "LOAD x", "SET threads = 1"]
)
def test_a_refusal_of_files_and_settings_names_the_way_to_them(sql: str, catalog: Catalog) -> None:
    with pytest.raises(QueryError, match=r"files, the network and settings are locked here, and .* --unlocked` opens"):
        run_sql(catalog.path, sql)


# ---- what must stop it, through the command


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
    "select error(repeat('x', 1000000))": "(1,000,021 characters)\n",
    nested("[", "]", 900): TIME,
    nested("(", ")", 5_000): "maximum expression depth.\n",
}


@needs_proc
@pytest.mark.parametrize("sql", sampled(RUNAWAY, 5), ids=lambda sql: sql[:60])
def test_a_query_that_would_never_end_ends_in_a_sentence(sql: str, catalog: Catalog, tally: Tally) -> None:
    tally(inputs=1)
    seconds = "1" if RUNAWAY[sql] == TIME else "50"
    done = shardscan(catalog.path.parent, "sql", "-", "--timeout", seconds, "--memory", "100MB", input=sql)
    tally(tracebacks=done.stderr.count("Traceback"))
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.endswith(RUNAWAY[sql])
    assert done.stderr.count("\n") == 1


def test_a_cast_that_crashes_duckdb_comes_to_a_sentence_or_to_rows(catalog: Catalog, tally: Tally) -> None:
    tally(inputs=1)
    done = shardscan(
        catalog.path.parent, "sql", "select (repeat('[', 100000) || repeat(']', 100000))::json::variant is null"
    )
    assert done.returncode in (0, 6)
    assert "Traceback" not in done.stderr
    assert done.stderr == "" or done.stderr.startswith("Error: The query needed more than the ")


# ---- unlocked


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
def test_not_even_an_unlocked_query_changes_the_catalog(sql: str, catalog: Catalog, told: Told, tally: Tally) -> None:
    tally(inputs=1)
    with pytest.raises(QueryError):
        bounded.run_bounded(catalog.path, make_query(told(sql)), bounded.Bounds(60, 10**9), unlocked=True)
