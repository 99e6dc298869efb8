"""STORE, its promises: what a scan has finished, as small JSON files that appear whole or not at all.

Each ends in a checksum of itself, so that what they vouch for is what was once written.

<store>/commits/<scan>/begun                     the scan exists; which scans it is to replace; its files of no task
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
from shardscan.shards.strict import opened

OK, CODES, DEGENERATE, FAILED = "ok", "codes", "degenerate", "failed"  # what a commit says of a tensor
SCANNED = (OK, DEGENERATE)  # there are arrays of it
CATALOG = "catalog.duckdb"  # beside commits and arrays
PARTIAL = ".partial"  # how files end that are being written, zarr's too
CHECKSUM = "checksum"

Stamp = tuple[int, str]


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


@contextmanager
def unwritten(store: Path) -> Iterator[None]:
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


def begin(scan: Scan, replaces: list[str], files: Mapping[str, Stamp] | None) -> None:
    """Make the scan exist, and vouch for the files that it began with; None for a scan that never did."""
    _write(scan.commits / "begun", {"replaces": replaces, **({} if files is None else {"files": files})})


def made(scan: Scan) -> Mapping[str, Stamp] | None:
    """The files that a scan began with; None of one that an earlier build began."""
    files = read(scan.commits / "begun").get("files")
    return None if files is None else {name: (size, digest) for name, (size, digest) in files.items()}


def stamps_of_all(scan: Scan) -> dict[str, Stamp]:
    """Size and hash of every file of a scan's arrays."""
    files = (file for file in sorted(scan.arrays.rglob("*")) if file.is_file())
    return {file.relative_to(scan.arrays).as_posix(): stamp(file) for file in files}


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


def begun(store: Path) -> list[Scan]:
    """Every scan of a store that exists."""
    return [Scan(store, path.parent.name) for path in sorted((store / "commits").glob("*/begun"))]


def replaces(scan: Scan) -> list[str]:
    """Ids of the scans this one is to replace when it is complete."""
    return list(read(scan.commits / "begun")["replaces"])


def witness(scan: Scan) -> Mapping[str, Any] | None:
    """What `record_witness` last kept."""
    path = scan.commits / "witness"
    return read(path) if path.exists() else None


def record_witness(scan: Scan, seen: Mapping[str, Any]) -> None:
    """Keep what the checkpoint's files looked like when their contents were known to be this scan's."""
    _write(scan.commits / "witness", seen)


def channels(scan: Scan) -> str | None:
    """What `record_channels` last kept."""
    path = scan.commits / "channels"
    return str(read(path)["channels"]) if path.exists() else None


def record_channels(scan: Scan, choice: str) -> None:
    """Keep which channels the catalog is to have, also when it is built again."""
    _write(scan.commits / "channels", {"channels": choice})


def supersede(scan: Scan) -> None:
    """Remove the scans that this one, now complete, was made to replace."""
    rivals = replaces(scan)
    for rival in rivals:
        forget(Scan(scan.store, rival))
    if rivals:
        begin(scan, [], made(scan))


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
    records = (read(path) for path in sorted(scan.commits.glob("*.json")))
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


def stamp(file: Path) -> Stamp:
    """Size and hash of a file, as commits keep them."""
    data = file.read_bytes()
    return len(data), xxhash.xxh3_64_hexdigest(data)


def record_run(scan: Scan, run: Mapping[str, Any]) -> None:
    """Keep what only this run knows: times, memory, machine."""
    number = 1 + len(list((scan.commits / "runs").glob("*.json")))
    _write(scan.commits / "runs" / f"{number:06d}.json", run)


def runs(scan: Scan) -> list[Mapping[str, Any]]:
    """The runs of a scan, in order."""
    return [read(path) for path in sorted((scan.commits / "runs").glob("*.json"))]


def read(path: Path) -> dict[str, Any]:
    """One record; StoreError where it is not what was written."""
    record, is_as_written = unsealed(path)
    if is_as_written is False:
        raise _damaged(path)
    return record


def unsealed(path: Path) -> tuple[dict[str, Any], bool | None]:
    """A record without its checksum, and whether that is true; None where an earlier build wrote none."""
    try:
        record = json.loads(path.read_bytes())
        assert isinstance(record, dict)
    except (ValueError, AssertionError, RecursionError) as error:
        raise _damaged(path) from error
    checksum = record.pop(CHECKSUM, None)
    return record, None if checksum is None else checksum == _checksum(record)


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path} is damaged: remove it, and ingest its checkpoint again.")


def _checksum(record: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(record).encode())


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}{PARTIAL}")  # a name that no glob for commits finds
    with temporary.open("w", encoding="ascii") as file:
        json.dump({**record, CHECKSUM: _checksum(record)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
