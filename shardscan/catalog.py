"""CATALOG: a store's scans as DuckDB tables; the only writer of DuckDB.

The catalog is derived: it is built beside the old one from Zarr and the commits, and renamed into place, so readers see
the old one or the new one. It is never migrated; `build(rebuild=True)` makes it again from nothing but the store.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc

from shardscan import commits, rows, sqlfiles, store, writers
from shardscan.commits import CATALOG, PARTIAL, Scan
from shardscan.contents import Contents, contents
from shardscan.errors import StoreError, StoreNotFound, shown
from shardscan.locked import LOCK, SETTINGS

BUFFERS = 96 << 20  # bytes of memory that DuckDB may keep pages in

# what is unique in each table, though no index enforces it
KEYS = {
    "models": "model",
    "files": "model, file",
    "runs": "model, run",
    "tensors": "model, tensor",
    "matrices": "model, matrix",
    "channels": "model, matrix, axis, channel",
    "spectra": "model, spectrum",
    "singular_values": "model, spectrum, i",
    "spectrum_fits": "model, spectrum",
    "distribution": "model, tensor, bin",
}

READING: dict[str, Any] = {
    **SETTINGS, "threads": 1, "temp_directory": "", "memory_limit": "4GB", "python_enable_replacements": False,
}  # fmt: skip
DISK = (duckdb.IOException, duckdb.TransactionException, duckdb.FatalException)  # what a full one raises

# a whole number in each large table, whose sum is exact
SUMMED = {"channels": "channel", "distribution": "count", "singular_values": "i", "spectra": "rank", "tensors": "bytes"}


def build(folder: Path, *, rebuild: bool = False) -> Path:
    """Build the catalog of the store in `folder`; the path of the file.

    Models whose commits the old catalog has loaded already are taken from it, the others from Zarr; with `rebuild`, and
    where the old one is damaged, all are. Both give the same rows.
    """
    if not (folder / "commits").is_dir():
        raise StoreNotFound(
            f"{folder} is not a store: there is nothing to build a catalog from; run shardscan ingest first."
        )
    target = folder / CATALOG
    try:
        if not rebuild and target.exists():
            with suppress(duckdb.Error):
                return _build(folder, target, target)
        return _build(folder, target, None)
    except DISK as error:
        raise writers.unwritable(folder, error) from error
    except duckdb.Error as error:
        raise StoreError(f"the catalog of {folder} could not be built: {error}") from error


def _build(folder: Path, target: Path, old: Path | None) -> Path:
    building = folder / f"{CATALOG}.{os.getpid()}{PARTIAL}"
    building.unlink(missing_ok=True)
    try:
        # one thread writes the smallest file, and as fast as two: rows come in no faster
        with duckdb.connect(building, config={"threads": 1, "memory_limit": f"{BUFFERS}B"}) as connection:
            if old:
                _run(connection, f"ATTACH {_quoted(old)} AS old (READ_ONLY, TYPE duckdb)")
            _run(connection, "BEGIN")  # a checkpoint after each of many small statements would take most of the time
            for script in (*sqlfiles.schema(), *sqlfiles.views().values()):
                _run(connection, script)
            _fill(connection, store.current(folder), _built_from(connection) if old else {})
            _run(connection, "COMMIT")
        return building.replace(target)
    finally:
        building.unlink(missing_ok=True)
        Path(f"{building}.wal").unlink(missing_ok=True)


def _fill(connection: duckdb.DuckDBPyConnection, scans: Iterable[Scan], known: Mapping[str, tuple[Any, ...]]) -> None:
    for scan in scans:
        held = contents(scan)
        if _is_built_from(known.get(held.model), held):
            _copy(connection, held)
            continue
        try:
            _load(connection, held)
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"the scan of {shown(held.model)} in {scan.store} is damaged ({error}): ingest its checkpoint again, "
                "which makes what is damaged anew; until then the last catalog answers."
            ) from error


def _is_built_from(known: tuple[Any, ...] | None, held: Contents) -> bool:
    """Whether a model's rows are of what is committed now."""
    *built_from, channels = known or (None,)
    is_as_chosen = held.channels in (None, channels)  # once somebody has chosen, it is never None again
    return built_from == [held.scan.id, held.state, len(commits.runs(held.scan))] and is_as_chosen


def damage(file: Path) -> Iterator[str]:
    """What is wrong with a catalog by itself, in sentences: blocks that are not what was written, keys that repeat."""
    with duckdb.connect(config=READING) as connection:
        try:
            _attach(connection, file)
        except duckdb.Error as error:
            yield f"It cannot be opened: {_first_line(error)}"
            return
        known = _columns(connection, "'old'")
        for table, key in KEYS.items():
            names = ", ".join(f'"{column}"' for of, column, _ in known if of == table)
            if not names:
                yield f"It has no table {table}."
                continue
            try:
                # DuckDB compares the checksum of a block when it reads it; sum of hashes, or it would not read
                _run(connection, f"SELECT bit_xor(hash({names})) FROM old.{table}")
                counts = f"SELECT count(*), count(DISTINCT hash({key})) FROM old.{table}"
                ((rows, keys),) = _run(connection, counts)
            except duckdb.Error as error:
                yield f"Its table {table} cannot be read: {_first_line(error)}"
                continue
            if rows != keys:
                yield f"Its table {table} has {rows:,} rows and {keys:,} keys ({key})."


def stale(file: Path, scans: Iterable[Scan]) -> list[str]:
    """The models whose rows in a catalog are not of what is committed, by name; all where it is of another version."""
    with duckdb.connect(config=READING) as connection:
        for script in (*sqlfiles.schema(), *sqlfiles.views().values()):
            _run(connection, script)
        try:
            _attach(connection, file)
            known = _built_from(connection)
        except duckdb.Error:
            known = {}
    held = {found.model: found for found in map(contents, scans)}
    return [
        model
        for model in sorted(held.keys() | known.keys())
        if model not in held or not _is_built_from(known.get(model), held[model])
    ]


def _attach(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Attach a catalog that somebody else may have made, and let nothing in it reach beyond it."""
    for statement in (f"ATTACH {_quoted(file)} AS old (READ_ONLY, TYPE duckdb)", *LOCK):
        _run(connection, statement)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") + "."


def _built_from(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[Any, ...]]:
    """The old catalog's models with what they were built from; none where another version of shardscan made it."""
    if _columns(connection, "'old'") != _columns(connection, "current_database()"):
        return {}
    runs = "(SELECT count(*) FROM old.runs r WHERE r.model = m.model)"
    found = _run(connection, f"SELECT model, scan, state, {runs}, channels FROM old.models m")
    return {model: tuple(built_from) for model, *built_from in found}


def _columns(connection: duckdb.DuckDBPyConnection, database: str) -> list[Any]:
    """Table, column and type of everything that is a table there: a view of its name could read anything."""
    tables = f"SELECT table_name FROM duckdb_tables() WHERE database_name = {database}"
    columns = f"SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE database_name = {database}"
    return _run(connection, f"{columns} AND table_name IN ({tables}) ORDER BY ALL")


def _copy(connection: duckdb.DuckDBPyConnection, held: Contents) -> None:
    """Take a model's rows from the old catalog, less what its config says now."""
    model = held.model
    for table in _tables(connection):
        columns = f"INSERT INTO {table} BY NAME SELECT * FROM old.{table}"
        _run(connection, f"{columns} WHERE model = $model", {"model": model})
    said = rows.said(held)
    changes = ", ".join(f"{column} = ${column}" for column in said)
    _run(connection, f"UPDATE models SET {changes} WHERE model = $model", {**said, "model": model})


def _load(connection: duckdb.DuckDBPyConnection, held: Contents) -> None:
    """Insert a scan's rows, then compare counts and sums: DuckDB 2.0.0 can silently drop rows of an Arrow table."""
    expected: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for table, piece in _ahead(rows.of_scan(held)):
        # by its name here: a registered view would keep every piece in memory until the transaction ends
        connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM piece").fetchall()
        expected[table] += piece.num_rows
        sums[table] += pc.sum(piece[SUMMED[table]]).as_py() or 0 if table in SUMMED else 0
    for table, count in expected.items():
        total = f"coalesce(sum({SUMMED[table]}), 0)::HUGEINT" if table in SUMMED else "0"
        found = _run(connection, f"SELECT count(*), {total} FROM {table} WHERE model = $model", {"model": held.model})
        if found != [(count, sums[table])]:
            raise StoreError(
                f"DuckDB kept {found[0][0]} of {count} rows of {table}, which is a defect of DuckDB: report it."
            )


def _ahead(pieces: Iterator[rows.Rows]) -> Iterator[rows.Rows]:
    """The same, each made while the one before it is inserted."""
    with ThreadPoolExecutor(1, "rows") as maker:
        coming = maker.submit(next, pieces, None)
        while piece := coming.result():
            coming = maker.submit(next, pieces, None)
            yield piece


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    query = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()"
    return [name for (name,) in _run(connection, query)]


def _run(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
    """Execute and fetch: until its result is fetched, DuckDB 2 may not have done a statement."""
    return connection.execute(sql, parameters).fetchall()


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
