"""The keys of the tables, which no index enforces: what conftest checks of every catalog that a test builds."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import duckdb

from shardscan.catalog import sqlfiles
from shardscan.catalog.paths import attach_read_only


def repeated(catalog: Path) -> list[str]:
    """The tables in which a key stands twice."""
    connection = _connection()
    attach_read_only(connection, catalog, "checked")
    try:
        return [table for (table,) in connection.execute(_repeated_in(tuple(sqlfiles.schema()))).fetchall()]
    finally:
        connection.execute("detach checked")


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    """One for the whole process: it takes longer to make another than to check a small catalog."""
    return duckdb.connect(config={"threads": 1})


@cache
def _repeated_in(scripts: Sequence[str]) -> str:
    """The query that names them, of all tables that these scripts create."""
    return " union all ".join(
        f"(select '{name}' from checked.{name} having count(*) <> count(distinct ({', '.join(table.key)},)))"
        for name, table in sqlfiles.tables().items()
    )
