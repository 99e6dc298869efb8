"""CATALOG, an empty one: every table, view and macro and no rows, kept ready in the user's cache folder.

Making one takes DuckDB hundreds of statements, copying one takes none. What is kept is only ever a copy of what the
statements make: where it is missing, damaged, of another version, or may be somebody else's, the statements run. The
cache folder may refuse everything, and no more comes of it than that.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import duckdb
import xxhash

from shardscan.catalog import sqlfiles
from shardscan.machine import is_private

DIGEST_BYTES = 16  # at the end of what is kept: the hash of everything before them


def create(file: Path) -> None:
    """Write an empty catalog to `file`, which is not there yet; OSError or duckdb.Error where that cannot be."""
    scripts, cache = list_scripts(), _find_cache()
    if cache is None:
        _run_scripts(file, scripts)
        return
    ready = cache / f"empty-{_hash_scripts(scripts)}.duckdb"
    if kept := _read_kept(ready):
        file.write_bytes(kept)
        return
    _run_scripts(file, scripts)
    _keep_copy(ready, file.read_bytes())


def list_scripts() -> list[str]:
    """What makes one: the schema's statements, and then every view's and macro's."""
    return [*sqlfiles.schema(), *sqlfiles.views().values()]


def _run_scripts(file: Path, scripts: list[str]) -> None:
    with duckdb.connect(file, config={"threads": 1}) as connection:
        # one transaction: a checkpoint after each of many small statements would take most of the time. One at the end:
        # where the disk refuses it, closing says nothing and leaves a file that lacks what its log has
        for script in ("BEGIN", *scripts, "COMMIT", "CHECKPOINT"):
            connection.execute(script).fetchall()


def _hash_scripts(scripts: list[str]) -> str:
    return xxhash.xxh3_128_hexdigest("\0".join([duckdb.__version__, *scripts]).encode())


def _find_cache() -> Path | None:
    """Where this user keeps what can be made again; None for a user without a home."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # its specification says to ignore one that is not
        return base / "shardscan"
    with suppress(RuntimeError):
        home = Path.home()
        return home / ".cache" / "shardscan" if home.is_absolute() else None
    return None


def _read_kept(ready: Path) -> bytes | None:
    """The bytes of the catalog kept there; None where there is none, or none that can be trusted."""
    try:
        if not is_private(ready.parent):
            return None
        descriptor = os.open(ready, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
                return None
            kept = opened.read()
    except OSError:
        return None
    catalog, digest = kept[:-DIGEST_BYTES], kept[-DIGEST_BYTES:]
    return catalog if catalog and xxhash.xxh3_128_digest(catalog) == digest else None


def _keep_copy(ready: Path, catalog: bytes) -> None:
    """Keep an empty catalog for the next time, whole or not at all; without a folder to write to, nothing is kept."""
    with suppress(OSError):
        ready.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_private(ready.parent):
            return
        descriptor, partial = tempfile.mkstemp(dir=ready.parent)
        try:
            with open(descriptor, "wb") as written:
                written.write(catalog + xxhash.xxh3_128_digest(catalog))
            Path(partial).replace(ready)
        finally:
            Path(partial).unlink(missing_ok=True)
