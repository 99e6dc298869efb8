"""CATALOG, its tables: each is one `.sql` file, whose header says what Python has to know of it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from shardscan.catalog import checks, empty, sqlfiles
from shardscan.errors import StoreError
from shardscan.plan import products

TYPES_OF_WHOLE_NUMBERS = {"INTEGER", "BIGINT"}
KEYS_OF_SOURCES = {"a scan": ("model",), "a comparison": ("model_a", "model_b"), "alignments": ("model_a", "model_b")}


@pytest.fixture(scope="module")
def columns() -> dict[str, dict[str, str]]:
    """The types of every table's columns."""
    with duckdb.connect() as connection:
        for script in sqlfiles.schema():
            connection.execute(script)
        query = "select table_name, column_name, data_type from duckdb_columns() where not internal"
        types: dict[str, dict[str, str]] = {}
        for table, column, kind in connection.sql(query).fetchall():
            types.setdefault(table, {})[column] = kind
        return types


def test_every_table_has_a_header_of_columns_that_it_has(columns: dict[str, dict[str, str]]) -> None:
    assert sqlfiles.tables().keys() == columns.keys()
    for name, table in sqlfiles.tables().items():
        assert set(table.key) <= columns[name].keys()
        assert table.key[: len(KEYS_OF_SOURCES[table.of])] == KEYS_OF_SOURCES[table.of]
        assert table.summed is None or columns[name][table.summed] in TYPES_OF_WHOLE_NUMBERS


def test_what_tables_are_of_and_which_are_summed() -> None:
    tables = sqlfiles.tables()
    assert {name for name, table in tables.items() if table.of == "a comparison"} == {
        *("diffs", "tensor_diffs", "channel_diffs")
    }
    assert {name for name, table in tables.items() if table.of == "alignments"} == {"alignments"}
    assert {name: table.summed for name, table in tables.items() if table.summed} == {
        "alignments": "channel_b",
        "channel_diffs": "channel_b",
        "channels": "channel",
        "distribution": "count",
        "singular_values": "i",
        "spectra": "rank",
        "tensor_diffs": "values",
        "tensors": "bytes",
    }


def test_a_script_may_hold_several_tables() -> None:
    one = "-- key: model, a\n-- of: a scan\nCREATE TABLE a (a INTEGER);"
    other = "-- of: alignments\n-- key: b\nCREATE TABLE b (b INTEGER);"
    assert sqlfiles._read_headers((f"{one}\n\n{other}",)) == {
        "a": sqlfiles.Table(("model", "a"), "a scan", None),
        "b": sqlfiles.Table(("b",), "alignments", None),
    }


@pytest.mark.parametrize(
    "header",
    ["", "-- of: a scan\n", "-- key: model\n", "-- key: model\n-- of: a person\n", "-- key: model of: a scan\n"],
)
def test_a_table_that_does_not_say_what_it_is_is_named(header: str) -> None:
    with pytest.raises(StoreError, match="The SQL of the table toys does not say"):
        sqlfiles._read_headers((f"{header}CREATE TABLE toys (model VARCHAR);",))


def test_a_product_brings_tables_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    empty.create(tmp_path / "without.duckdb")
    script = "-- key: model, toy\n-- of: a scan\nCREATE TABLE toys (model VARCHAR, toy INTEGER);"
    with products.registered(products.Product(name="toys/1", steps="", rows="", schema=script)):
        assert sqlfiles.tables()["toys"] == sqlfiles.Table(("model", "toy"), "a scan", None)
        for name in ("with", "again"):  # made by statements, and from what is ready
            empty.create(tmp_path / f"{name}.duckdb")
            assert list(checks.find_damage(tmp_path / f"{name}.duckdb")) == []
        assert list(checks.find_damage(tmp_path / "without.duckdb")) == ["It has no table toys."]
        assert checks.is_outdated(tmp_path / "without.duckdb")
    assert "toys" not in sqlfiles.tables()
