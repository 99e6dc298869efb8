"""The whole line, once: open → name → plan → reduce → store → catalog."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shardscan import anatomy, commits, environment, memory, plan, shards
from shardscan.commits import Scan
from shardscan.errors import CheckpointError
from shardscan.shards.address import Checkpoint
from shardscan.shards.probe import probe, witness

if TYPE_CHECKING:
    from shardscan.anatomy import Anatomy


@dataclass(frozen=True, slots=True)
class Summary:
    """What an ingest did: tasks committed by this run, bytes it read, and why which tensors failed."""

    model: str
    store: str
    catalog: str
    tensors: int
    tasks: int
    bytes_read: int
    seconds: float
    peak_memory: int | None
    failures: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checkpoint with every tensor placed, and the plan of its full scan: what --dry-run prints."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    plan: plan.Plan
    products: frozenset[str]
    workers: int


def prepare(
    path: str | os.PathLike[str], *, name: str | None = None, spectra: str = "heads", workers: int | None = None
) -> Prepared:
    """Open, place and plan: headers are read, tensors are not."""
    if spectra not in plan.SPECTRA:
        raise CheckpointError(f"{spectra!r} is no choice of spectra: take one of {', '.join(plan.SPECTRA)}.")
    checkpoint = shards.open(path, name=name)
    placed = anatomy.place(checkpoint)
    workers = workers or environment.processors()
    products = plan.SPECTRA[spectra]
    return Prepared(checkpoint, placed, plan.plan(placed, products, workers=workers), products, workers)


def ingest(
    path: str | os.PathLike[str],
    store: str | os.PathLike[str] = "scans",
    *,
    name: str | None = None,
    spectra: str = "heads",
    workers: int | None = None,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Scan the checkpoint at `path` into `store` and rebuild its catalog; what is committed already is not done again.

    `spectra` is 'heads' or 'none'; `workers` threads, by default one for each processor there is. `progress` is called
    with the bytes reduced so far and the bytes there are. Raises CheckpointError, FamilyError, StoreError; a single
    tensor that fails is in the summary's `failures` and in `tensors.status`.
    """
    return execute(
        prepare(path, name=name, spectra=spectra, workers=workers), Path(store), replace=replace, progress=progress
    )


def execute(
    prepared: Prepared, folder: Path, *, replace: bool = False, progress: Callable[[int, int], None] | None = None
) -> Summary:
    """Carry out a prepared scan; see `ingest`."""
    from shardscan import catalog, store
    from shardscan.reduce import scan as reducing

    checkpoint = prepared.checkpoint
    started, clock = datetime.now(UTC), time.monotonic()
    with memory.watched() as peak:
        scan = _begin(prepared, folder, replace)
        todo = plan.plan(prepared.anatomy, prepared.products, _done(scan), prepared.workers)
        read = 0

        def advance(nbytes: int) -> None:
            nonlocal read
            read += nbytes
            if progress:
                progress(read, todo.bytes_to_read)

        keep = partial(store.write, scan)
        finished = reducing.run(todo.tasks, keep, workers=prepared.workers, progress=advance)
        if finished:
            seconds = time.monotonic() - clock
            commits.record_run(scan, _run(prepared, started, seconds, len(finished), read, peak.bytes))
        failures = {name: reason for task in finished for name, reason in task.failures.items()}
        if not failures:
            store.supersede(scan)
        file = catalog.build(folder)
    return Summary(
        model=checkpoint.name,
        store=str(folder),
        catalog=str(file),
        tensors=len(checkpoint),
        tasks=len(finished),
        bytes_read=read,
        seconds=time.monotonic() - clock,
        peak_memory=peak.bytes,
        failures=failures,
    )


def _begin(prepared: Prepared, folder: Path, replace: bool) -> Scan:
    """The scan to write to: a new one, or the one that was begun if it is of these contents."""
    from shardscan import store

    checkpoint, seen = prepared.checkpoint, witness(prepared.checkpoint)
    create = partial(store.create, folder, checkpoint, probe(checkpoint), prepared.anatomy, prepared.plan)
    scan = create(replace=replace)
    if commits.witness(scan) != seen and not _holds(scan, prepared):
        if not replace:
            raise store.name_taken(folder, checkpoint.name)
        commits.forget(scan)
        scan = create(replace=replace)
    commits.record_witness(scan, seen)
    return scan


def _holds(scan: Scan, prepared: Prepared) -> bool:
    """Whether everything committed is of these contents; for files that changed or moved, read to find out."""
    from shardscan.reduce.blocks import content_digest

    digests = {
        name: verdict["digest"]
        for record in commits.committed(scan).values()
        for name, verdict in record["tensors"].items()
        if verdict["digest"]
    }
    units = (unit for task in prepared.plan.tasks for unit in task.units)
    committed = (unit for unit in units if unit.placed.tensor.name in digests)
    return all(content_digest(unit) == digests[unit.placed.tensor.name] for unit in committed)


def _done(scan: Scan) -> set[tuple[str, str]]:
    """What need not be done again: commits without a failure."""
    return {
        key
        for key, record in commits.committed(scan).items()
        if all(verdict["status"] != "failed" for verdict in record["tensors"].values())
    }


def _run(
    prepared: Prepared, started: datetime, seconds: float, tasks: int, nbytes: int, peak: int | None
) -> dict[str, object]:
    return {
        "started": started.replace(tzinfo=None).isoformat(),
        "seconds": seconds,
        "tasks": tasks,
        "bytes_read": nbytes,
        "peak_memory": peak,
        "options": {"products": sorted(prepared.products), "workers": prepared.workers},
        "host": environment.host(),
        "versions": environment.versions(),
    }
