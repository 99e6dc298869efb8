"""STORE, its gate: results are written and committed only if they are of the contents that the scan began with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shardscan.plan.tasks import CompositeTask, Task, Unit
from shardscan.reduce import selfcheck
from shardscan.reduce.result import Result
from shardscan.shards.address import Tensor
from shardscan.shards.witness import is_as_seen
from shardscan.store import arrays as store
from shardscan.store.commits import Scan

CHANGED = "the file changed while it was scanned: ingest again with --replace once nobody writes to it"


def tensors(
    scan: Scan,
    seen: Mapping[str, list[int]],
    options: Mapping[str, object],
    task: Task,
    results: Sequence[Result],
) -> None:
    """Write a task's results, less those of files that are no longer what the scan began with."""
    kept = [_checked(scan, task, unit, r, seen) for unit, r in zip(task.units, results, strict=True)]
    store.write(scan, task, kept, options)


def composites(scan: Scan, seen: Mapping[str, list[int]], task: CompositeTask, result: Result) -> None:
    """Write the composites of a layer, unless a file of their factors is no longer what the scan began with."""
    factors = (task.composite.left, task.composite.right)
    if not result.failure and not all(_is_as_seen(factor.placed.tensor, seen) for factor in factors):
        result = Result(failure=CHANGED)
    store.write_composites(scan, task, result)


def _checked(scan: Scan, task: Task, unit: Unit, result: Result, seen: Mapping[str, list[int]]) -> Result:
    """The result, if its file is as it was and its spectra have the norm that its statistics have."""
    if not result.failure and not _is_as_seen(unit.placed.tensor, seen):
        return Result(failure=CHANGED)

    def channels(i: int, side: str) -> np.ndarray:
        fresh: np.ndarray | None = getattr(result.matrices[i], f"channels_{side}")
        return store.channels(scan, task, unit, unit.matrices[i], side) if fresh is None else fresh

    return selfcheck.checked(unit, result, channels)


def _is_as_seen(tensor: Tensor, seen: Mapping[str, list[int]]) -> bool:
    return is_as_seen(tensor.path, seen[tensor.file])
