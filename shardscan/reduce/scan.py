"""REDUCE, the run: a plan's tasks as one dask graph, on threads here or on whatever scheduler the caller has set up.

See `graph` for how sums are added in one order, and what returns to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from shardscan.errors import CheckpointError
from shardscan.plan.products import of_matrices
from shardscan.plan.tasks import CompositeTask, Task, Unit, in_flight
from shardscan.reduce.blocks import Partial, compile_kernels, finish_tensor, merge_products, reduce_block
from shardscan.reduce.devices import CPU, Device, Solver
from shardscan.reduce.graph import Done, Progress, Steps, fold_blocks, in_threads, keep_results, limit_blas, on_workers
from shardscan.reduce.products import CompositeSteps, MatrixSteps, steps_of
from shardscan.reduce.result import Inconsistent, Outcome, Result
from shardscan.shards.ahead import Ahead

__all__ = ["Done", "limit_blas", "run_blocks", "run_composites", "run_matrices"]

Keep = Callable[[Task, Sequence[Result]], None]
KeepComposites = Callable[[CompositeTask, Result], None]


def run_blocks(
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
        steps = Steps(partial(reduce_block, device=device, ahead=ahead), Partial(), merge_products, finish_tensor)
        graph = fold_blocks(tasks, keep, in_flight(workers), steps)
        return on_workers(graph, tasks, workers, Progress(sizes, progress))


def run_composites(
    tasks: tuple[CompositeTask, ...],
    keep: KeepComposites,
    *,
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> list[Done]:
    """Reduce the composites of every task, each by one worker, and `keep` them; as `run_blocks` otherwise."""
    graph: dict[Any, Any] = {}
    for task in tasks:
        graph["composites", task.name] = (reduce_composite, task)
        graph["keep", task.name] = (keep_results, keep, task, ("composites", task.name))
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
    """Solve the whole matrices of every task, each with `blas_threads`, and `keep` them; as `run_blocks` otherwise."""
    graph: dict[Any, Any] = {}
    sizes: dict[Any, int] = {}
    for task in tasks:
        for index, unit in enumerate(task.units):
            solved = []
            for product in of_matrices(task.products):
                for number, matrix in enumerate(unit.matrices):
                    if product.wants(unit.placed, matrix):
                        key = ("matrix", task.name, index, product.name, number)
                        graph[key] = (solve_matrix, unit, number, product.name, solver)
                        sizes[key] = unit.nbytes // len(unit.numbers)
                        solved.append(key)
            graph["unit", task.name, index] = (join_matrices, unit, solved)
        graph["keep", task.name] = (keep_results, keep, task, [("unit", task.name, i) for i in range(len(task.units))])
    return on_workers(graph, tasks, workers, Progress(sizes, progress), blas_threads)


@dataclass(frozen=True, slots=True)
class Solved:
    """What one product makes of one matrix of a unit, or why nothing."""

    product: str
    number: int
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    failure: str | None = None


def solve_matrix(unit: Unit, number: int, product: str, solver: Solver) -> Solved:
    """One product of one whole matrix, by its number in the unit."""
    try:
        arrays = steps_of(product, MatrixSteps).solve(unit.placed, unit.matrices[number], solver)
        return Solved(product, number, arrays)
    except (CheckpointError, np.linalg.LinAlgError) as error:  # one bad tensor costs only itself
        return Solved(product, number, failure=str(error))


def join_matrices(unit: Unit, solved: Sequence[Solved]) -> Result:
    """The results of all matrices of a unit as one; a failure of one is the tensor's."""
    if failure := next((matrix.failure for matrix in solved if matrix.failure), None):
        return Result(failure=failure)
    arrays = {(matrix.product, matrix.number): matrix.arrays for matrix in solved}
    return Result({
        product: Outcome(of_matrices=tuple(arrays.get((product, n), {}) for n in range(len(unit.matrices))))
        for product in dict.fromkeys(matrix.product for matrix in solved)
    })  # fmt: skip


def reduce_composite(task: CompositeTask) -> Result:
    """The one product of a composite."""
    try:
        arrays = steps_of(task.product, CompositeSteps).reduce(task.composite)
    except (CheckpointError, np.linalg.LinAlgError, Inconsistent) as error:  # one bad tensor costs only its composites
        return Result(failure=str(error))
    return Result({task.product: Outcome(arrays)})
