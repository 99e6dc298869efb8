"""CATALOG, whether one is as it should be: undamaged, of what is committed now, and of this version's views.

Promises: a catalog that is looked at may be a stranger's, and reaches nothing beyond itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from shardscan.catalog import empty, sqlfiles
from shardscan.catalog.paths import attach_read_only
from shardscan.catalog.reading import (
    OLD,
    OURS,
    attach_locked,
    fetch,
    open_empty,
    read_columns,
    read_definitions,
    read_origins,
)
from shardscan.catalog.sources import Models, identify_source, is_current, read_sources
from shardscan.store.commits import Scan


def find_damage(file: Path) -> Iterator[str]:
    """What is wrong with a catalog by itself, in sentences: blocks that are not what was written, keys that repeat."""
    with open_empty() as connection:
        try:
            attach_locked(connection, file)
        except duckdb.Error as error:
            yield f"It cannot be opened: {_first_sentence(error)}"
            return
        columns = read_columns(connection, OLD)
        for name, table in sqlfiles.tables().items():
            names = ", ".join(f'"{column}"' for of, column, _ in columns if of == name)
            if not names:
                yield f"It has no table {name}."
                continue
            key = ", ".join(table.key)
            try:
                # DuckDB compares the checksum of a block when it reads it; sum of hashes, or it would not read
                fetch(connection, f"SELECT bit_xor(hash({names})) FROM old.{name}")
                counts = f"SELECT count(*), count(DISTINCT hash({key})) FROM old.{name}"
                ((rows, keys),) = fetch(connection, counts)
            except duckdb.Error as error:
                yield f"Its table {name} cannot be read: {_first_sentence(error)}"
                continue
            if rows != keys:
                yield f"Its table {name} has {rows:,} rows and {keys:,} keys ({key})."


def find_stale(file: Path, scans: Sequence[Scan]) -> list[Models]:
    """What in a catalog is not of what is committed: models, or two, by their names.

    All where it is of another version; and two of which something is damaged, so that there are no rows of it.
    """
    with _open_ours() as connection:
        try:
            attach_locked(connection, file)
            origins = read_origins(connection)
        except duckdb.Error:
            origins = {}
    sources = {identify_source(source): source for source in read_sources(scans)}
    gone = origins.keys() - sources.keys()
    changed = {identity for identity, source in sources.items() if not is_current(origins.get(identity), source)}
    return sorted({models for _, models in gone | changed})


def is_outdated(file: Path) -> bool:
    """Whether the views and macros of a catalog are not those of this version, or it cannot be opened."""
    with _open_ours() as connection:
        try:
            attach_locked(connection, file)
            return read_definitions(connection, OLD) != read_definitions(connection, OURS)
        except duckdb.Error:
            return True


@contextmanager
def _open_ours() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose own database is an empty catalog of this version."""
    with ExitStack() as stack:
        connection = stack.enter_context(open_empty())
        try:
            ours = Path(stack.enter_context(TemporaryDirectory()), "ours.duckdb")
            empty.create(ours)
            attach_read_only(connection, ours, "ours")
            statements = ["USE ours"]
        except OSError:  # nothing can be written anywhere, as on a machine that only looks
            statements = empty.list_scripts()
        for statement in statements:
            fetch(connection, statement)
        yield connection


def _first_sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") + "."
