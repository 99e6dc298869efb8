"""MATCH, its subjects: two models of one store, each by the path of its checkpoint or by its name there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shardscan.answers.connection import run_query
from shardscan.answers.questions import Query
from shardscan.catalog.checks import find_stale, is_outdated
from shardscan.catalog.sqlfiles import job_sql
from shardscan.errors import CheckpointError, CheckpointNotFound, OptionError, StoreNotFound, shown
from shardscan.jobs.scan.job import rebuild_catalog
from shardscan.jobs.scan.prepare import Prepared, remaining
from shardscan.shards.address import Checkpoint
from shardscan.shards.sources.schemes import scheme_of
from shardscan.shards.witness import list_witnesses
from shardscan.store import commits, resume
from shardscan.store.arrays import list_current_scans
from shardscan.store.commits import Scan
from shardscan.store.facts import read_scan
from shardscan.store.lock import reporting_unreadable
from shardscan.store.names import CATALOG

Prepare = Callable[..., Prepared]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model by its name in the store, and its checkpoint, None where only the store knows it."""

    model: str
    prepared: Prepared | None

    @property
    def checkpoint(self) -> Checkpoint:
        """That of a model whose checkpoint is at hand."""
        assert self.prepared
        return self.prepared.checkpoint


Subjects = tuple[Subject, Subject]


def find_subject(text: str | os.PathLike[str], name: str | None, folder: Path, prepare: Prepare) -> Subject:
    """The model that a path, or a name in the store, means; `name` is what the store is to call a path's.

    CheckpointNotFound where it is neither, CheckpointError where the checkpoint cannot be read.
    """
    is_path = not isinstance(text, str) or text.startswith((".", "/")) or scheme_of(text) or os.path.lexists(text)
    if is_path:
        try:
            prepared = prepare(text, name=name)
            return Subject(prepared.checkpoint.name, prepared)
        except CheckpointNotFound:  # a folder without a checkpoint may have the name of a model
            if not isinstance(text, str) or text not in _list_models(folder):
                raise
    models = _list_models(folder)
    if text not in models:
        contents = f", which has {', '.join(map(shown, models))}" if models else ""
        raise CheckpointNotFound(
            f"{shown(str(text), 400)} is neither a checkpoint nor a model of the store {shown(str(folder), 400)}"
            f"{contents}: give a path, or the name of a model."
        )
    return Subject(str(text), None)


def _list_models(folder: Path) -> list[str]:
    """The names of a store's models; none where there is no store."""
    try:
        return list(run_query(folder, Query(job_sql("comparison", "models"), {}))["model"].to_pylist())
    except StoreNotFound:
        return []


def check_names(a: Subject, b: Subject) -> None:
    """Refuse two checkpoints of one name."""
    if a.model == b.model and a.prepared and b.prepared and a.checkpoint.path != b.checkpoint.path:
        raise OptionError(
            f"both checkpoints are named {shown(a.model)}: give them names of their own with --names, such as "
            "--names original pruned."
        )


def renew_catalog(folder: Path) -> None:
    """Build the catalog again where it is not of what is committed, or an older version made it."""
    file = folder / CATALOG
    if file.is_file() and (is_outdated(file) or find_stale(file, list_current_scans(folder))):
        rebuild_catalog(folder, everything=False)


def is_scanned(prepared: Prepared, folder: Path) -> bool:
    """Whether a store has all of a scan of files that nobody touched since."""
    with reporting_unreadable(folder):
        scan = resume.find_scan(prepared.checkpoint, prepared.anatomy, folder)
        if scan is None or commits.read_witness(scan) != list_witnesses(prepared.checkpoint):
            return False
    left = remaining(prepared, folder)
    return (folder / CATALOG).is_file() and not (left.tasks or left.composites or left.matrices or left.large_matrices)


def with_checkpoint(subject: Subject, folder: Path, prepare: Prepare) -> Subject:
    """The same with its checkpoint, from where it was scanned; CheckpointError where that is not the one any more."""
    if subject.prepared:
        return subject
    scan = find_scan(subject.model, folder)
    source = read_scan(scan).source
    try:
        prepared = prepare(source, name=subject.model)
        is_untouched = commits.read_witness(scan) == list_witnesses(prepared.checkpoint)
        if is_untouched and resume.is_scan_of(scan, prepared.checkpoint, prepared.anatomy):
            return Subject(subject.model, prepared)
        since = "was scanned in another way, by --state, --family, --index or another version"
        reason = f"{shown(source, 400)} {since if is_untouched else 'was written to since it was scanned'}"
    except CheckpointError as error:
        reason = str(error).rstrip(".")
    raise CheckpointError(
        f"The values of {shown(subject.model)} cannot be read ({reason}): give its path instead of its name."
    )


def with_checkpoint_if_there(subject: Subject, folder: Path, prepare: Prepare) -> Subject:
    """The same with its checkpoint, if that is still where it was scanned."""
    with suppress(CheckpointError):
        return with_checkpoint(subject, folder, prepare)
    return subject


def find_scan(model: str, folder: Path) -> Scan:
    """The scan that speaks for a model."""
    return next(scan for scan in list_current_scans(folder) if read_scan(scan).model == model)
