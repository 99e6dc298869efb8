"""CATALOG, its file's path: DuckDB takes some characters for something else, and any name may be that of a store.

DuckDB 2.0 turns a backslash into a slash, and writes the log of `why?/catalog.duckdb` to `why.wal?/catalog.duckdb`,
which is nowhere. It reads through a link whose own path is plain; what it writes it must write elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from shardscan.catalog.lockdown import attach_statement

UNREADABLE, UNWRITABLE = "\\", "\\?"


def attach_read_only(connection: duckdb.DuckDBPyConnection, file: Path, name: str) -> None:
    """Attach a catalog as the database `name`, only to be read; OSError and duckdb.Error where that cannot be."""
    if _has_any(UNREADABLE, file):
        with TemporaryDirectory() as folder:
            link = Path(folder, file.name)
            link.symlink_to(file.absolute())
            connection.execute(attach_statement(link, name)).fetchall()
    else:
        connection.execute(attach_statement(file, name)).fetchall()


@contextmanager
def write_database(file: Path) -> Iterator[Path]:
    """Where DuckDB can write a database that is to be `file`, which it is when the context ends well."""
    if not _has_any(UNWRITABLE, file):
        yield file.absolute()  # what begins with http: is an address to it
        return
    with TemporaryDirectory() as folder:
        written = Path(folder, "catalog.duckdb")
        yield written
        shutil.copyfile(written, file)


def _has_any(characters: str, file: Path) -> bool:
    return any(character in str(file.absolute()) for character in characters)
