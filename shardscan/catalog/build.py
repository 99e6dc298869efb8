"""CATALOG: a store's scans, and what two of them differ by, as DuckDB tables; the only writer of DuckDB.

The catalog is derived: it is built beside the old one from Zarr and the commits, and renamed into place, so readers see
the old one or the new one. It is never migrated; `build(rebuild=True)` makes it again from nothing but the store.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from shardscan.catalog import empty, rows, sqlfiles
from shardscan.catalog.paths import write_database
from shardscan.catalog.reading import attach, fetch, read_origins
from shardscan.catalog.scans import Contents
from shardscan.catalog.sources import (
    Identity,
    Origin,
    Source,
    bind_models,
    identify_source,
    is_current,
    list_tables,
    make_rows,
    name_models,
    read_sources,
)
from shardscan.errors import StoreError, StoreNotFound
from shardscan.store.arrays import list_current_scans
from shardscan.store.commits import Scan
from shardscan.store.lock import unwritable
from shardscan.store.names import CATALOG, PARTIAL

BUFFERS = 96 << 20  # bytes of memory that DuckDB may keep pages in
INSERTED = 4 << 20  # bytes of rows that are collected for one insert into each table; a larger piece is not cut
DISK = (OSError, duckdb.IOException, duckdb.TransactionException, duckdb.FatalException)  # what a full one raises


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
                return _replace_catalog(folder, target, old=target)
        return _replace_catalog(folder, target, old=None)
    except DISK as error:
        raise unwritable(folder, error) from error
    except duckdb.Error as error:
        raise StoreError(f"the catalog of {folder} could not be built: {error}") from error


def _replace_catalog(folder: Path, target: Path, old: Path | None) -> Path:
    """Build a catalog beside `target`, from `old` where that has what is committed, and rename it into place."""
    building = folder / f"{CATALOG}.{os.getpid()}{PARTIAL}"
    _remove_database(building)
    try:
        with write_database(building) as file:
            empty.create(file)
            _fill_catalog(file, list_current_scans(folder), old)
        return building.replace(target)
    finally:
        _remove_database(building)


def _fill_catalog(file: Path, scans: Sequence[Scan], old: Path | None) -> None:
    # one thread writes the smallest file, and as fast as two: rows come in no faster
    with duckdb.connect(file, config={"threads": 1, "memory_limit": f"{BUFFERS}B"}) as connection:
        if old:
            attach(connection, old)
        fetch(connection, "BEGIN")  # a checkpoint after each of many small statements would take most of the time
        _fill_tables(connection, scans, read_origins(connection) if old else {})
        fetch(connection, "COMMIT")


def _remove_database(file: Path) -> None:
    """Remove a database and its log, which DuckDB would apply to the next one of this name."""
    file.unlink(missing_ok=True)
    Path(f"{file}.wal").unlink(missing_ok=True)


def _fill_tables(
    connection: duckdb.DuckDBPyConnection, scans: Sequence[Scan], origins: Mapping[Identity, Origin]
) -> None:
    for source in read_sources(scans):
        if is_current(origins.get(identify_source(source)), source):
            _copy_rows(connection, source)
            continue
        try:
            _insert_rows(connection, source)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(source, Contents) or isinstance(error, StoreError):
                raise StoreError(
                    f"the scan of {name_models(source)} in {source.scan.store} is damaged ({error}): ingest its "
                    "checkpoint again, which makes what is damaged anew; until then the last catalog answers."
                ) from error
            _delete_rows(connection, source)  # comparing again makes it anew


def _copy_rows(connection: duckdb.DuckDBPyConnection, source: Source) -> None:
    """Take rows from the old catalog, less what a model's config says now."""
    models = bind_models(source)
    for table in list_tables(source):
        copied = f"INSERT INTO {table} BY NAME SELECT * FROM old.{table}"
        fetch(connection, f"{copied} WHERE {_equal(models)}", models)
    if isinstance(source, Contents):
        description = rows.describe_checkpoint(source)
        changes = ", ".join(f"{column} = ${column}" for column in description)
        fetch(connection, f"UPDATE models SET {changes} WHERE {_equal(models)}", {**description, **models})


def _delete_rows(connection: duckdb.DuckDBPyConnection, source: Source) -> None:
    models = bind_models(source)
    for table in list_tables(source):
        fetch(connection, f"DELETE FROM {table} WHERE {_equal(models)}", models)


def _equal(columns: Iterable[str]) -> str:
    """The condition that these columns have the values bound to their names."""
    return " AND ".join(f"{column} = ${column}" for column in columns)


def _insert_rows(connection: duckdb.DuckDBPyConnection, source: Source) -> None:
    """Insert all rows, then compare counts and sums: DuckDB 2.0.0 can silently drop rows of an Arrow table."""
    tables = sqlfiles.tables()
    counts: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for name, piece in _collect_pieces(_make_ahead(make_rows(source))):
        # by its name here: a registered view would keep every piece in memory until the transaction ends
        connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM piece").fetchall()
        counts[name] += piece.num_rows
        if summed := tables[name].summed:
            sums[name] += pc.sum(piece[summed]).as_py() or 0
    for name, count, total in _count_rows(connection, counts, bind_models(source)):
        if (count, total) != (counts[name], sums[name]):
            raise StoreError(
                f"DuckDB kept {count} of {counts[name]} rows of {name}, which is a defect of DuckDB: report it."
            )


def _count_rows(
    connection: duckdb.DuckDBPyConnection, names: Iterable[str], models: Mapping[str, str]
) -> list[tuple[str, int, int]]:
    """Of each table, how many rows of these models it has, and the sum of its summed column, 0 without one."""
    tables = sqlfiles.tables()
    counts = [
        f"SELECT '{name}', count(*), coalesce(sum({tables[name].summed or '0'}), 0)::HUGEINT FROM {name}"
        f" WHERE {_equal(models)}"
        for name in names
    ]
    return fetch(connection, " UNION ALL ".join(counts), models) if counts else []


def _collect_pieces(pieces: Iterator[rows.Rows]) -> Iterator[rows.Rows]:
    """The same rows in fewer pieces, in the order that they have in each table: an insert costs more than a few rows.

    At most INSERTED bytes wait, beside the piece that came last.
    """
    waiting: dict[tuple[str, pa.Schema], list[pa.Table]] = {}
    size = 0
    for table, piece in pieces:
        waiting.setdefault((table, piece.schema), []).append(piece)
        size += piece.get_total_buffer_size()
        if size >= INSERTED:
            yield from _join_pieces(waiting)
            size = 0
    yield from _join_pieces(waiting)


def _join_pieces(waiting: dict[tuple[str, pa.Schema], list[pa.Table]]) -> Iterator[rows.Rows]:
    """One piece of each table and schema; each is let go before the next is made."""
    while waiting:
        key = next(iter(waiting))
        yield key[0], pa.concat_tables(waiting.pop(key))


def _make_ahead(pieces: Iterator[rows.Rows]) -> Iterator[rows.Rows]:
    """The same, each made while the one before it is inserted."""
    with ThreadPoolExecutor(1, "rows") as maker:
        coming = maker.submit(next, pieces, None)
        while piece := coming.result():
            coming = maker.submit(next, pieces, None)
            yield piece
