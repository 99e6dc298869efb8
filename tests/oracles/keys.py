"""The keys of the tables, which no index enforces: what conftest checks of every catalog that a test builds."""

from functools import cache
from pathlib import Path

import duckdb

from shardscan.catalog.build import KEYS

REPEATED = " union all ".join(
    f"(select '{table}' from checked.{table} having count(*) <> count(distinct ({key},)))"
    for table, key in KEYS.items()
)


def repeated(catalog: Path) -> list[str]:
    """The tables in which a key stands twice."""
    connection = _connection()
    connection.execute("attach '{}' as checked (read_only)".format(str(catalog).replace("'", "''")))
    try:
        return [table for (table,) in connection.execute(REPEATED).fetchall()]
    finally:
        connection.execute("detach checked")


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    """One for the whole process: it takes longer to make another than to check a small catalog."""
    return duckdb.connect(config={"threads": 1})
