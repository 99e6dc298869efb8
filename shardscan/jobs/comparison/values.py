"""The whole line of a comparison, from pairs on: plan → compare → store. What is committed is not read again.

    tasks = plan.comparison.tasks(pairs)                               # pure; the same pairs give the same tasks
    with writing_store(store):
        comparison = begin_comparison(scan_a, scan_b, models, tasks)   # goes on, or begins
        compare_weights(comparison, tasks, (checkpoint_a, checkpoint_b), resources, …)
        build(store)

Who calls it has made sure that the checkpoints are those that the scans are of; that the scans still speak for their
models is made sure here. A comparison of the same scans whose pairs are others is begun anew. Alignments are beside it:

    read_alignments(scan_a, scan_b)                                    # what was kept of the two, compared or not
    keep_alignments(scan_a, scan_b, models, alignments)                # within `writing_store`, then `build`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial

from shardscan import machine
from shardscan.jobs.scan.options import Resources
from shardscan.plan.comparison import Task
from shardscan.plan.comparison_budget import Budget, budget_comparison, is_large, least_memory
from shardscan.plan.workers import most_workers
from shardscan.reduce.change_ranks import Change, has_rank, rank_changes
from shardscan.reduce.comparison import compare_tasks
from shardscan.reduce.kernels.cpu import comparison as differences
from shardscan.shards.address import Checkpoint
from shardscan.shards.witness import list_witnesses
from shardscan.store import commits
from shardscan.store.alignments import Alignment, keep_alignments, read_alignments
from shardscan.store.commits import Scan
from shardscan.store.comparison import begin_comparison
from shardscan.store.gate import keep_changes, keep_figures
from shardscan.store.records import FAILED, OK, RANKS, VALUES, WeightVerdict

__all__ = [
    "Alignment",
    "Left",
    "Summary",
    "begin_comparison",
    "budget",
    "check_memory",
    "compare_weights",
    "keep_alignments",
    "read_alignments",
    "remaining",
]

UNCHANGED = Change(edge=float("nan"))  # its rank is known without reading


@dataclass(frozen=True, slots=True)
class Left:
    """What a comparison has still to do: tasks to compare, and tasks whose ranks are wanted."""

    values: tuple[Task, ...]
    ranks: tuple[Task, ...]

    @property
    def nbytes(self) -> int:
        """The most that is to be read: ranks of what did not change are known without."""
        return sum(task.nbytes for task in (*self.values, *self.ranks))


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did: tasks committed, bytes read. `failures` says of the comparison why which weights of b failed."""

    tasks: int
    bytes_read: int
    failures: Mapping[str, str]


def remaining(comparison: Scan | None, tasks: Sequence[Task], *, rank: bool = False) -> Left:
    """What of the tasks is left: all of them if there is no comparison yet. What a disk has lost is done again."""
    records = commits.read_intact_commits(comparison) if comparison else {}
    done = {key for key, record in records.items() if all(v.status != FAILED for v in record.tensors.values())}
    values = tuple(task for task in tasks if (task.name, VALUES) not in done)
    again = {task.name for task in values}
    ranked = [task for task in tasks if any(map(has_rank, task.pairs))] if rank else []
    return Left(values, tuple(t for t in ranked if t.name in again or (t.name, RANKS) not in done))


def check_memory(resources: Resources) -> None:
    """OptionError where the memory does for no comparison, whatever it is of."""
    resources.check_memory("a comparison needs at least", least_memory(not differences.compiled()))


def budget(left: Left, resources: Resources) -> Budget:
    """What is left takes, with as many workers as there is memory for.

    OptionError where not even one fits, and where what is left would read more than it may.
    """
    resources.check_bytes("this comparison", left.nbytes)
    ranks = [pair for task in left.ranks for pair in task.pairs if has_rank(pair)]
    budget_with = partial(budget_comparison, left.values, ranks, compiles=not differences.compiled())
    planned = most_workers(budget_with, resources.workers, resources.memory)
    resources.check_memory("this comparison needs", planned.peak)
    return planned


def compare_weights(
    comparison: Scan,
    tasks: Sequence[Task],
    checkpoints: tuple[Checkpoint, Checkpoint],
    resources: Resources,
    *,
    rank: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Compare what is left and, if asked, find the ranks of the changes; commit task by task.

    `progress` is called with the bytes reduced so far and the most that there may be. OptionError, before anything is
    read, where the resources are too few; StoreWriteError (within `writing_store`) where the disk is full or fails. A
    pair that fails costs only itself.
    """
    read = 0
    left = remaining(comparison, tasks, rank=rank)
    planned = budget(left, resources)
    seen = list_witnesses(checkpoints[0]), list_witnesses(checkpoints[1])

    def advance(nbytes: int) -> None:
        nonlocal read
        read += nbytes
        if progress:
            progress(read, left.nbytes)

    machine.give_back_memory()
    done = len(
        compare_tasks(left.values, partial(keep_figures, comparison, seen), workers=planned.workers, progress=advance)
    )

    def find_ranks(tasks: Sequence[tuple[Task, Mapping[int, Change | None]]], workers: int, blas_threads: int) -> int:
        keep = partial(keep_changes, comparison, seen, {"blas_threads": blas_threads})
        return len(rank_changes(tasks, keep, workers=workers, blas_threads=blas_threads, progress=advance))

    ranked = _asked(comparison, left.ranks)
    done += find_ranks([task for task in ranked if not _has_large_change(*task)], planned.workers, 1)
    done += find_ranks([task for task in ranked if _has_large_change(*task)], 1, machine.processors())
    return Summary(done, read, _failures(comparison, {VALUES, RANKS} if rank else {VALUES}))


def _has_large_change(task: Task, changes: Mapping[int, Change | None]) -> bool:
    """Whether a change that is not known yet is too large to have one in every worker."""
    return any(is_large(task.pairs[number]) for number, change in changes.items() if change is None)


def _failures(comparison: Scan, products: Set[str]) -> dict[str, str]:
    """Why which weights of b failed, or their ranks, if those are among the products."""
    records = (
        record for (_, product), record in commits.read_sealed_commits(comparison)[0].items() if product in products
    )
    verdicts = (item for record in records for item in record.tensors.items())
    return {name: str(verdict.reason) for name, verdict in verdicts if verdict.status == FAILED}


def _asked(comparison: Scan, tasks: Sequence[Task]) -> list[tuple[Task, dict[int, Change | None]]]:
    """The pairs of each task that have a rank, by number: None of those that must be read to find it."""
    # what is not intact was compared again by now
    records = commits.read_sealed_commits(comparison)[0] if tasks else {}
    asked = []
    for task in tasks:
        commit = records.get((task.name, VALUES))
        verdicts: Mapping[str, WeightVerdict] = commit.tensors if commit else {}
        ranked = [(number, verdicts.get(p.b.id)) for number, p in enumerate(task.pairs) if has_rank(p)]
        asked.append((task, {number: _known(verdict) for number, verdict in ranked if verdict}))
    return asked


def _known(verdict: WeightVerdict) -> Change | None:
    if verdict.status != OK:
        return Change(failure=str(verdict.reason))
    return None if verdict.changed else UNCHANGED
