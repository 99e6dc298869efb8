"""The locked connection, and what ad-hoc SQL and its parameters become."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import shardscan
from made import tiny
from made.catalogs import Catalog
from shardscan.answers.connection import ask, connect, run_sql
from shardscan.answers.questions import guess_value
from shardscan.errors import QueryError, QuestionNotFound, StoreError, StoreNotFound


def test_a_query_may_not_create_anything_in_memory_either(catalog: Catalog) -> None:
    with pytest.raises(QueryError, match="This is CREATE and the catalog is only read"):
        run_sql(catalog.path, "CREATE TABLE memory.main.mine (i INTEGER)")


def test_a_new_connection_sees_what_was_ingested_while_an_old_one_is_open(tmp_path: Path) -> None:
    store, models = tmp_path / "it's a store", "SELECT model FROM models ORDER BY model"
    for seed, name in enumerate(("one", "two")):
        tiny.llama(tmp_path / name, seed=seed)
    shardscan.ingest(tmp_path / "one", store)
    with connect(store) as old:
        assert old.sql(models).fetchall() == [("one",)]
        shardscan.ingest(tmp_path / "two", store)
        with connect(store) as new:
            assert new.sql(models).fetchall() == [("one",), ("two",)]
            assert new.sql("SELECT DISTINCT model FROM layer_profile ORDER BY model").fetchall() == [("one",), ("two",)]
            assert new.sql("SELECT count(*) FROM quant_error(name := 'lm_head%')").fetchall() == [(0,)]
        assert run_sql(store, models)["model"].to_pylist() == ["one", "two"]
        assert old.sql(models).fetchall() == [("one",)]


def test_the_database_is_called_catalog_and_its_views_and_macros_are_found(catalog: Catalog) -> None:
    assert run_sql(catalog.path, "SELECT current_database() AS name")["name"].to_pylist() == ["catalog"]
    assert run_sql(catalog.path, "FROM catalog.layer_profile").num_rows > 0
    assert run_sql(catalog.path, "FROM quant_error(bits := 8)").num_rows > 0


def test_two_connections_may_read_at_once_from_the_store_or_the_file(catalog: Catalog) -> None:
    with connect(catalog.path.parent) as one, connect(str(catalog.path)) as two:
        assert (
            one.sql("SELECT count(*) FROM models").fetchall()
            == two.sql("SELECT count(*) FROM models").fetchall()
            == [(2,)]
        )


def test_a_missing_store_says_how_to_make_one(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StoreNotFound, match="shardscan ingest CHECKPOINT --store"):
            connect(path)


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000])
def test_a_file_that_is_no_catalog_is_a_store_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.duckdb").write_bytes(content)
    with pytest.raises(StoreError, match=r"catalog --rebuild"):
        connect(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("3.0", 3.0),
        (".5", 0.5),
        ("1e-8", 1e-8),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("q_proj", "q_proj"),
        ("", ""),
        ("nan", "nan"),
        ("1_000", "1_000"),
        (" 3", " 3"),
        ("3B", "3B"),
        ("9" * 38, 10**38 - 1),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_text_becomes_the_value_it_reads_as(text: str, value: Any) -> None:
    assert guess_value(text) == value and type(guess_value(text)) is type(value)


def test_parameters_reach_the_query_with_their_types(catalog: Catalog) -> None:
    sql = "SELECT DISTINCT layer, role FROM tensors WHERE layer = $layer AND role = $role"
    assert run_sql(catalog.path, sql, {"layer": "0", "role": "q_proj"}).to_pylist() == [{"layer": 0, "role": "q_proj"}]


@pytest.mark.parametrize(
    ("sql", "parameters"), [("SELECT '\udce9'", {}), ("SELECT $x", {"x": "\udce9"}), ("SELECT 1", {"\udce9": "1"})]
)
def test_text_that_is_not_utf8_is_refused(catalog: Catalog, sql: str, parameters: dict[str, str]) -> None:
    with pytest.raises(QueryError, match=r"'\\udce9'"):
        run_sql(catalog.path, sql, parameters)


@pytest.mark.parametrize("parameter", ["sigma", "top"])
def test_a_number_of_thousands_of_digits_is_refused_in_a_short_sentence(catalog: Catalog, parameter: str) -> None:
    with pytest.raises(QueryError, match=r"… \(5,000 characters\)"):
        ask(catalog.path, "outliers", {parameter: "9" * 5000})


@pytest.mark.parametrize(("given", "named"), [({}, "'layer'"), ({"layer": "0", "head": "1"}, "'head'")])
def test_a_missing_or_unknown_parameter_is_named(catalog: Catalog, given: dict[str, str], named: str) -> None:
    with pytest.raises(QueryError, match=f"{named}.*takes layer"):
        run_sql(catalog.path, "SELECT $layer", given)


@pytest.mark.parametrize("sql", ["", "SELECT 1; SELECT 2", "-- nothing"])
def test_a_query_is_one_statement(catalog: Catalog, sql: str) -> None:
    with pytest.raises(QueryError, match="a query is one"):
        run_sql(catalog.path, sql)


def test_an_error_keeps_the_line_that_points_at_it(catalog: Catalog) -> None:
    with pytest.raises(QueryError, match=r"LINE 1: SELECT nope FROM tensors\n\s+\^"):
        run_sql(catalog.path, "SELECT nope FROM tensors")


@pytest.mark.parametrize(
    "sql",
    [
        "DESCRIBE tensors",
        "SUMMARIZE files",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "FROM models",
        "PIVOT tensors ON part USING count(*) GROUP BY model",
        "PRAGMA table_info('tensors')",
        "explain (format json) select 1",
        "EXPLAIN ANALYZE SELECT 1",
    ],
)
def test_statements_that_only_read_are_queries_too(catalog: Catalog, sql: str) -> None:
    assert run_sql(catalog.path, sql).num_rows > 0


def test_what_arrow_cannot_hold_is_refused_in_a_sentence(catalog: Catalog) -> None:
    with pytest.raises(
        QueryError, match=r"Arrow cannot hold this result \(Recursion .*\): cast its columns to text\.$"
    ):
        run_sql(catalog.path, "SELECT " + "[" * 70 + "1" + "]" * 70)


def test_a_sum_of_integers_is_an_int64_where_it_fits_and_rows_may_be_none(catalog: Catalog) -> None:
    table = run_sql(
        catalog.path,
        "SELECT sum(bytes) AS small, 170141183460469231731687303715884105727::HUGEINT // 2 AS large FROM files",
    )
    assert table.schema.field("small").type == pa.int64() and table["small"].to_pylist() == [13000]
    assert table.schema.field("large").type == pa.decimal128(38, 0)
    assert (
        run_sql(catalog.path, "SELECT sum(bytes) AS s FROM files WHERE false GROUP BY model").schema.field("s").type
        == pa.int64()
    )


def test_an_unknown_question_names_the_nearest(catalog: Catalog) -> None:
    with pytest.raises(QuestionNotFound, match="outliers"):
        ask(catalog.path, "outlier", {})


def test_an_unknown_parameter_of_a_question_lists_the_known(catalog: Catalog) -> None:
    with pytest.raises(QueryError, match="'sigmas': it takes model, per_matrix, sigma, top"):
        ask(catalog.path, "outliers", {"sigmas": "3"})


@pytest.mark.parametrize(("name", "text"), [("top", "2.5"), ("top", "many"), ("sigma", "true"), ("sigma", "null")])
def test_a_value_of_the_wrong_type_is_refused(catalog: Catalog, name: str, text: str) -> None:
    with pytest.raises(QueryError, match=f"The parameter {name} is a"):
        ask(catalog.path, "outliers", {name: text})


def test_a_text_parameter_stays_text_and_a_whole_number_may_stand_for_a_float(catalog: Catalog) -> None:
    assert ask(catalog.path, "low-rank-heads", {"role": "3"}).num_rows == 0
    assert ask(catalog.path, "outliers", {"sigma": "2"}).num_rows > 0


def test_a_model_pattern_that_fits_none_is_an_error_that_lists_the_models(catalog: Catalog) -> None:
    with pytest.raises(QueryError, match=r"No model here is like 'Alpha': there are 'alpha', 'beta'"):
        ask(catalog.path, "outliers", {"model": "Alpha"})
    assert ask(catalog.path, "outliers", {"model": "al%"}).num_rows > 0


def test_interrupting_a_query_raises_keyboard_interrupt(catalog: Catalog) -> None:
    script = (
        "import sys\n"
        "from shardscan.answers.connection import run_sql\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    run_sql(sys.argv[1], 'SELECT sum(a.i * b.i % 7) FROM range(10000000) a(i), range(10000000) b(i)')\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(catalog.path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        try:
            work_for_a_second(child)  # which only the query does
            os.kill(child.pid, signal.SIGINT)
            assert child.wait(timeout=120) == 130
        finally:
            child.kill()


def work_for_a_second(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has had one more second of a processor, however long it takes to get one."""
    stat = Path(f"/proc/{process.pid}/stat")

    def worked() -> float:
        return sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")

    began = worked() if stat.exists() else 0.0
    while stat.exists() and worked() < began + 1:
        assert process.poll() is None
        time.sleep(0.01)
