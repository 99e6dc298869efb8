"""VERIFY, a store: every record, every file that one vouches for, and the catalog, against the hashes of their writing.

Nothing is trusted before its hash is compared: records say which files there are, and every record has its own
checksum. What nobody vouches for is told and left alone.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shardscan.catalog import checks, comparisons
from shardscan.catalog.comparisons import Comparison
from shardscan.catalog.scans import read_contents
from shardscan.errors import shown
from shardscan.jobs.verification.findings import NOTE, PROBLEM, Advance, Finding, Verdict
from shardscan.shards.formats.kinds import is_weights
from shardscan.store import commits
from shardscan.store.arrays import list_current_scans
from shardscan.store.chunks import METADATA
from shardscan.store.commits import Scan
from shardscan.store.facts import LAYOUT
from shardscan.store.lock import reading_unwritten, reporting_unreadable
from shardscan.store.names import CATALOG, PARTIAL
from shardscan.store.records import FAILED, Stamp

ARRAYS, COMMITS, LOCK = "arrays.zarr", "commits", "lock"
RECORD = re.compile(r"(runs/)?[^/]+\.json")
ROOT = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
# what a record or an attribute of another form gives, whoever wrote it
AGAIN, COMPARE_AGAIN = "ingest its checkpoint again, which makes it anew", "compare its two models again"
OF_ANOTHER_FORM = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)


def is_store(path: Path) -> bool:
    """Whether a folder is a store, or what is left of one; with shards in it, it is a checkpoint all the same."""
    if not any(os.path.isdir(path / name) for name in (COMMITS, ARRAYS)):  # noqa: PTH112 - no name makes it raise
        return False
    with suppress(OSError):  # whoever looks into it says so
        return not any(map(is_weights, os.listdir(path)))  # noqa: PTH208
    return True


def verify(folder: Path, advance: Advance) -> Verdict:
    """Everything that is wrong or odd with a store; `advance` hears of bytes read and bytes in all.

    StoreError where somebody writes it.
    """
    with reporting_unreadable(folder), reading_unwritten(folder):
        scans = commits.list_scans(folder)
        everything = [*scans, *commits.list_of_two_scans(folder)]
        findings = list(_strays(folder, {scan.id for scan in everything}))
        records = [_records(scan) for scan in everything]
        total, read = sum(size for records_of_scan, _ in records for size, _ in _vouched(records_of_scan).values()), 0

        def advanced(nbytes: int) -> None:
            nonlocal read
            read += nbytes
            advance(read, total)

        for scan, (records_of_scan, wrong) in zip(everything, records, strict=True):
            own = [*wrong, *_of_files(scan, records_of_scan, advanced)]
            look = _of_pairs if scan.is_of_two else _of_tensors
            findings += own if _has_problems(own) else [*own, *look(scan)]
        findings += _of_catalog(folder, scans, are_whole=not _has_problems(findings))
    return Verdict(folder.resolve().name, tuple(findings), "scan", len(scans), read)


def _has_problems(findings: Iterable[Finding]) -> bool:
    """Whether what the records say must not be trusted."""
    return any(finding.severity == PROBLEM for finding in findings)


def _strays(folder: Path, ids: set[str]) -> Iterator[Finding]:
    """What lies in a store and belongs to nothing that began."""
    known = {COMMITS, ARRAYS, LOCK, CATALOG}
    yield from (_stray(folder, path) for path in sorted(folder.iterdir()) if path.name not in known)
    for inside in (folder / ARRAYS, folder / COMMITS):
        own = {METADATA} if inside.name == ARRAYS else set()
        for path in sorted(inside.iterdir()) if inside.is_dir() else ():
            if path.name not in ids | own:
                yield _stray(folder, path)
    root = folder / ARRAYS / METADATA
    if ids and not _is_root(root):
        detail = "It is not what Zarr keeps at the root of its arrays: remove it, and ingest a checkpoint again."
        yield Finding(PROBLEM, "file", detail, _in(folder, root))


def _is_root(path: Path) -> bool:
    try:
        return path.is_file() and json.loads(path.read_bytes()) == ROOT
    except (ValueError, RecursionError):
        return False


def _stray(folder: Path, path: Path) -> Finding:
    killed, other = "It is left of a run that was killed: remove it.", "It belongs to no scan that has begun."
    return Finding(NOTE, "file", killed if PARTIAL in path.name else other, _in(folder, path))


def _in(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _records(scan: Scan) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """The records of a scan that are what was once written, by their path in its folder of commits; what is wrong."""
    records: dict[str, dict[str, Any]] = {}
    findings = []
    for path in sorted(scan.commits.rglob("*")):
        name, file = _in(scan.commits, path), _in(scan.store, path)
        if name == "runs" and not path.is_symlink() and path.is_dir():
            continue
        if name not in ("begun", "witness", "channels") and not RECORD.fullmatch(name):
            findings.append(_stray(scan.store, path))
            continue
        record, is_as_written = commits.read_unsealed(path) if _is_regular(path) else ({}, False)
        if not is_as_written:
            detail = f"It is not what was once written: {_mended(scan, path)}."
            findings.append(Finding(PROBLEM, "commit", detail, file))
            continue
        records[name] = record
    return records, findings


def _mended(scan: Scan, record: Path) -> str:
    """What makes a damaged record anew."""
    if scan.is_of_two:
        return COMPARE_AGAIN
    if record.name == "begun":
        return f"remove {shown(str(scan.commits), 400)} and ingest its checkpoint again"
    return AGAIN if record.parent == scan.commits and record.name != "channels" else "remove it"


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _vouched(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Stamp]:
    """Every file that a record vouches for, with size and hash."""
    stamps = {}
    for record in records.values():
        files = record.get("files")
        for name, stamp in files.items() if isinstance(files, dict) else ():
            match stamp:
                case [int(size), str(digest)]:
                    stamps[name] = (size, digest)
    return stamps


def _of_files(
    scan: Scan, records: Mapping[str, Mapping[str, Any]], advance: Callable[[int], None]
) -> Iterator[Finding]:
    """What records vouch for against what is there, both ways."""
    vouched = _vouched(records)
    for name, stamp in vouched.items():
        yield from _of_file(scan, name, stamp, advance)
    for path in sorted(scan.arrays.rglob("*")):
        if (path.is_symlink() or not path.is_dir()) and _in(scan.arrays, path) not in vouched:
            yield _unvouched(scan, path)


def _of_file(scan: Scan, name: str, stamp: Stamp, advance: Callable[[int], None]) -> Iterator[Finding]:
    again = COMPARE_AGAIN if scan.is_of_two else AGAIN
    path, file = scan.arrays / name, f"{ARRAYS}/{scan.id}/{name}"
    try:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(scan.arrays)):
            yield Finding(PROBLEM, "commit", f"A record vouches for it and it is not in the scan: {again}.", file)
        elif not path.exists():
            yield Finding(PROBLEM, "file", f"A record vouches for it and it is not there: {again}.", file)
        elif not _is_regular(path):
            yield Finding(PROBLEM, "file", f"It is not a regular file: {again}.", file)
        elif (size := path.stat().st_size) != stamp[0]:
            yield Finding(PROBLEM, "file", f"It has {size:,} bytes instead of {stamp[0]:,}: {again}.", file)
        elif commits.stamp(path) != stamp:
            yield Finding(PROBLEM, "checksum", f"Its bytes are not those that were written: {again}.", file)
    except (OSError, ValueError) as error:  # no file has such a name, or the disk fails
        yield Finding(PROBLEM, "file", f"It cannot be read ({type(error).__name__}): {again}.", file)
    advance(stamp[0])


def _unvouched(scan: Scan, path: Path) -> Finding:
    if PARTIAL in path.name:
        return _stray(scan.store, path)
    detail = "No record vouches for it: an interrupted run left it, or somebody else."
    return Finding(NOTE, "file", detail, _in(scan.store, path))


def _of_tensors(scan: Scan) -> Iterator[Finding]:
    """What is not scanned yet, or failed."""
    where = f"{COMMITS}/{scan.id}"
    try:
        scanned = read_contents(scan)
        if scanned.facts.layout != LAYOUT:
            detail = f"Another version made this scan (layout {scanned.facts.layout}): ingest its checkpoint again."
            yield Finding(NOTE, "scan", detail, where)
            return
        _ = commits.read_replaced(scan), commits.read_runs(scan)  # their form, for whoever reads them next
        members = [member for group in scanned.members.values() for member in group]
        verdicts = [item for commit in scanned.done.values() for item in commit.tensors.items()]
        failed = {name: verdict.reason for name, verdict in verdicts if verdict.status == FAILED}
    except OF_ANOTHER_FORM as error:
        detail = f"The scan is not of the form that this version writes ({type(error).__name__}): ingest it again."
        yield Finding(PROBLEM, "scan", detail, where)
        return
    if pending := [member.name for member in members if member.status == "pending"]:
        what = f"{len(pending):,} of {len(members):,} tensors of {shown(scanned.model)}"
        yield Finding(NOTE, "scan", f"{what} are not scanned yet: ingest continues.", where, pending[0])
    for name, reason in failed.items():
        yield Finding(NOTE, "scan", f"It failed: {str(reason).rstrip('.')}.", where, name)


def _of_pairs(scan: Scan) -> Iterator[Finding]:
    """What is not compared yet, failed, or is of scans that are gone."""
    where = f"{COMMITS}/{scan.id}"
    try:
        comparison = next(
            (
                candidate
                for candidate in comparisons.read_current_comparisons(list_current_scans(scan.store))
                if candidate.scan == scan
            ),
            None,
        )
        if comparison is None:
            detail = (
                "It is of scans that were replaced or removed, or of another version: compare its two models again."
            )
            yield Finding(NOTE, "scan", detail, where)
            return
        if not isinstance(comparison, Comparison):
            return
        verdicts = comparison.verdicts
        failed = {name: verdict.reason for name, verdict in verdicts.items() if verdict.status == FAILED}
        left = comparison.facts.weights - len(verdicts)
        models = " with ".join(map(shown, comparison.models))
    except OF_ANOTHER_FORM as error:
        kind = type(error).__name__
        detail = f"The comparison is not of the form that this version writes ({kind}): {COMPARE_AGAIN}."
        yield Finding(PROBLEM, "scan", detail, where)
        return
    if left:
        detail = f"{left:,} of {comparison.facts.weights:,} weights of {models} are not compared yet: {COMPARE_AGAIN}."
        yield Finding(NOTE, "scan", detail, where)
    for name, reason in failed.items():
        yield Finding(NOTE, "scan", f"It failed: {str(reason).rstrip('.')}.", where, name)


def _of_catalog(folder: Path, scans: list[Scan], *, are_whole: bool) -> Iterator[Finding]:
    file = folder / CATALOG
    again = "build it again with shardscan catalog --rebuild"
    if not file.is_file():
        if scans:
            yield Finding(NOTE, "catalog", f"There is no catalog: {again}.", CATALOG)
        return
    damage = list(checks.find_damage(file))
    yield from (Finding(PROBLEM, "catalog", f"{sentence.rstrip('.')}: {again}.", CATALOG) for sentence in damage)
    if are_whole and not damage:
        for names in checks.find_stale(file, list_current_scans(folder)):
            models = " with ".join(map(shown, names))
            detail = f"Its rows of {models} are not of what is committed: {again}."
            yield Finding(NOTE, "catalog", detail, CATALOG)
