"""STORE, its promises: what a scan has finished, as small JSON files that appear whole or not at all.

Each ends in a checksum of itself, so that what they vouch for is what was once written. What is known of two scans
together has folders like a scan's, and what is said of scans here holds for them too.

<store>/commits/<scan>/begun                     the scan exists; which scans it is to replace; its files of no task
<store>/commits/<scan>/<task>.<product>.json     these tensors are done, these files hold them
<store>/commits/<scan>/runs/<number>.json        what one run took
<store>/commits/<scan>/channels                  which channels the catalog is to have, where somebody said
<store>/commits/diff-<hash>/begun                a comparison exists, and of which two scans it is
<store>/commits/align-<hash>/begun               alignments exist, of which two scans they are, and what they say
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from shardscan.errors import StoreError
from shardscan.store.names import PARTIAL
from shardscan.store.records import (
    Begun,
    BegunOfTwo,
    Commit,
    Run,
    Stamp,
    read_commit,
    read_record,
    record_of,
    record_of_commit,
)

CHECKSUM = "checksum"
COMPARISON, ALIGNED = "diff-", "align-"  # how ids of what is of two scans begin; no scan's does

OfTwo = TypeVar("OfTwo", bound=BegunOfTwo)


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of one model in one store, or what is known of two: where its arrays and its commits are."""

    store: Path
    id: str

    @property
    def is_of_two(self) -> bool:
        return self.id.startswith((COMPARISON, ALIGNED))

    @property
    def arrays(self) -> Path:
        return self.store / "arrays.zarr" / self.id

    @property
    def commits(self) -> Path:
        return self.store / "commits" / self.id


def begin(scan: Scan, replaces: list[str], files: Mapping[str, Stamp]) -> None:
    """Make the scan exist, and vouch for the files that it began with."""
    _write(scan.commits / "begun", record_of(Begun(tuple(replaces), files)))


def read_first_stamps(scan: Scan) -> dict[str, Stamp]:
    """The files that a scan began with."""
    return dict(_begun(scan).files)


def _begun(scan: Scan) -> Begun:
    return read_record(Begun, read_whole_record(scan.commits / "begun"))


def sweep(scan: Scan) -> None:
    """Remove files of a scan that a killed writer left half written."""
    for folder in (scan.commits, scan.arrays):
        for leftover in folder.rglob(f"*{PARTIAL}"):
            leftover.unlink()


def sweep_damaged(scan: Scan) -> None:
    """Remove commits that are not what was once written, and so vouch for nothing."""
    for path in _paths(scan):
        if not read_unsealed(path)[1]:
            path.unlink()


def list_scans(store: Path) -> list[Scan]:
    """Every scan of a store that exists, what is of two aside."""
    return [scan for scan in _everything(store) if not scan.is_of_two]


def list_of_two_scans(store: Path, kind: str | tuple[str, ...] = (COMPARISON, ALIGNED)) -> list[Scan]:
    """What a store has of two scans: every comparison and all alignments, or those of one kind, also of scans gone."""
    return [pair for pair in _everything(store) if pair.id.startswith(kind)]


def _everything(store: Path) -> list[Scan]:
    return [Scan(store, path.parent.name) for path in sorted((store / "commits").glob("*/begun"))]


def begin_of_two(pair: Scan, begun: BegunOfTwo) -> None:
    """Make what is of two scans exist, and vouch for the files that it began with."""
    _write(pair.commits / "begun", record_of(begun))


def read_begun_of_two(pair: Scan, kind: type[OfTwo]) -> OfTwo | None:
    """What `begin_of_two` kept; None where that is lost or of another form, which only costs comparing again."""
    record, is_as_written = read_unsealed(pair.commits / "begun")
    with suppress(StoreError):
        return read_record(kind, record) if is_as_written else None
    return None


def read_replaced(scan: Scan) -> list[str]:
    """Ids of the scans this one is to replace when it is complete."""
    return list(_begun(scan).replaces)


def read_witness(scan: Scan) -> Mapping[str, Any] | None:
    """What `record_witness` last kept; None where that is lost, which only costs reading the checkpoint again."""
    record, is_as_written = read_unsealed(scan.commits / "witness")
    return record if is_as_written else None


def record_witness(scan: Scan, seen: Mapping[str, Any]) -> None:
    """Keep what the checkpoint's files looked like when their contents were known to be this scan's."""
    _write(scan.commits / "witness", seen)


def read_channels(scan: Scan) -> str | None:
    """What `record_channels` last kept."""
    path = scan.commits / "channels"
    return str(read_whole_record(path)["channels"]) if path.exists() else None


def record_channels(scan: Scan, choice: str) -> None:
    """Keep which channels the catalog is to have, also when it is built again."""
    _write(scan.commits / "channels", {"channels": choice})


def supersede(scan: Scan) -> None:
    """Remove the scans that this one, now complete, was made to replace."""
    rivals = read_replaced(scan)
    for rival in rivals:
        forget(Scan(scan.store, rival))
    if rivals:
        begin(scan, [], read_first_stamps(scan))


def forget(scan: Scan) -> None:
    """Remove a scan: first the file that says that it exists, so that nobody trusts half of it."""
    (scan.commits / "begun").unlink(missing_ok=True)
    shutil.rmtree(scan.commits, ignore_errors=True)
    shutil.rmtree(scan.arrays, ignore_errors=True)


def commit(scan: Scan, done: Commit) -> None:
    """Vouch for one product of one task."""
    _write(scan.commits / f"{done.task}.{done.product.replace('/', '-')}.json", record_of_commit(done))


Commits = dict[tuple[str, str], Commit]


def read_commits(scan: Scan) -> Commits:
    """Every commit by task and product, less those whose files are missing or cut; bits are for the chunks' crc32c."""
    records = (read_commit(read_whole_record(path)) for path in _paths(scan))
    return _by_key(commit for commit in records if is_whole(scan, commit.files))


def read_intact_commits(scan: Scan) -> Commits:
    """The same, less those that are damaged themselves, or whose files are not to the bit what they were."""
    return {key: commit for key, commit in read_sealed_commits(scan)[0].items() if is_intact(scan, commit.files)}


def read_sealed_commits(scan: Scan) -> tuple[Commits, bool]:
    """Every commit that is what was once written, whatever became of its files; whether no other is there."""
    records = [read_unsealed(path) for path in _paths(scan)]
    whole = (read_commit(record) for record, is_as_written in records if is_as_written)
    return _by_key(whole), all(is_as_written for _, is_as_written in records)


def _paths(scan: Scan) -> list[Path]:
    return sorted(scan.commits.glob("*.json"))


def _by_key(commits: Iterable[Commit]) -> Commits:
    return {(commit.task, commit.product): commit for commit in commits}


def state_of(commits: Commits) -> str:
    """A hash of every commit: what tables are made of, less what only runs know."""
    records = [[key, record_of_commit(commits[key])] for key in sorted(commits)]
    return xxhash.xxh3_128_hexdigest(json.dumps(records).encode())


def stamps(scan: Scan) -> dict[tuple[str, str], int]:
    """When each task and product was committed, in ns, by the commits' files alone."""
    named_stats = (
        (path.name.removesuffix(".json").rpartition("."), path.stat()) for path in scan.commits.glob("*.json")
    )
    return {(task, product): stat.st_mtime_ns for (task, _, product), stat in named_stats}


def is_whole(scan: Scan, files: Mapping[str, Stamp]) -> bool:
    """Whether every file that a record vouches for has its size."""
    try:
        return all((scan.arrays / name).stat().st_size == size for name, (size, _) in files.items())
    except OSError:
        return False


def is_intact(scan: Scan, files: Mapping[str, Stamp]) -> bool:
    """Whether every file that a record vouches for is to the bit what it was."""
    return all(is_as_stamped(scan.arrays / name, stamp) for name, stamp in files.items())


def is_as_stamped(file: Path, before: Sequence[Any]) -> bool:
    """Whether a file is there and still what a record vouches for."""
    try:
        return stamp(file) == tuple(before)
    except OSError:
        return False


def write_file(path: Path, data: bytes) -> Stamp:
    """Write a file of arrays so that it appears whole or not at all, and say what a commit says of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}{PARTIAL}")
    partial.write_bytes(data)
    partial.replace(path)
    return stamp_of(data)


def write_files(folder: Path, files: Mapping[str, bytes]) -> dict[str, Stamp]:
    """Likewise several, by their names in a folder."""
    return {name: write_file(folder / name, files[name]) for name in sorted(files)}


def stamp(file: Path) -> Stamp:
    """Size and hash of a file, as commits keep them."""
    return stamp_of(file.read_bytes())


def stamp_of(data: bytes) -> Stamp:
    """The same of what a file is to hold."""
    return len(data), xxhash.xxh3_64_hexdigest(data)


def record_run(scan: Scan, run: Run) -> None:
    """Keep what only this run knows: times, memory, machine."""
    number = 1 + len(list((scan.commits / "runs").glob("*.json")))
    _write(scan.commits / "runs" / f"{number:06d}.json", record_of(run))


def read_runs(scan: Scan) -> list[Run]:
    """The runs of a scan, in order."""
    return [read_record(Run, read_whole_record(path)) for path in sorted((scan.commits / "runs").glob("*.json"))]


def read_whole_record(path: Path) -> dict[str, Any]:
    """One record; StoreError where it is not what was written."""
    record, is_as_written = read_unsealed(path)
    if not is_as_written:
        raise StoreError(f"{path} is damaged: ingest its checkpoint again, and remove it first if that does not help.")
    return record


def read_unsealed(path: Path) -> tuple[dict[str, Any], bool]:
    """A record without its checksum, empty where there is none to be read, and whether it is what was written."""
    try:
        record = json.loads(path.read_bytes())
        checksum = record.pop(CHECKSUM)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {}, False
    return record, checksum == _checksum(record)


def _checksum(record: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(record).encode())


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")  # a name that no glob for commits finds
    with temporary.open("w", encoding="ascii") as file:
        json.dump({**record, CHECKSUM: _checksum(record)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
