"""STORE, its memory: which scan a checkpoint belongs to, and what of it is done.

A scan's folder is the hash of what its arrays depend on, and a generation. The hash covers a sample of the contents;
so files that are not the ones last seen are read again before a scan is continued, and a checkpoint that was edited in
place starts a generation of its own.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from shardscan.anatomy.places import Anatomy
from shardscan.errors import OptionError, StoreError, shown
from shardscan.plan.scan import Plan
from shardscan.reduce.blocks import content_digest
from shardscan.shards.address import Checkpoint
from shardscan.shards.witness import list_witnesses, probe_files
from shardscan.store import commits
from shardscan.store.commits import Scan
from shardscan.store.creation import create, refresh, scan_id
from shardscan.store.facts import read_scan
from shardscan.store.records import DEGENERATE, FAILED


def begin_or_continue_scan(
    checkpoint: Checkpoint, anatomy: Anatomy, plan: Plan, folder: Path, *, replace: bool, max_bytes: int | None
) -> Scan:
    """The scan to write to: the one that was begun with these contents, else a new one.

    StoreError where the name belongs to other contents and `replace` is not set; with it, the new scan takes their
    place once it is complete. OptionError where files are not those last seen, and comparing them would read too much.
    """
    seen, sample = list_witnesses(checkpoint), probe_files(checkpoint)
    base, scans = scan_id(checkpoint, sample, anatomy), commits.list_scans(folder)
    generations = _generations(scans, base)
    for scan in generations:
        if commits.read_witness(scan) == seen or _holds(scan, plan, max_bytes):
            rivals = [rival for rival in scans if rival.id in commits.read_replaced(scan)]
            if not replace and _are_of_other_contents(rivals, base, sample):
                raise _taken(folder, checkpoint.name)
            commits.sweep(scan)
            commits.record_witness(scan, seen)
            refresh(scan, checkpoint, sample, anatomy, plan)
            return scan
    rivals = [other for other in scans if read_scan(other).model == checkpoint.name]
    if not replace and _are_of_other_contents(rivals, base, sample):
        raise _taken(folder, checkpoint.name)
    number = 1 + max(map(_number, generations), default=0)
    scan = Scan(folder, f"{base}-{number}")
    stamps = create(scan, checkpoint, sample, anatomy, plan)
    if chosen := _chosen(rivals):
        commits.record_channels(scan, chosen)
    commits.record_witness(scan, seen)
    commits.begin(scan, [rival.id for rival in rivals], stamps)  # last: now it exists
    return scan


def find_done(scan: Scan, *, exact: bool) -> set[tuple[str, str]]:
    """Tasks and products that need not be done again: commits without a failure, and as exact as is asked.

    Their files are read: what a disk has lost or changed since is done again.
    """
    return {
        key
        for key, record in commits.read_intact_commits(scan).items()
        if all(verdict.status != FAILED for verdict in record.tensors.values())
        and not (exact and record.options.get("exact") is False)
    }


def find_troubles(scan: Scan, products: Set[str]) -> dict[str, tuple[str, str]]:
    """Status and reason of every tensor or composite, by name, that failed or has no finite value."""
    records = (record for (_, product), record in commits.read_commits(scan).items() if product in products)
    verdicts = ((name, verdict) for record in records for name, verdict in record.tensors.items())
    return {name: (v.status, v.reason or "") for name, v in verdicts if v.status in (FAILED, DEGENERATE)}


def find_scan(checkpoint: Checkpoint, anatomy: Anatomy, folder: Path) -> Scan | None:
    """The scan of this checkpoint that a store has already, None where there is no such store or scan."""
    generations = _generations(commits.list_scans(folder), scan_id(checkpoint, probe_files(checkpoint), anatomy))
    as_seen = [scan for scan in generations if commits.read_witness(scan) == list_witnesses(checkpoint)]
    return next(iter([*as_seen, *reversed(generations)]), None)


def is_scan_of(scan: Scan, checkpoint: Checkpoint, anatomy: Anatomy) -> bool:
    """Whether a scan is of these contents, placed so."""
    return bool(_generations([scan], scan_id(checkpoint, probe_files(checkpoint), anatomy)))


def find_chosen_channels(checkpoint: Checkpoint, anatomy: Anatomy, folder: Path) -> str | None:
    """Which channels somebody chose for this model in a store, in this scan or one that it takes the place of."""
    scan = find_scan(checkpoint, anatomy, folder)
    if scan:
        return commits.read_channels(scan)
    return _chosen([s for s in commits.list_scans(folder) if read_scan(s).model == checkpoint.name])


def _chosen(scans: list[Scan]) -> str | None:
    return next((choice for scan in scans if (choice := commits.read_channels(scan))), None)


def _generations(scans: list[Scan], base: str) -> list[Scan]:
    """The scans of these contents, the first begun first."""
    return sorted((scan for scan in scans if scan.id.partition("-")[0] == base), key=_number)


def _number(scan: Scan) -> int:
    return int(scan.id.partition("-")[2])


def _are_of_other_contents(rivals: list[Scan], base: str, sample: str) -> bool:
    """Whether any is more than the same checkpoint under another config, family or layout, which may go."""
    return bool(_generations(rivals, base)) or any(read_scan(rival).probe != sample for rival in rivals)


def _holds(scan: Scan, plan: Plan, max_bytes: int | None) -> bool:
    """Whether everything committed is of the contents that the plan would read."""
    committed = commits.read_intact_commits(scan).values()
    verdicts = ((record.task, *item) for record in committed for item in record.tensors.items())
    digests = {(task, name): verdict.digest for task, name, verdict in verdicts if verdict.digest}
    units = [(digests.get((task.name, unit.placed.tensor.name)), unit) for task in plan.tasks for unit in task.units]
    nbytes = sum(unit.nbytes for digest, unit in units if digest)
    if max_bytes is not None and nbytes > max_bytes:
        raise OptionError(
            f"this checkpoint was written to or copied, so {nbytes:,} bytes must be compared with what is committed, "
            f"and {max_bytes:,} may be read: allow more with --max-bytes."
        )
    return all(digest == content_digest(unit) for digest, unit in units if digest)


def _taken(folder: Path, name: str) -> StoreError:
    return StoreError(
        f"{folder} already holds another checkpoint named {shown(name)}: give this one a name of its own with --name, "
        "of `diff` --names, or let it take the place of the other with `ingest --replace`."
    )
