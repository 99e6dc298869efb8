"""The keys of the tables, which no index enforces: what conftest checks of every catalog that a test builds."""

from pathlib import Path

import duckdb

from shardscan.catalog import sqlfiles


def repeated(catalog: Path) -> list[str]:
    """The tables in which a key stands twice."""
    with duckdb.connect(catalog, read_only=True) as connection:
        counts = {
            name: connection.execute(
                f"select count(*), count(distinct ({', '.join(table.key)},)) from {name}"
            ).fetchall()
            for name, table in sqlfiles.tables().items()
        }
    return [name for name, ((rows, distinct),) in counts.items() if rows != distinct]
