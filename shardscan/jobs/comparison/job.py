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

from shardscan.answers.connection import connect, fetch_rows
from shardscan.catalog.build import build
from shardscan.catalog.sqlfiles import job_sql
from shardscan.jobs.comparison.axes import Axis
from shardscan.jobs.comparison.pairing import pair_weights
from shardscan.jobs.comparison.subjects import (
    Subject,
    Subjects,
    check_names,
    find_scan,
    find_subject,
    is_scanned,
    renew_catalog,
    with_checkpoint,
    with_checkpoint_if_there,
)
from shardscan.jobs.comparison.survivors import Phase, Scans, settle_axes
from shardscan.jobs.comparison.values import begin_comparison, check_memory, compare_weights
from shardscan.jobs.scan.job import execute
from shardscan.jobs.scan.options import Reading, Resources, ScanOptions
from shardscan.jobs.scan.prepare import prepare
from shardscan.plan.comparison import plan_comparison
from shardscan.store.lock import writing_store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Difference", "diff"]

OF_VALUES = ("changed", "newly_zero", "relative_change", "cosine", "max_change", "change_rank")  # columns of modules


@dataclass(frozen=True, slots=True)
class Difference:
    """What became of a model: `modules` has the rows of model_diff, `summary` the one of pruning_summary.

    The columns of `modules` that are about values are there once values were compared. `notes` are of the checkpoints,
    `faults` impossible shapes, `altered_axes` those along which b is longer or in another order (see the .sql file of
    that name). `aligned` says of how many axes (the rows or the columns of a matrix) it was found by which method what
    is left of them, beyond what SQL tells by itself, and `unknown` of how many it was not.
    `failures` says why which tensors could not be scanned or compared, `left` why which weights of b have no values to
    compare. `compared` is how many weights were compared by value, now or before; None where nobody asked.
    """

    modules: pa.Table
    notes: tuple[str, ...]
    summary: Mapping[str, Any]
    faults: tuple[str, ...]
    altered_axes: tuple[Mapping[str, Any], ...]
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
    index: str = "auto",
    state: str | None = None,
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
        Reading(io, pickled_module, family_files, index, state),
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
    values = values or rank
    if values:
        check_memory(resources)
    open_and_place = partial(prepare, options=ScanOptions(spectra="none"), reading=reading, resources=resources)
    both = find_subject(a, names[0], folder, open_and_place), find_subject(b, names[1], folder, open_and_place)
    check_names(*both)
    renew_catalog(folder)
    failures = {**_scan_if_missing(both[0], folder, phase), **_scan_if_missing(both[1], folder, phase)}
    scans = find_scan(both[0].model, folder), find_scan(both[1].model, folder)
    if values:
        both = with_checkpoint(both[0], folder, open_and_place), with_checkpoint(both[1], folder, open_and_place)
    else:
        both = with_checkpoint_if_there(both[0], folder, open_and_place), both[1]
    axes = settle_axes(folder, scans, both, resources.workers, phase)
    if not values:
        return _read_difference(folder, both, failures, {}, values=False)
    failed, left = _compare_values(folder, scans, both, axes, phase, resources, rank=rank)
    return _read_difference(folder, both, {**failures, **failed}, left, values=True)


def _compare_values(
    folder: Path, scans: Scans, both: Subjects, axes: Sequence[Axis], phase: Phase, resources: Resources, *, rank: bool
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Compare values; why which weights of b failed, and why which could not be compared."""
    pairs, left = pair_weights(folder, both, axes)
    todo, checkpoints = plan_comparison(pairs), (both[0].checkpoint, both[1].checkpoint)
    with writing_store(folder), phase("comparing") as advance:
        comparison = begin_comparison(*scans, (both[0].model, both[1].model), todo)
        summary = compare_weights(comparison, todo, checkpoints, resources, rank=rank, progress=advance)
        build(folder)
    return summary.failures, left


def _scan_if_missing(subject: Subject, folder: Path, phase: Phase) -> Mapping[str, str]:
    """Scan what a store lacks of a model; why which tensors failed."""
    if subject.prepared is None or is_scanned(subject.prepared, folder):
        return {}
    with phase(subject.model) as advance:
        return execute(subject.prepared, folder, progress=advance).failures


def _read_difference(
    folder: Path, both: Subjects, failures: Mapping[str, str], left: Mapping[str, str], *, values: bool
) -> Difference:
    """What the tables say of two models; the columns of values where any were compared."""
    names = {"a": both[0].model, "b": both[1].model}
    with connect(folder) as connection:

        def query(name: str) -> pa.Table:
            return fetch_rows(connection, job_sql("comparison", name), names)

        modules = query("modules")
        (summary,) = query("summary").to_pylist()
        faults = query("faults")["fault"].to_pylist()
        altered_axes = query("altered_axes").to_pylist()
        aligned = {row["method"]: row["axes"] for row in query("alignment_methods").to_pylist()}
        (compared,) = query("compared_weights")["compared"].to_pylist()
    return Difference(
        modules=modules if compared else modules.drop_columns(list(OF_VALUES)),
        notes=tuple(f"{s.model}: {note}" for s in both if s.prepared for note in s.prepared.checkpoint.notes),
        summary=summary,
        faults=tuple(faults),
        altered_axes=tuple(altered_axes),
        unknown=aligned.pop("", 0),
        aligned=aligned,
        failures=failures,
        left=left,
        compared=compared if values else None,
    )
