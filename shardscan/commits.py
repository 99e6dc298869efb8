"""STORE, its promises: what a scan has finished, as small JSON files that appear whole or not at all.

<store>/commits/<scan>/begun                     the scan exists; which scans it is to replace
<store>/commits/<scan>/<task>.<product>.json     these tensors are done, these files hold them
<store>/commits/<scan>/runs/<number>.json        what one run took
<store>/commits/<scan>/channels                  which channels the catalog is to have, where somebody said
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from shardscan.errors import ShardscanError, StoreError, StoreWriteError, shown

OK, CODES, DEGENERATE, FAILED = "ok", "codes", "degenerate", "failed"  # what a commit says of a tensor
SCANNED = (OK, DEGENERATE)  # there are arrays of it
CATALOG = "catalog.duckdb"  # beside commits and arrays
PARTIAL = ".partial"  # how files end that are being written, zarr's too


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of one model in one store: where its arrays and its commits are."""

    store: Path
    id: str

    @property
    def arrays(self) -> Path:
        return self.store / "arrays.zarr" / self.id

    @property
    def commits(self) -> Path:
        return self.store / "commits" / self.id


@contextmanager
def writing(store: Path) -> Iterator[None]:
    """Be the one writer of a store, without what killed writers left half done.

    StoreError names the other writer where there is one; StoreWriteError is for whatever the disk refuses meanwhile.
    """
    with told_of(store), _locked(store):
        _sweep(store)
        yield


@contextmanager
def told_of(folder: Path) -> Iterator[None]:
    """Have what a disk refuses be a StoreWriteError."""
    try:
        yield
    except ShardscanError:
        raise
    except (NotADirectoryError, FileExistsError) as error:
        raise StoreError(f"{shown(str(folder), 400)} is not a folder, nor can it be one: name another.") from error
    except OSError as error:
        raise unwritable(folder, error) from error


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
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read() or "another process"
            raise StoreError(f"{store} is being written by {holder}: wait for it, or name another store.") from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        yield


def _sweep(store: Path) -> None:
    """Remove catalogs half built, and folders of scans that never began or were being removed."""
    for left in store.glob(f"{CATALOG}.*.partial*"):
        left.unlink()
    ids = {scan.id for scan in begun(store)}
    for folder in (store / "commits", store / "arrays.zarr"):
        for left in folder.glob("*/"):
            if left.name not in ids:
                shutil.rmtree(left, ignore_errors=True)


def sweep(scan: Scan) -> None:
    """Remove files of a scan that a killed writer left half written."""
    for folder in (scan.commits, scan.arrays):
        for left in folder.rglob(f"*{PARTIAL}"):
            left.unlink()


def begin(scan: Scan, replaces: list[str]) -> None:
    """Make the scan exist."""
    _write(scan.commits / "begun", {"replaces": replaces})


def begun(store: Path) -> list[Scan]:
    """Every scan of a store that exists."""
    return [Scan(store, path.parent.name) for path in sorted((store / "commits").glob("*/begun"))]


def replaces(scan: Scan) -> list[str]:
    """Ids of the scans this one is to replace when it is complete."""
    return list(_read(scan.commits / "begun")["replaces"])


def witness(scan: Scan) -> Mapping[str, Any] | None:
    """What `record_witness` last kept."""
    path = scan.commits / "witness"
    return _read(path) if path.exists() else None


def record_witness(scan: Scan, seen: Mapping[str, Any]) -> None:
    """Keep what the checkpoint's files looked like when their contents were known to be this scan's."""
    _write(scan.commits / "witness", seen)


def channels(scan: Scan) -> str | None:
    """What `record_channels` last kept."""
    path = scan.commits / "channels"
    return str(_read(path)["channels"]) if path.exists() else None


def record_channels(scan: Scan, choice: str) -> None:
    """Keep which channels the catalog is to have, also when it is built again."""
    _write(scan.commits / "channels", {"channels": choice})


def supersede(scan: Scan) -> None:
    """Remove the scans that this one, now complete, was made to replace."""
    rivals = replaces(scan)
    for rival in rivals:
        forget(Scan(scan.store, rival))
    if rivals:
        begin(scan, [])


def forget(scan: Scan) -> None:
    """Remove a scan: first the file that says that it exists, so that nobody trusts half of it."""
    (scan.commits / "begun").unlink(missing_ok=True)
    shutil.rmtree(scan.commits, ignore_errors=True)
    shutil.rmtree(scan.arrays, ignore_errors=True)


def commit(scan: Scan, record: Mapping[str, Any]) -> None:
    """Vouch for one product of one task.

    `record` has task, product, version, options, tensors, and files with size and hash.
    """
    _write(scan.commits / f"{record['task']}.{record['product'].replace('/', '-')}.json", record)


def committed(scan: Scan, *, to_the_bit: bool = False) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Every commit by task and product, less those whose files are missing, cut or, if asked for, not what they were.

    Otherwise bits are for the chunks' crc32c.
    """
    records = (_read(path) for path in sorted(scan.commits.glob("*.json")))
    return {(record["task"], record["product"]): record for record in records if _is_whole(scan, record, to_the_bit)}


def stamps(scan: Scan) -> dict[tuple[str, str], int]:
    """When each task and product was committed, in ns, by the commits' files alone."""
    found = ((path.name.removesuffix(".json").rpartition("."), path.stat()) for path in scan.commits.glob("*.json"))
    return {(task, product): stat.st_mtime_ns for (task, _, product), stat in found}


def _is_whole(scan: Scan, record: Mapping[str, Any], to_the_bit: bool) -> bool:
    files = ((scan.arrays / name, facts) for name, facts in record["files"].items())
    try:
        if to_the_bit:
            return all(stamp(file) == tuple(facts) for file, facts in files)
        return all(file.stat().st_size == size for file, (size, _) in files)
    except FileNotFoundError:
        return False


def stamp(file: Path) -> tuple[int, str]:
    """Size and hash of a file, as commits keep them."""
    data = file.read_bytes()
    return len(data), xxhash.xxh3_64_hexdigest(data)


def record_run(scan: Scan, run: Mapping[str, Any]) -> None:
    """Keep what only this run knows: times, memory, machine."""
    number = 1 + len(list((scan.commits / "runs").glob("*.json")))
    _write(scan.commits / "runs" / f"{number:06d}.json", run)


def runs(scan: Scan) -> list[Mapping[str, Any]]:
    """The runs of a scan, in order."""
    return [_read(path) for path in sorted((scan.commits / "runs").glob("*.json"))]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_bytes())
        assert isinstance(record, dict)
    except (ValueError, AssertionError) as error:
        raise StoreError(f"{path} is damaged: remove it, and ingest its checkpoint again.") from error
    return record


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}{PARTIAL}")  # a name that no glob for commits finds
    with temporary.open("w", encoding="ascii") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
