"""MATCH, beside the line: two checkpoints in one store, and which weight and channel of one is which of the other.

Promises: what a store lacks of either model is scanned, as `ingest` does. What SQL can tell is left to SQL
(sql/views/surviving_channels.sql); what it cannot, because it takes a checkpoint or a search, is found once and kept as
alignments. With values, both checkpoints are read once more, in bounded memory, and what every weight, row and column
differs by is kept as `tensor_diffs` and `channel_diffs`. The same command continues what was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardscan.answers import connection as ask
from shardscan.catalog import build as catalog
from shardscan.jobs.comparison import values as comparing
from shardscan.jobs.comparison.axes import Axis
from shardscan.jobs.comparison.pairing import pairs_of
from shardscan.jobs.comparison.subjects import (
    Subject,
    Subjects,
    check_names,
    is_scanned,
    renew,
    scan_of,
    subject,
    with_checkpoint,
    with_checkpoint_if_there,
)
from shardscan.jobs.comparison.survivors import Phase, Scans, settle
from shardscan.jobs.scan.job import execute
from shardscan.jobs.scan.options import Reading, Resources, ScanOptions
from shardscan.jobs.scan.prepare import prepare
from shardscan.plan.comparison import tasks
from shardscan.store import lock as writers

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Difference", "diff"]

MODULES = "SELECT * EXCLUDE (model_a, model_b) FROM model_diff($a, $b) ORDER BY component, retention, role"
OF_VALUES = ("changed", "newly_zero", "relative_change", "cosine", "max_change", "change_rank")
SUMMARY = "FROM pruning_summary($a, $b)"
FAULTS = """
    SELECT DISTINCT coalesce('layer ' || layer || ': ', '') || detail AS fault, layer
    FROM shape_faults($a, $b) ORDER BY layer, fault
"""
COMPARED = """
    SELECT count(*) AS compared FROM tensor_diffs WHERE model_a = $a AND model_b = $b AND changed IS NOT NULL
"""
ALIGNED = """
    SELECT CASE WHEN is_open THEN '' ELSE method END AS method, count(*) AS axes
    FROM surviving_axes($a, $b)
    WHERE n_b < n_a AND (is_open OR method NOT IN ('fingerprint', 'position', 'residual')) GROUP BY ALL ORDER BY ALL
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """What became of a model: `modules` has the rows of model_diff, `summary` the one of pruning_summary.

    The columns of `modules` that are about values are there once values were compared. `notes` are of the checkpoints,
    `faults` impossible shapes. `aligned` says of how many axes (the rows or the columns of a matrix) it was found by
    which method what is left of them, beyond what SQL tells by itself, and `unknown` of how many it was not.
    `failures` says why which tensors could not be scanned or compared, `left` why which weights of b have no values to
    compare. `compared` is how many weights were compared by value, now or before; None where nobody asked.
    """

    modules: pa.Table
    notes: tuple[str, ...]
    summary: Mapping[str, Any]
    faults: tuple[str, ...]
    aligned: Mapping[str, int]
    unknown: int
    failures: Mapping[str, str]
    left: Mapping[str, str]
    compared: int | None


@contextmanager
def _quietly(_: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    store: str | os.PathLike[str] = "scans",
    *,
    names: tuple[str | None, str | None] = (None, None),
    family_files: Sequence[str | os.PathLike[str]] = (),
    workers: int | None = None,
    memory_limit: int | None = None,
    io: str = "auto",
    max_bytes: int | None = None,
    pickled_module: bool = False,
    values: bool = False,
    rank: bool = False,
    phase: Phase = _quietly,
) -> Difference:
    """Scan what `store` lacks of `a`, the original, and `b`, and find out what became of a in b.

    Each is the path of a checkpoint, as for `ingest`, or the name of a model in the store; `names` are what the store
    is to call them. With `values` every weight is compared value by value, on the channels that b has left; with `rank`
    the rank of each change is found too. `phase` is called with what comes next and gives a context with a function
    that is told how much of how much is done. The other arguments, and what is raised, are those of `ingest`.
    """
    return compare_models(
        a,
        b,
        Path(store),
        Reading(io, pickled_module, family_files),
        Resources.within(workers, memory_limit, max_bytes),
        names=names,
        values=values,
        rank=rank,
        phase=phase,
    )


def compare_models(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    folder: Path,
    reading: Reading,
    resources: Resources,
    *,
    names: tuple[str | None, str | None] = (None, None),
    values: bool = False,
    rank: bool = False,
    phase: Phase = _quietly,
) -> Difference:
    """Compare two models; see `diff`."""
    if values or rank:
        comparing.check_memory(resources)
    open_and_place = partial(prepare, options=ScanOptions(spectra="none"), reading=reading, resources=resources)
    both = subject(a, names[0], folder, open_and_place), subject(b, names[1], folder, open_and_place)
    check_names(*both)
    renew(folder)
    failures = {name: reason for one in both for name, reason in _scanned(one, folder, phase).items()}
    scans = scan_of(both[0].model, folder), scan_of(both[1].model, folder)
    if values or rank:
        both = with_checkpoint(both[0], folder, open_and_place), with_checkpoint(both[1], folder, open_and_place)
    else:
        both = with_checkpoint_if_there(both[0], folder, open_and_place), both[1]
    axes = settle(folder, scans, both, resources.workers, phase)
    if not (values or rank):
        return _told(folder, both, failures, {}, values=False)
    failed, left = _compared(folder, scans, both, axes, phase, resources, rank=rank)
    return _told(folder, both, {**failures, **failed}, left, values=True)


def _compared(
    folder: Path, scans: Scans, both: Subjects, axes: Sequence[Axis], phase: Phase, resources: Resources, *, rank: bool
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Compare values; why which weights of b failed, and why which could not be compared."""
    pairs, left = pairs_of(folder, both, axes)
    found, checkpoints = tasks(pairs), (both[0].checkpoint, both[1].checkpoint)
    with writers.writing(folder), phase("comparing") as advance:
        comparison = comparing.begin(*scans, (both[0].model, both[1].model), found)
        failures = comparing.run(comparison, found, checkpoints, resources, rank=rank, progress=advance).failures
        catalog.build(folder)
    return failures, left


def _scanned(one: Subject, folder: Path, phase: Phase) -> Mapping[str, str]:
    """Scan what a store lacks of a model; why which tensors failed."""
    if one.prepared is None or is_scanned(one.prepared, folder):
        return {}
    with phase(one.model) as advance:
        return execute(one.prepared, folder, progress=advance).failures


def _told(
    folder: Path, both: Subjects, failures: Mapping[str, str], left: Mapping[str, str], *, values: bool
) -> Difference:
    """What the tables say of two models."""
    names = {"a": both[0].model, "b": both[1].model}
    with ask.connect(folder) as connection:
        (summary,) = ask.read(connection, SUMMARY, names).to_pylist()
        faults = ask.read(connection, FAULTS, names)["fault"].to_pylist()
        aligned = ask.read(connection, ALIGNED, names).to_pylist()
        modules = ask.read(connection, MODULES, names)
        (compared,) = ask.read(connection, COMPARED, names)["compared"].to_pylist()
    if not compared:
        modules = modules.drop_columns(list(OF_VALUES))
    methods = {row["method"]: row["axes"] for row in aligned}
    unknown = methods.pop("", 0)
    notes = tuple(f"{one.model}: {note}" for one in both if one.prepared for note in one.prepared.checkpoint.notes)
    return Difference(
        modules, notes, summary, tuple(faults), methods, unknown, failures, left, compared if values else None
    )
