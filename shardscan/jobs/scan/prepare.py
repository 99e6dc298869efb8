"""The first half of a scan, open → name → plan: what it is to do, what of it is left, and what that takes.

Headers are read and tensors are not; nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from shardscan import machine
from shardscan.anatomy.families.loading import load_families
from shardscan.anatomy.placement import place_tensors
from shardscan.anatomy.places import Anatomy
from shardscan.jobs.scan.options import Reading, Resources, ScanOptions
from shardscan.plan.scan import Plan, kept_channels, plan_scan
from shardscan.plan.scan_budget import Budget, budget_scan
from shardscan.plan.workers import most_workers
from shardscan.reduce.devices import Device, Solver, choose_device
from shardscan.shards.address import Checkpoint
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.store.lock import reporting_unreadable


@dataclass(frozen=True)
class Prepared:
    """A checkpoint with every tensor placed, what a scan of it is to compute, on which device, and what it may take."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    options: ScanOptions
    resources: Resources
    device: Device

    @property
    def products(self) -> frozenset[str]:
        return self.options.products

    @property
    def channels(self) -> str | None:
        """Which channels the catalog is to have; None for what `plan.scan.kept_channels` decides."""
        return self.options.channels

    @property
    def solver(self) -> Solver:
        return Solver(self.options.exact, self.device)

    @property
    def blas_threads(self) -> int:
        """How many threads solve one large matrix."""
        return self.options.blas_threads or machine.processors()

    @cached_property
    def plan(self) -> Plan:
        """The plan of the full scan."""
        return plan_scan(self.anatomy, self.products)

    def plan_without(self, done: Set[tuple[str, str]]) -> Plan:
        """The plan less the (task, product) pairs that are done."""
        return plan_scan(self.anatomy, self.products, done) if done else self.plan

    def budget(self, todo: Plan) -> Budget:
        """What a plan takes, with as many workers as there is memory for.

        OptionError where not even one fits, and where the plan would read more than it may.
        """
        from shardscan.reduce.kernels import cpu

        self.resources.check_bytes("this scan", todo.bytes_to_read)
        budget_of = partial(budget_scan, todo, self.anatomy, exact=self.options.exact, compiles=not cpu.compiled())
        planned = most_workers(budget_of, self.resources.workers, self.resources.memory)
        self.resources.check_memory("this scan needs", planned.peak, ", or ask for other --spectra")
        return planned


def prepare(
    path: str | os.PathLike[str],
    options: ScanOptions | None = None,
    reading: Reading | None = None,
    resources: Resources | None = None,
    *,
    name: str | None = None,
) -> Prepared:
    """Open and place. OptionError where the device cannot be used, CheckpointError and FamilyError as by `ingest`."""
    options, reading, resources = options or ScanOptions(), reading or Reading(), resources or Resources.within()
    device = choose_device(options.device)
    with machine.without_collector():
        checkpoint = open_checkpoint(path, name=name, io=reading.io, options=reading.of_files, index=reading.index)
        anatomy = place_tensors(checkpoint, load_families(reading.family_files))
    return Prepared(checkpoint, anatomy, options, resources, device)


def remaining(prepared: Prepared, folder: Path) -> Plan:
    """What a scan into this store would still do; of the checkpoint only headers and a few pages are read."""
    from shardscan.store import resume

    with reporting_unreadable(folder):
        scan = resume.find_scan(prepared.checkpoint, prepared.anatomy, folder)
        return prepared.plan_without(resume.find_done(scan, exact=prepared.options.exact) if scan else set())


def choose_channels(prepared: Prepared, folder: Path) -> str:
    """Which channels this store's catalog would have: as is asked, as an earlier run said, or by their number."""
    from shardscan.store import resume

    with reporting_unreadable(folder):
        choice = prepared.channels or resume.find_chosen_channels(prepared.checkpoint, prepared.anatomy, folder)
    return kept_channels(choice, prepared.plan.channels)
