"""The keys of the tables, which no index enforces: what conftest checks of every catalog that a test builds."""

from pathlib import Path

import duckdb

from shardscan.catalog.build import KEYS


def repeated(catalog: Path) -> list[str]:
    """The tables in which a key stands twice."""
    with duckdb.connect(catalog, read_only=True) as connection:
        counts = {
            table: connection.execute(f"select count(*), count(distinct ({key},)) from {table}").fetchall()
            for table, key in KEYS.items()
        }
    return [table for table, ((rows, distinct),) in counts.items() if rows != distinct]
