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
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardscan.catalog import comparisons, empty, rows, sqlfiles
from shardscan.catalog.comparisons import Aligned, Comparison, digest
from shardscan.catalog.lockdown import LOCK, SETTINGS
from shardscan.catalog.scans import Contents, contents
from shardscan.errors import StoreError, StoreNotFound, shown
from shardscan.store import arrays as store
from shardscan.store import commits
from shardscan.store import lock as writers
from shardscan.store.alignments import Alignment
from shardscan.store.commits import CATALOG, PARTIAL, Scan

BUFFERS = 96 << 20  # bytes of memory that DuckDB may keep pages in
INSERTED = 4 << 20  # bytes of rows that are collected for one insert into each table; a larger piece is not cut

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
    "diffs": "model_a, model_b",
    "tensor_diffs": "model_a, model_b, weight_b",
    "channel_diffs": "model_a, model_b, weight_b, axis, channel_b",
    "alignments": "model_a, model_b, weight_b, axis, channel_b",
}
OF_TWO = {Comparison: ("diffs", "tensor_diffs", "channel_diffs"), Aligned: ("alignments",)}

READING: dict[str, Any] = {
    **SETTINGS, "threads": 1, "temp_directory": "", "memory_limit": "4GB", "python_enable_replacements": False,
}  # fmt: skip
DISK = (duckdb.IOException, duckdb.TransactionException, duckdb.FatalException)  # what a full one raises

# a whole number in each large table, whose sum is exact
SUMMED = {
    "channels": "channel", "distribution": "count", "singular_values": "i", "spectra": "rank", "tensors": "bytes",
    "alignments": "channel_b", "channel_diffs": "channel_b", "tensor_diffs": "values",
}  # fmt: skip

Held = Contents | Comparison | Aligned
Names = tuple[str, ...]  # of the models that rows are of
Known = dict[tuple[str, Names], tuple[Any, ...]]  # what rows were built from: in which table, of which models


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
        try:
            empty.create(building)
        except OSError as error:
            raise writers.unwritable(folder, error) from error
        # one thread writes the smallest file, and as fast as two: rows come in no faster
        with duckdb.connect(building, config={"threads": 1, "memory_limit": f"{BUFFERS}B"}) as connection:
            if old:
                _run(connection, f"ATTACH {_quoted(old)} AS old (READ_ONLY, TYPE duckdb)")
            _run(connection, "BEGIN")  # a checkpoint after each of many small statements would take most of the time
            _fill(connection, store.current(folder), _built_from(connection) if old else {})
            _run(connection, "COMMIT")
        return building.replace(target)
    finally:
        building.unlink(missing_ok=True)
        Path(f"{building}.wal").unlink(missing_ok=True)


def _fill(connection: duckdb.DuckDBPyConnection, scans: Sequence[Scan], known: Known) -> None:
    for held in _everything(scans):
        if _is_built_from(known.get(_rows_of(held)), held):
            _copy(connection, held)
            continue
        try:
            _load(connection, held)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(held, Contents) or isinstance(error, StoreError):
                raise StoreError(
                    f"the scan of {_called(held)} in {held.scan.store} is damaged ({error}): ingest its checkpoint "
                    "again, which makes what is damaged anew; until then the last catalog answers."
                ) from error
            for table in _tables(connection, held):  # comparing again makes it anew
                _run(connection, f"DELETE FROM {table} WHERE {_where(_key(held))}", _key(held))


def _everything(scans: Sequence[Scan]) -> Iterator[Held]:
    """What the scans hold, and then what is of two of them."""
    yield from map(contents, scans)
    yield from comparisons.current(scans)


def _names(held: Held) -> Names:
    """The models that it is of."""
    return (held.model,) if isinstance(held, Contents) else held.models


def _rows_of(held: Held) -> tuple[str, Names]:
    """In which table it is known, of which models."""
    return "models" if isinstance(held, Contents) else OF_TWO[type(held)][0], _names(held)


def _called(held: Held) -> str:
    return " with ".join(map(shown, _names(held)))


def _key(held: Held) -> dict[str, str]:
    """The columns that say of which models a row is."""
    columns = ("model",) if isinstance(held, Contents) else ("model_a", "model_b")
    return dict(zip(columns, _names(held), strict=True))


def _is_built_from(known: tuple[Any, ...] | None, held: Held) -> bool:
    """Whether rows are of what is committed now."""
    if isinstance(held, Aligned):
        return known == (held.state,)
    *built_from, channels = known or (None,)
    is_as_chosen = held.channels in (None, channels)  # once somebody has chosen, it is never None again
    runs = [len(commits.runs(held.scan))] if isinstance(held, Contents) else []
    return built_from == [held.scan.id, held.state, *runs] and is_as_chosen


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


def stale(file: Path, scans: Sequence[Scan]) -> list[Names]:
    """What in a catalog is not of what is committed: models, or two, by their names.

    All where it is of another version; and two of which something is damaged, so that there are no rows of it.
    """
    with duckdb.connect(config=READING) as connection:
        for script in sqlfiles.schema():
            _run(connection, script)
        try:
            _attach(connection, file)
            known = _built_from(connection)
        except duckdb.Error:
            known = {}
    held = {_rows_of(found): found for found in _everything(scans)}
    every = held.keys() | known.keys()
    return sorted({of[1] for of in every if of not in held or not _is_built_from(known.get(of), held[of])})


def is_outdated(file: Path) -> bool:
    """Whether the views and macros of a catalog are not those of this version, or it cannot be opened."""
    with duckdb.connect(config=READING) as connection:
        for script in (*sqlfiles.schema(), *sqlfiles.views().values()):
            _run(connection, script)
        try:
            _attach(connection, file)
            return _definitions(connection, "'old'") != _definitions(connection, "current_database()")
        except duckdb.Error:
            return True


def _definitions(connection: duckdb.DuckDBPyConnection, database: str) -> list[Any]:
    """Name and text of every view and macro, beside the columns of tables."""
    views = f"SELECT view_name, sql FROM duckdb_views() WHERE NOT internal AND database_name = {database}"
    macros = "SELECT function_name, macro_definition FROM duckdb_functions() WHERE NOT internal"
    every = f"{views} UNION ALL {macros} AND database_name = {database} ORDER BY ALL"
    return [_columns(connection, database), _run(connection, every)]


def _attach(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Attach a catalog that somebody else may have made, and let nothing in it reach beyond it."""
    for statement in (f"ATTACH {_quoted(file)} AS old (READ_ONLY, TYPE duckdb)", *LOCK):
        _run(connection, statement)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") + "."


def _built_from(connection: duckdb.DuckDBPyConnection) -> Known:
    """What of the old catalog was built from what; nothing where another version of shardscan made it."""
    if _columns(connection, "'old'") != _columns(connection, "current_database()"):
        return {}
    runs = "(SELECT count(*) FROM old.runs r WHERE r.model = m.model)"
    found = _run(connection, f"SELECT model, scan, state, {runs}, channels FROM old.models m")
    of_two = _run(connection, "SELECT model_a, model_b, comparison, state, channels FROM old.diffs")
    known: Known = {("models", (model,)): tuple(built_from) for model, *built_from in found}
    known |= {("diffs", (a, b)): tuple(built_from) for a, b, *built_from in of_two}
    return known | {("alignments", models): (digest(of),) for models, of in _aligned(connection).items()}


def _aligned(connection: duckdb.DuckDBPyConnection) -> dict[Names, list[Alignment]]:
    """The alignments that an old catalog has, by models."""
    columns = "model_a, model_b, weight_a, weight_b, axis, method, reason"
    channels = "list(coalesce(channel_a, -1) ORDER BY channel_b)"
    found: dict[Names, list[Alignment]] = {}
    for a, b, weight_a, weight_b, axis, method, reason, of in _run(
        connection, f"SELECT {columns}, {channels} FROM old.alignments GROUP BY ALL"
    ):
        one = Alignment(weight_a, weight_b, axis, np.array(of, np.int64), method, reason)
        found.setdefault((a, b), []).append(one)
    return found


def _columns(connection: duckdb.DuckDBPyConnection, database: str) -> list[Any]:
    """Table, column and type of everything that is a table there: a view of its name could read anything."""
    tables = f"SELECT table_name FROM duckdb_tables() WHERE database_name = {database}"
    columns = f"SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE database_name = {database}"
    return _run(connection, f"{columns} AND table_name IN ({tables}) ORDER BY ALL")


def _copy(connection: duckdb.DuckDBPyConnection, held: Held) -> None:
    """Take rows from the old catalog, less what a model's config says now."""
    key = _key(held)
    for table in _tables(connection, held):
        columns = f"INSERT INTO {table} BY NAME SELECT * FROM old.{table}"
        _run(connection, f"{columns} WHERE {_where(key)}", key)
    if isinstance(held, Contents):
        said = rows.said(held)
        changes = ", ".join(f"{column} = ${column}" for column in said)
        _run(connection, f"UPDATE models SET {changes} WHERE {_where(key)}", {**said, **key})


def _where(key: Iterable[str]) -> str:
    return " AND ".join(f"{column} = ${column}" for column in key)


def _load(connection: duckdb.DuckDBPyConnection, held: Held) -> None:
    """Insert all rows, then compare counts and sums: DuckDB 2.0.0 can silently drop rows of an Arrow table."""
    expected: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    key = _key(held)
    for table, piece in _collected(_ahead(_rows(held))):
        # by its name here: a registered view would keep every piece in memory until the transaction ends
        connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM piece").fetchall()
        expected[table] += piece.num_rows
        sums[table] += pc.sum(piece[SUMMED[table]]).as_py() or 0 if table in SUMMED else 0
    for table, count, total in _counted(connection, expected, key):
        if (count, total) != (expected[table], sums[table]):
            raise StoreError(
                f"DuckDB kept {count} of {expected[table]} rows of {table}, which is a defect of DuckDB: report it."
            )


def _collected(pieces: Iterator[rows.Rows]) -> Iterator[rows.Rows]:
    """The same rows in fewer pieces, in the order that they have in each table: an insert costs more than a few rows.

    At most INSERTED bytes wait, beside the piece that came last.
    """
    waiting: dict[tuple[str, pa.Schema], list[pa.Table]] = {}
    size = 0
    for table, piece in pieces:
        waiting.setdefault((table, piece.schema), []).append(piece)
        size += piece.nbytes
        if size >= INSERTED:
            yield from _joined(waiting)
            size = 0
    yield from _joined(waiting)


def _joined(waiting: dict[tuple[str, pa.Schema], list[pa.Table]]) -> Iterator[rows.Rows]:
    """One piece of each table and schema; each is let go before the next is made."""
    while waiting:
        key = next(iter(waiting))
        yield key[0], pa.concat_tables(waiting.pop(key))


def _counted(
    connection: duckdb.DuckDBPyConnection, tables: Iterable[str], key: Mapping[str, str]
) -> list[tuple[str, int, int]]:
    """Of each table, how many rows of these models it has, and the sum of its column in SUMMED, 0 without one."""
    counts = [
        f"SELECT '{table}', count(*), coalesce(sum({SUMMED.get(table, '0')}), 0)::HUGEINT FROM {table}"
        f" WHERE {_where(key)}"
        for table in tables
    ]
    return _run(connection, " UNION ALL ".join(counts), key) if counts else []


def _rows(held: Held) -> Iterator[rows.Rows]:
    match held:
        case Contents():
            return rows.of_scan(held)
        case Comparison():
            return rows.of_comparison(held)
        case Aligned():
            return rows.of_alignments(held)


def _ahead(pieces: Iterator[rows.Rows]) -> Iterator[rows.Rows]:
    """The same, each made while the one before it is inserted."""
    with ThreadPoolExecutor(1, "rows") as maker:
        coming = maker.submit(next, pieces, None)
        while piece := coming.result():
            coming = maker.submit(next, pieces, None)
            yield piece


def _tables(connection: duckdb.DuckDBPyConnection, held: Held) -> Sequence[str]:
    """Those that have rows of it."""
    if not isinstance(held, Contents):
        return OF_TWO[type(held)]
    query = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()"
    others = {table for tables in OF_TWO.values() for table in tables}
    return [name for (name,) in _run(connection, query) if name not in others]


def _run(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
    """Execute and fetch: until its result is fetched, DuckDB 2 may not have done a statement."""
    return connection.execute(sql, parameters).fetchall()


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
