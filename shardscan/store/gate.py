"""STORE, its gate: results are written and committed only if they are of the contents that were there at the start."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from shardscan.plan.comparison import Pair
from shardscan.plan.comparison import Task as ComparisonTask
from shardscan.plan.tasks import CompositeTask, Task, Unit
from shardscan.reduce.change_ranks import Change
from shardscan.reduce.comparison import Compared
from shardscan.reduce.products import Steps, steps_of
from shardscan.reduce.result import Inconsistent, Result
from shardscan.shards.address import Tensor
from shardscan.shards.witness import is_as_seen
from shardscan.store.arrays import read_matrix, write_composites, write_tensors
from shardscan.store.commits import Scan
from shardscan.store.comparison import write_changes, write_figures

CHANGED_IN_SCAN = "the file changed while it was scanned: ingest again with --replace once nobody writes to it"
CHANGED_IN_COMPARISON = "the file changed while it was compared: do it again once nobody writes to it"

Seen = Mapping[str, Sequence[int]]  # what a witness saw of each file


def keep_tensors(scan: Scan, seen: Seen, options: Mapping[str, object], task: Task, results: Sequence[Result]) -> None:
    """Write a task's results, less those of files that are no longer what the scan began with."""
    kept = [_checked(scan, task, unit, r, seen) for unit, r in zip(task.units, results, strict=True)]
    write_tensors(scan, task, kept, options)


def keep_composites(scan: Scan, seen: Seen, task: CompositeTask, result: Result) -> None:
    """Write the composites of a layer, unless a file of their factors is no longer what the scan began with."""
    factors = (task.composite.left, task.composite.right)
    if not result.failure and not all(is_unchanged(factor.placed.tensor, seen) for factor in factors):
        result = Result(failure=CHANGED_IN_SCAN)
    write_composites(scan, task, result)


def _checked(scan: Scan, task: Task, unit: Unit, result: Result, seen: Seen) -> Result:
    """The result, if its file is as it was and what its products check agrees."""
    if result.failure:
        return result
    if not is_unchanged(unit.placed.tensor, seen):
        return Result(failure=CHANGED_IN_SCAN)

    def stored(i: int, name: str) -> np.ndarray:
        made = (outcome.of_matrices[i] for outcome in result.outcomes.values() if outcome.of_matrices)
        new = next((arrays[name] for arrays in made if name in arrays), None)
        return read_matrix(scan, task, unit, unit.matrices[i], name) if new is None else new

    try:
        outcomes = {
            name: steps_of(name, Steps).check(unit, outcome, stored) for name, outcome in result.outcomes.items()
        }
    except Inconsistent as error:
        return Result(failure=str(error))
    return dataclasses.replace(result, outcomes=outcomes)


def is_unchanged(tensor: Tensor, seen: Seen) -> bool:
    """Whether the file of a tensor is still what a witness saw."""
    return is_as_seen(tensor.path, seen[tensor.file])


def keep_figures(comparison: Scan, seen: tuple[Seen, Seen], task: ComparisonTask, compared: Sequence[Compared]) -> None:
    """Write a comparison's figures, less those of files that are no longer what they were when they were opened."""
    kept = [
        result if all(_are_unchanged(pair, seen) for pair in unit.pairs) else Compared(failure=CHANGED_IN_COMPARISON)
        for unit, result in zip(task.units, compared, strict=True)
    ]
    write_figures(comparison, task, kept)


def keep_changes(
    comparison: Scan,
    seen: tuple[Seen, Seen],
    options: Mapping[str, object],
    task: ComparisonTask,
    changes: Sequence[Change | None],
) -> None:
    """Likewise the ranks of its changes."""
    kept = [
        Change(failure=CHANGED_IN_COMPARISON) if change and not _are_unchanged(pair, seen) else change
        for pair, change in zip(task.pairs, changes, strict=True)
    ]
    write_changes(comparison, task, kept, options)


def _are_unchanged(pair: Pair, seen: tuple[Seen, Seen]) -> bool:
    tensors = (pair.a.placed.tensor, pair.b.placed.tensor)
    return all(is_unchanged(tensor, before) for tensor, before in zip(tensors, seen, strict=True))
