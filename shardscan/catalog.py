"""CATALOG: a store's scans as DuckDB tables; the only writer of DuckDB.

The catalog is derived: it is built beside the old one from Zarr and the commits, and renamed into place, so readers see
the old one or the new one. It is never migrated; `build(rebuild=True)` makes it again from nothing but the store.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc

from shardscan import commits, rows, sqlfiles, store
from shardscan.commits import Scan
from shardscan.errors import StoreError, StoreNotFound

FILE = "catalog.duckdb"
SUMMED = {
    "channels": "mean_abs",
    "distribution": "count",
    "singular_values": "sigma",
    "spectra": "frobenius",
    "tensors": "rms",
}


def build(folder: Path, *, rebuild: bool = False) -> Path:
    """Build the catalog of the store in `folder`; the path of the file.

    Models whose commits the old catalog has loaded already are taken from it, the others from Zarr; with `rebuild` all
    are. Both give the same rows.
    """
    if not (folder / "commits").is_dir():
        raise StoreNotFound(
            f"{folder} is not a store: there is nothing to build a catalog from; run shardscan ingest first."
        )
    target, building = folder / FILE, folder / f"{FILE}.{os.getpid()}.partial"
    building.unlink(missing_ok=True)
    try:
        with duckdb.connect(building) as connection:
            for script in (*sqlfiles.schema(), *sqlfiles.views().values()):
                _run(connection, script)
            _fill(connection, store.current(folder), None if rebuild or not target.exists() else target)
        building.replace(target)
    except duckdb.Error as error:
        raise StoreError(f"the catalog of {folder} could not be built: {error}") from error
    finally:
        building.unlink(missing_ok=True)
        Path(f"{building}.wal").unlink(missing_ok=True)
    return target


def _fill(connection: duckdb.DuckDBPyConnection, scans: Iterable[Scan], old: Path | None) -> None:
    known = _attach(connection, old) if old else {}
    for scan in scans:
        facts, done = store.attributes(scan), commits.committed(scan)
        model = str(facts["model"])
        if known.get(model) == (scan.id, len(done), len(commits.runs(scan)), rows.identity(facts, done)):
            _copy(connection, model)
        else:
            _load(connection, scan)


def _attach(connection: duckdb.DuckDBPyConnection, old: Path) -> dict[str, tuple[str, int, int, str]]:
    """The old catalog's models with what they were built from; empty where it cannot be used."""
    try:
        _run(connection, f"ATTACH {_quoted(old)} AS old (READ_ONLY)")
        if _columns(connection, "'old'") != _columns(connection, "current_database()"):
            return {}  # another version of shardscan made it
        runs = "(SELECT count(*) FROM old.runs r WHERE r.model = m.model)"
        found = _run(connection, f"SELECT model, scan, commits, {runs}, identity FROM old.models m")
    except duckdb.Error:
        return {}
    return {model: (scan, products, runs, identity) for model, scan, products, runs, identity in found}


def _columns(connection: duckdb.DuckDBPyConnection, database: str) -> list[Any]:
    query = (
        f"SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE database_name = {database} ORDER BY ALL"
    )
    return _run(connection, query)


def _copy(connection: duckdb.DuckDBPyConnection, model: str) -> None:
    for table in _tables(connection):
        columns = f"INSERT INTO {table} BY NAME SELECT * FROM old.{table}"
        _run(connection, f"{columns} WHERE model = $model", {"model": model})


def _load(connection: duckdb.DuckDBPyConnection, scan: Scan) -> None:
    """Insert a scan's rows, then compare counts and sums: DuckDB 2.0.0 can silently drop rows of an Arrow table."""
    expected: dict[str, list[tuple[int, float]]] = {}
    for table, piece in rows.of_scan(scan):
        connection.register("piece", piece)
        _run(connection, f"INSERT INTO {table} BY NAME SELECT * FROM piece")
        connection.unregister("piece")
        total = pc.sum(piece[SUMMED[table]]).as_py() if table in SUMMED else None
        expected.setdefault(table, []).append((piece.num_rows, float(total or 0)))
    model = str(store.attributes(scan)["model"])
    for table, pieces in expected.items():
        total = f"coalesce(sum({SUMMED[table]}::DOUBLE), 0)" if table in SUMMED else "0"
        query = f"SELECT count(*), {total} FROM {table} WHERE model = $model"
        ((count, found),) = _run(connection, query, {"model": model})
        wanted = sum(n for n, _ in pieces), math.fsum(s for _, s in pieces)
        if count != wanted[0] or not math.isclose(found, wanted[1], rel_tol=1e-9):
            raise StoreError(
                f"DuckDB kept {count} of {wanted[0]} rows of {table}, which is a defect of DuckDB: report it."
            )


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    query = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()"
    return [name for (name,) in _run(connection, query)]


def _run(connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, str] | None = None) -> list[Any]:
    """Execute and fetch: until its result is fetched, DuckDB 2 may not have done a statement."""
    return connection.execute(sql, parameters).fetchall()


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
