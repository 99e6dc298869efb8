"""CATALOG, its lock: what keeps a DuckDB that reads a catalog from files, the network, extensions and settings."""

from __future__ import annotations

from pathlib import Path

# of a new connection
SETTINGS = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
}
# for one that has attached what it is to read; the order counts
LOCK = (
    "SET enable_external_access = false",
    # the line above leaves the attached file open to everybody: to COPY … TO it, and to ATTACH it for writing
    "SET disabled_filesystems = 'LocalFileSystem'",
    # last: every option before it is final from here on
    "SET lock_configuration = true",
)


def attach_statement(file: Path, name: str) -> str:
    """The SQL that attaches a catalog as the database `name`, only to be read."""
    quoted = str(file.absolute()).replace("'", "''")
    return f"ATTACH '{quoted}' AS {name} (READ_ONLY, TYPE duckdb)"
