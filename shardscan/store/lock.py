"""STORE, its door: one process writes a store at a time, once what killed ones left half done is swept."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from shardscan.errors import ShardscanError, StoreError, StoreWriteError, shown
from shardscan.shards.sources.local import opened
from shardscan.store.commits import ALIGNED, COMPARISON, forget, list_of_two_scans, list_scans, read_begun_of_two
from shardscan.store.names import CATALOG, PARTIAL
from shardscan.store.records import BegunOfTwo

# folders of scans and of what is of two; others are somebody's
OURS = re.compile(rf"([0-9a-f]{{32}}-[0-9]+|({COMPARISON}|{ALIGNED})[0-9a-f]{{32}})({re.escape(PARTIAL)})?")


@contextmanager
def writing_store(store: Path) -> Iterator[None]:
    """Be the one writer of a store, without what killed writers left half done.

    StoreError names the other writer where there is one; StoreWriteError is for whatever the disk refuses meanwhile.
    """
    with reporting_unwritable(store), _locked(store):
        _sweep(store)
        yield


@contextmanager
def reporting_unwritable(folder: Path) -> Iterator[None]:
    """Have what a disk refuses be a StoreWriteError."""
    try:
        yield
    except ShardscanError:
        raise
    except (NotADirectoryError, FileExistsError) as error:
        raise StoreError(f"{shown(str(folder), 400)} is not a folder, nor can it be one: name another.") from error
    except OSError as error:
        raise unwritable(folder, error) from error


@contextmanager
def reporting_unreadable(store: Path) -> Iterator[None]:
    """Have what a disk does not give be a StoreError."""
    try:
        yield
    except ShardscanError:
        raise
    except OSError as error:
        raise StoreError(
            f"{shown(str(store), 400)} cannot be read ({error.strerror}): see to what stands in the way."
        ) from error


def unwritable(store: Path, error: Exception) -> StoreWriteError:
    """What to raise where the disk refuses to take a store."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return StoreWriteError(
        f"{shown(str(store), 400)} cannot be written ({reason}): see to what stands in the way, or choose another "
        "folder; what was committed stays, and the same command continues."
    )


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    store.mkdir(parents=True, exist_ok=True)
    with (store / "lock").open("a+", encoding="utf-8") as lock:
        try:
            _take(lock)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read() or "another process"
            raise StoreError(f"{store} is being written by {holder}: wait for it, or name another store.") from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        yield


def _take(lock: TextIO) -> None:
    """Lock a file; a moment is left to those who only look whether it is locked."""
    for wait in (0.02, 0.05, 0.1):
        with suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(wait)
    return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def reading_unwritten(store: Path) -> Iterator[None]:
    """Look at a store that nobody writes; StoreError where somebody does, or did before the look was over."""
    before = _last_writer(store)
    try:
        yield
    finally:
        if _last_writer(store) != before:
            raise StoreError(f"{shown(str(store), 400)} was written meanwhile: do it again once nobody writes to it.")


def _last_writer(store: Path) -> int:
    """When the last writer of a store began, in ns; StoreError where it is not done."""
    path = store / "lock"
    if not os.path.lexists(path):
        return 0
    try:
        with opened(str(path)) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return os.fstat(lock.fileno()).st_mtime_ns
    except BlockingIOError as error:
        holder = path.read_bytes()[:200].decode("utf-8", "backslashreplace") or "another process"
        raise StoreError(f"{shown(str(store), 400)} is being written by {holder}: wait for it.") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{shown(str(path), 400)} {error}: remove it.") from error


def _sweep(store: Path) -> None:
    """Remove catalogs half built, folders of scans that never began or were being removed, and what was of those."""
    for leftover in store.glob(f"{CATALOG}.*{PARTIAL}*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    scans = {scan.id for scan in list_scans(store)}
    for pair in list_of_two_scans(store):
        begun_of = read_begun_of_two(pair, BegunOfTwo)
        if begun_of is None or not {begun_of.a, begun_of.b} <= scans:
            forget(pair)
    ids = scans | {pair.id for pair in list_of_two_scans(store)}
    for folder in (store / "commits", store / "arrays.zarr"):
        for leftover in folder.glob("*/"):
            if OURS.fullmatch(leftover.name) and leftover.name not in ids:
                shutil.rmtree(leftover, ignore_errors=True)
