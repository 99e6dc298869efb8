"""STORE, its gate: results are written and committed only if they are of the contents that the scan began with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from shardscan.plan.tasks import CompositeTask, Task, Unit
from shardscan.reduce.products import Steps, steps_of
from shardscan.reduce.result import Inconsistent, Result
from shardscan.shards.address import Tensor
from shardscan.shards.witness import is_as_seen
from shardscan.store.arrays import read_matrix, write_composites, write_tensors
from shardscan.store.commits import Scan

CHANGED = "the file changed while it was scanned: ingest again with --replace once nobody writes to it"

Seen = Mapping[str, Sequence[int]]  # what a witness saw of each file


def keep_tensors(scan: Scan, seen: Seen, options: Mapping[str, object], task: Task, results: Sequence[Result]) -> None:
    """Write a task's results, less those of files that are no longer what the scan began with."""
    kept = [_checked(scan, task, unit, r, seen) for unit, r in zip(task.units, results, strict=True)]
    write_tensors(scan, task, kept, options)


def keep_composites(scan: Scan, seen: Seen, task: CompositeTask, result: Result) -> None:
    """Write the composites of a layer, unless a file of their factors is no longer what the scan began with."""
    factors = (task.composite.left, task.composite.right)
    if not result.failure and not all(is_unchanged(factor.placed.tensor, seen) for factor in factors):
        result = Result(failure=CHANGED)
    write_composites(scan, task, result)


def _checked(scan: Scan, task: Task, unit: Unit, result: Result, seen: Seen) -> Result:
    """The result, if its file is as it was and what its products check agrees."""
    if result.failure:
        return result
    if not is_unchanged(unit.placed.tensor, seen):
        return Result(failure=CHANGED)

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
