"""The whole line, once: open → name → plan → reduce → store → catalog."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shardscan import anatomy, commits, environment, memory, plan, shards
from shardscan.commits import Scan
from shardscan.errors import OptionError, StoreNotFound
from shardscan.reduce.result import Result
from shardscan.shards.address import Checkpoint
from shardscan.shards.probe import look

if TYPE_CHECKING:
    from shardscan.anatomy import Anatomy
    from shardscan.reduce.scan import Done

CHANGED = "the file changed while it was scanned: ingest again once nobody writes to it"


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
    """A checkpoint with every tensor placed, and the plan of its full scan."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    plan: plan.Plan
    products: frozenset[str]
    workers: int


def prepare(
    path: str | os.PathLike[str], *, name: str | None = None, spectra: str = "heads", workers: int | None = None
) -> Prepared:
    """Open, place and plan: headers are read, tensors are not. OptionError where an argument is out of its range."""
    if spectra not in plan.SPECTRA:
        raise OptionError(f"{spectra!r} is no choice of spectra: take one of {', '.join(plan.SPECTRA)}.")
    if workers is not None and workers < 1:
        raise OptionError(f"{workers} workers do no work: take at least 1.")
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
    from shardscan import catalog, resume

    clock = time.monotonic()
    with memory.watched() as peak, commits.writing(folder):
        scan = resume.scan_for(prepared.checkpoint, prepared.anatomy, prepared.plan, folder, replace=replace)
        todo = plan.plan(prepared.anatomy, prepared.products, resume.done(scan), prepared.workers)
        finished = _reduce(scan, todo, prepared, peak, progress)
        failures = {name: reason for task in finished for name, reason in task.failures.items()}
        if not failures:
            commits.supersede(scan)
        file = catalog.build(folder)
    return Summary(
        model=prepared.checkpoint.name,
        store=str(folder),
        catalog=str(file),
        tensors=len(prepared.checkpoint),
        tasks=len(finished),
        bytes_read=sum(task.nbytes for task in finished),
        seconds=time.monotonic() - clock,
        peak_memory=peak.bytes,
        failures=failures,
    )


def remaining(prepared: Prepared, folder: Path) -> plan.Plan:
    """What a scan into this store would still do; nothing is read but headers and commits."""
    from shardscan import resume

    before = resume.done_before(prepared.checkpoint, prepared.anatomy, folder)
    return plan.plan(prepared.anatomy, prepared.products, before, prepared.workers)


def rebuild(folder: Path, *, everything: bool = True) -> Path:
    """Build a store's catalog again, from Zarr alone if `everything`; the path of the file."""
    from shardscan import catalog

    if not (folder / "commits").is_dir():
        raise StoreNotFound(f"{folder} is not a store: make one with `shardscan ingest CHECKPOINT --store {folder}`.")
    with commits.writing(folder):
        return catalog.build(folder, rebuild=everything)


def _reduce(
    scan: Scan, todo: plan.Plan, prepared: Prepared, peak: memory.Peak, progress: Callable[[int, int], None] | None
) -> list[Done]:
    """Run the tasks that are left; an interrupted run is recorded with what it committed."""
    from shardscan.reduce import scan as reducing

    started, clock = datetime.now(UTC), time.monotonic()
    before, read = commits.stamps(scan), 0

    def advance(nbytes: int) -> None:
        nonlocal read
        read += nbytes
        if progress:
            progress(read, todo.bytes_to_read)

    try:
        keep = partial(_keep, scan, commits.witness(scan) or {})
        return reducing.run(
            todo.tasks, keep, workers=prepared.workers, in_flight=2 * prepared.workers, progress=advance
        )
    finally:
        tasks = {task for (task, _), _ in commits.stamps(scan).items() - before.items()}
        if tasks:
            seconds = time.monotonic() - clock
            commits.record_run(scan, _run(prepared, started, seconds, len(tasks), read, peak.bytes))


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


def _keep(scan: Scan, seen: Mapping[str, list[int]], task: plan.Task, results: Sequence[Result]) -> Mapping[str, str]:
    """Write a task's results, less those of files that are no longer what the scan began with."""
    from shardscan import store

    checked = [
        r if _is_as_seen(unit, seen) else Result(failure=CHANGED) for unit, r in zip(task.units, results, strict=True)
    ]
    return store.write(scan, task, checked)


def _is_as_seen(unit: plan.Unit, seen: Mapping[str, list[int]]) -> bool:
    tensor = unit.placed.tensor
    try:
        return look(tensor.path) == seen[tensor.file]
    except OSError:
        return False
