"""REDUCE, the run: a plan's tasks as one dask graph, on threads here or on whatever scheduler the caller has set up.

See `graph` for how sums are added in one order, and what returns to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from shardscan.plan.tasks import CompositeTask, Task, has_full, in_flight
from shardscan.reduce.blocks import Partial, compile_kernels, finish, merge, reduce_block
from shardscan.reduce.composites import reduce_composite
from shardscan.reduce.devices import CPU, Device, Solver
from shardscan.reduce.graph import Done, Progress, Steps, folds, in_threads, keeping, limit_blas, on_workers
from shardscan.reduce.result import Result
from shardscan.reduce.whole_matrices import join, reduce_matrix
from shardscan.shards.ahead import Ahead

__all__ = ["Done", "limit_blas", "run", "run_composites", "run_matrices"]

Keep = Callable[[Task, Sequence[Result]], None]
KeepComposites = Callable[[CompositeTask, Result], None]


def run(
    tasks: tuple[Task, ...],
    keep: Keep,
    *,
    workers: int,
    progress: Callable[[int], None] | None = None,
    device: Device = CPU,
) -> list[Done]:
    """Reduce every task and `keep` its results; `progress` is told the bytes of each block as it is reduced.

    Threads of this process by default; a scheduler set through dask (processes, a cluster's client) is honoured, for
    which `keep` must pickle.
    """
    sizes = {
        ("block", task.name, index, i): block.window.nbytes
        for task in tasks
        for index, unit in enumerate(task.units)
        for i, block in enumerate(unit.blocks)
    }
    windows = [block.window for task in tasks for unit in task.units for block in unit.blocks]
    if device == CPU:
        compile_kernels({window.dtype for window in windows})
    with Ahead(windows) if in_threads() else nullcontext() as ahead:
        steps = Steps(partial(reduce_block, device=device, ahead=ahead), Partial(), merge, finish)
        graph = folds(tasks, keep, in_flight(workers), steps)
        return on_workers(graph, tasks, workers, Progress(sizes, progress))


def run_composites(
    tasks: tuple[CompositeTask, ...],
    keep: KeepComposites,
    *,
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> list[Done]:
    """Reduce the composites of every task, each by one worker, and `keep` them; as `run` otherwise."""
    graph: dict[Any, Any] = {}
    for task in tasks:
        graph["composites", task.name] = (reduce_composite, task.composite)
        graph["keep", task.name] = (keeping, keep, task, ("composites", task.name))
    sizes = {("composites", task.name): task.nbytes for task in tasks}
    return on_workers(graph, tasks, workers, Progress(sizes, progress))


def run_matrices(
    tasks: tuple[Task, ...],
    solver: Solver,
    keep: Keep,
    *,
    workers: int,
    blas_threads: int,
    progress: Callable[[int], None] | None = None,
) -> list[Done]:
    """Solve the whole matrices of every task, each with `blas_threads`, and `keep` them; as `run` otherwise."""
    graph: dict[Any, Any] = {}
    sizes: dict[Any, int] = {}
    for task in tasks:
        for index, unit in enumerate(task.units):
            solved = []
            for number, matrix in zip(unit.numbers, unit.matrices, strict=True):
                if has_full(unit.placed, matrix):
                    solved.append(("matrix", task.name, index, number))
                    graph[solved[-1]] = (reduce_matrix, unit.placed, matrix, solver)
                    sizes[solved[-1]] = unit.nbytes // len(unit.numbers)
            graph["unit", task.name, index] = (join, solved)
        graph["keep", task.name] = (keeping, keep, task, [("unit", task.name, i) for i in range(len(task.units))])
    return on_workers(graph, tasks, workers, Progress(sizes, progress), blas_threads)
