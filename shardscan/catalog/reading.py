"""CATALOG, what there is of an old one, or of a stranger's: its columns, and what its rows were built from.

It is attached as the database `old` to a DuckDB in memory, or to the new catalog, and is never written to. Whoever
opens one that somebody else may have made attaches it locked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from shardscan.catalog.comparisons import digest_alignments
from shardscan.catalog.lockdown import LOCK, SETTINGS
from shardscan.catalog.paths import attach_read_only
from shardscan.catalog.sources import Identity, Models, Origin
from shardscan.store.alignments import Alignment

READING: dict[str, Any] = {
    **SETTINGS, "threads": 1, "temp_directory": "", "memory_limit": "4GB", "python_enable_replacements": False,
}  # fmt: skip
OLD, OURS = "'old'", "current_database()"  # SQL that names a database


def open_empty() -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that reaches nothing by itself; to be closed with `with`."""
    return duckdb.connect(config=READING)


def attach(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Attach a catalog that this store's own writer made."""
    attach_read_only(connection, file, "old")


def attach_locked(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Attach a catalog that somebody else may have made, and let nothing in it reach beyond it."""
    attach_read_only(connection, file, "old")
    for statement in LOCK:
        fetch(connection, statement)


def fetch(connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Any] | None = None) -> list[Any]:
    """Execute a statement and fetch its rows: until they are fetched, DuckDB 2 may not have done it."""
    return connection.execute(sql, values).fetchall()


def read_columns(connection: duckdb.DuckDBPyConnection, database: str) -> list[Any]:
    """Table, column and type of everything that is a table there: a view of its name could read anything."""
    tables = f"SELECT table_name FROM duckdb_tables() WHERE database_name = {database}"
    columns = f"SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE database_name = {database}"
    return fetch(connection, f"{columns} AND table_name IN ({tables}) ORDER BY ALL")


def read_definitions(connection: duckdb.DuckDBPyConnection, database: str) -> list[Any]:
    """Name and text of every view and macro, beside the columns of tables."""
    views = f"SELECT view_name, sql FROM duckdb_views() WHERE NOT internal AND database_name = {database}"
    macros = (
        "SELECT function_name, macro_definition FROM duckdb_functions() "
        f"WHERE NOT internal AND database_name = {database}"
    )
    return [read_columns(connection, database), fetch(connection, f"{views} UNION ALL {macros} ORDER BY ALL")]


def read_origins(connection: duckdb.DuckDBPyConnection) -> dict[Identity, Origin]:
    """What the rows of the old catalog were built from; nothing where another version of shardscan made it."""
    if read_columns(connection, OLD) != read_columns(connection, OURS):
        return {}
    runs = "(SELECT count(*) FROM old.runs r WHERE r.model = m.model)"
    scans = fetch(connection, f"SELECT model, scan, state, {runs}, channels FROM old.models m")
    comparisons = fetch(connection, "SELECT model_a, model_b, comparison, state, channels FROM old.diffs")
    return {
        **{("a scan", (model,)): tuple(origin) for model, *origin in scans},
        **{("a comparison", (a, b)): tuple(origin) for a, b, *origin in comparisons},
        **{("alignments", models): (digest_alignments(of),) for models, of in _read_alignments(connection).items()},
    }


def _read_alignments(connection: duckdb.DuckDBPyConnection) -> dict[Models, list[Alignment]]:
    """The alignments of the old catalog by the two models that they are of."""
    columns = "model_a, model_b, weight_a, weight_b, axis, method, reason"
    channels = "list(coalesce(channel_a, -1) ORDER BY channel_b)"
    alignments: dict[Models, list[Alignment]] = {}
    for a, b, weight_a, weight_b, axis, method, reason, channels_a in fetch(
        connection, f"SELECT {columns}, {channels} FROM old.alignments GROUP BY ALL"
    ):
        alignment = Alignment(weight_a, weight_b, axis, np.array(channels_a, np.int64), method, reason)
        alignments.setdefault((a, b), []).append(alignment)
    return alignments
