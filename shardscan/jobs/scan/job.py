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

from shardscan import machine
from shardscan.errors import StoreNotFound
from shardscan.jobs.scan.options import Reading, Resources, ScanOptions
from shardscan.jobs.scan.prepare import Prepared, prepare, remaining
from shardscan.plan import products
from shardscan.plan.products import MatrixProduct
from shardscan.plan.scan import Plan
from shardscan.plan.scan_budget import Budget
from shardscan.store import commits
from shardscan.store.commits import Scan
from shardscan.store.lock import writing_store
from shardscan.store.records import FAILED, Run

if TYPE_CHECKING:
    from shardscan.reduce.scan import Done


@dataclass(frozen=True, slots=True)
class Summary:
    """What an ingest did: tasks committed by this run, and bytes it read.

    `failures` says of the scan why which tensors or circuits failed, now or in an earlier run.
    """

    model: str
    store: str
    catalog: str
    tensors: int
    tasks: int
    bytes_read: int
    seconds: float
    peak_memory: int | None
    failures: Mapping[str, str]


def ingest(
    path: str | os.PathLike[str],
    store: str | os.PathLike[str] = "scans",
    *,
    name: str | None = None,
    family_files: Sequence[str | os.PathLike[str]] = (),
    spectra: str = "heads",
    workers: int | None = None,
    exact: bool = False,
    blas_threads: int | None = None,
    memory_limit: int | None = None,
    device: str = "cpu",
    channels: str | None = None,
    io: str = "auto",
    max_bytes: int | None = None,
    pickled_module: bool = False,
    index: str = "auto",
    state: str | None = None,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Scan the checkpoint at `path` into `store` and rebuild its catalog; what is committed already is not done again.

    `family_files` are naming families in TOML, which go before those that ship.
    `spectra` is 'none', or some of 'heads', 'full' (of whole matrices) and 'circuits' (OV and QK of every query head),
    with commas; the first two bring the deltas of LoRA pairs. `workers` threads reduce blocks and `blas_threads` solve
    one large matrix, by default one for each processor there is; `exact` solves those by QR and SVD of which a Gram
    matrix loses the smallest values. `channels` says which of them become rows of the catalog, whose arrays are stored
    in any case: 'all', 'dense' (none of experts) or 'none'; by default as an earlier run said, else all, or dense where
    all were more than 20 million.
    `memory_limit`, in bytes of anonymous memory and by default half of what is free, decides how many workers run;
    OptionError where not even one fits. `device` is 'cpu', 'cuda', 'cuda:1' or 'auto', which is the first CUDA device
    that can be used, else the CPU; OptionError where the one that is named cannot be used. `io` is how shards are read:
    'mmap' maps what the page cache holds, 'read' maps nothing, so that a shard that is cut short meanwhile costs its
    tensors and not the process, 'auto' is the former for local disks and the latter for a network's. `max_bytes` is the
    most that may be read; OptionError where it would be more. `pickled_module` reads the weights of a whole module that
    was pickled by PyTorch, as inert data. `index` is what the index of a folder's shards is for: 'auto' notes where it
    contradicts them, 'follow' refuses that, 'ignore' reads the shards alone. `state` is the key under which a PyTorch
    file of several dicts of tensors has the one to read. `progress` is called with the bytes
    reduced so far and the bytes there are. Raises CheckpointError, FamilyError, StoreError, and of the last
    StoreWriteError where the disk is full or fails; a single tensor that fails is in the summary's `failures` and in
    `tensors.status`, a spectrum in the former and in `spectra.reason`.
    """
    prepared = prepare(
        path,
        ScanOptions(spectra, exact, device, blas_threads, channels),
        Reading(io, pickled_module, family_files, index, state),
        Resources.within(workers, memory_limit, max_bytes),
        name=name,
    )
    return execute(prepared, Path(store), replace=replace, progress=progress)


def execute(
    prepared: Prepared, folder: Path, *, replace: bool = False, progress: Callable[[int, int], None] | None = None
) -> Summary:
    """Carry out a prepared scan; see `ingest`."""
    from shardscan.catalog.build import build
    from shardscan.store import resume

    clock = time.monotonic()
    prepared.budget(remaining(prepared, folder))  # before anything is written
    machine.give_back_memory()
    with machine.watch_memory() as peak, writing_store(folder):
        scan = resume.begin_or_continue_scan(
            prepared.checkpoint,
            prepared.anatomy,
            prepared.plan,
            folder,
            replace=replace,
            max_bytes=prepared.resources.max_bytes,
        )
        done = resume.find_done(scan, exact=prepared.options.exact)
        if prepared.channels is not None:
            commits.record_channels(scan, prepared.channels)
        finished = _reduce(scan, prepared.plan_without(done), prepared, peak, progress)
        troubles = resume.find_troubles(scan, prepared.products)
        if not any(status == FAILED for status, _ in troubles.values()):
            commits.supersede(scan)
        machine.give_back_memory()
        file = build(folder)
    return Summary(
        model=prepared.checkpoint.name,
        store=str(folder),
        catalog=str(file),
        tensors=len(prepared.checkpoint),
        tasks=len(finished),
        bytes_read=sum(task.nbytes for task in finished),
        seconds=time.monotonic() - clock,
        peak_memory=peak.bytes,
        failures={name: reason for name, (_, reason) in troubles.items()},
    )


def rebuild_catalog(folder: Path, *, everything: bool = True) -> Path:
    """Build a store's catalog again, from Zarr alone if `everything`; the path of the file."""
    from shardscan.catalog.build import build

    if not (folder / "commits").is_dir():
        raise StoreNotFound(f"{folder} is not a store: make one with `shardscan ingest CHECKPOINT --store {folder}`.")
    with writing_store(folder):
        return build(folder, rebuild=everything)


def _reduce(
    scan: Scan, todo: Plan, prepared: Prepared, peak: machine.Peak, progress: Callable[[int, int], None] | None
) -> list[Done]:
    """Run the tasks that are left; an interrupted run is recorded with what it committed."""
    from shardscan.reduce import scan as reducing
    from shardscan.store.gate import keep_composites, keep_tensors

    started, clock = datetime.now(UTC), time.monotonic()
    before, read = commits.stamps(scan), 0
    planned = prepared.budget(todo)

    def advance(nbytes: int) -> None:
        nonlocal read
        read += nbytes
        if progress:
            progress(read, todo.bytes_to_read)

    try:
        workers, threads, solver = planned.workers, prepared.blas_threads, prepared.solver
        seen, device = commits.read_witness(scan) or {}, {"device": solver.device.name}

        def matrices(blas_threads: int) -> Callable[..., None]:
            options = {**device, "exact": solver.exact, "blas_threads": blas_threads}
            return partial(keep_tensors, scan, seen, options)

        blocks, composites = partial(keep_tensors, scan, seen, device), partial(keep_composites, scan, seen)
        done = reducing.run_blocks(todo.tasks, blocks, workers=workers, progress=advance, device=solver.device)
        done += reducing.run_composites(todo.composites, composites, workers=workers, progress=advance)
        done += reducing.run_matrices(
            todo.matrices, solver, matrices(1), workers=workers, blas_threads=1, progress=advance
        )
        done += reducing.run_matrices(
            todo.large_matrices, solver, matrices(threads), workers=1, blas_threads=threads, progress=advance
        )
        return done
    finally:
        committed = [key for key, _ in commits.stamps(scan).items() - before.items()]
        # whole matrices have tasks of their own
        names = {(task, isinstance(products.named(product), MatrixProduct)) for task, product in committed}
        if names:
            seconds = time.monotonic() - clock
            commits.record_run(scan, _run(prepared, planned, started, seconds, len(names), read, peak.bytes))


def _run(
    prepared: Prepared,
    planned: Budget,
    started: datetime,
    seconds: float,
    tasks: int,
    nbytes: int,
    peak: int | None,
) -> Run:
    return Run(
        started=started.replace(tzinfo=None).isoformat(),
        seconds=seconds,
        tasks=tasks,
        bytes_read=nbytes,
        peak_memory=peak,
        options={
            "products": sorted(prepared.products),
            "workers": planned.workers,
            "blas_threads": prepared.blas_threads,
            "exact": prepared.solver.exact,
            "device": prepared.device.name,
            "planned_memory": planned.peak,
        },
        host=machine.host(),
        versions=machine.versions(),
    )
