"""REDUCE, the run: a plan's tasks as one dask graph, on threads here or on whatever scheduler the caller has set up.

The graph of a tensor is a left fold over its blocks, so its sums are added in one order on any number of workers. The
last step of a task keeps its results from within the worker, so what returns to the caller is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.base
import dask.config
import dask.threaded
from dask.callbacks import Callback
from threadpoolctl import threadpool_limits

from shardscan.reduce.blocks import Partial, compile_kernels, finish, merge, reduce_block
from shardscan.reduce.composites import reduce_composite
from shardscan.reduce.devices import CPU, Device
from shardscan.reduce.matrices import join, reduce_matrix
from shardscan.reduce.result import Result, Solver
from shardscan.shards.ahead import Ahead
from shardscan.tasks import Block, CompositeTask, Task, has_full, in_flight

Keep = Callable[[Task, Sequence[Result]], None]
KeepComposites = Callable[[CompositeTask, Result], None]


@dataclass(frozen=True, slots=True)
class Done:
    """A task that was kept, and the bytes that it read."""

    task: str
    nbytes: int


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
    with Ahead(windows) if _scheduler() is dask.threaded.get else nullcontext() as ahead:
        graph = _graph(tasks, keep, in_flight(workers), device, ahead)
        return _on_workers(graph, tasks, workers, _Progress(sizes, progress))


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
        graph["keep", task.name] = (_keep, keep, task, ("composites", task.name))
    sizes = {("composites", task.name): task.nbytes for task in tasks}
    return _on_workers(graph, tasks, workers, _Progress(sizes, progress))


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
        graph["keep", task.name] = (_keep, keep, task, [("unit", task.name, i) for i in range(len(task.units))])
    return _on_workers(graph, tasks, workers, _Progress(sizes, progress), blas_threads)


def _on_workers(
    graph: Mapping[Any, Any],
    tasks: Sequence[Task] | Sequence[CompositeTask],
    workers: int,
    progress: _Progress,
    blas_threads: int = 1,
) -> list[Done]:
    """Carry out a graph with so many BLAS threads in every worker."""
    keys = [("keep", task.name) for task in tasks]
    # BLAS threads are the whole process's and change the bits: set once, before any worker starts
    with (
        threadpool_limits(limits=blas_threads, user_api="blas"),
        dask.config.set({"multiprocessing.initializer": partial(limit_blas, blas_threads)}),
        progress,
    ):
        # fused steps would lose the keys that progress goes by
        return list(_scheduler()(graph, keys, num_workers=workers, optimize_graph=False))


def _scheduler() -> Callable[..., Any]:
    """Whatever the caller has set up through dask, else threads here."""
    return dask.base.get_scheduler() or dask.threaded.get


def limit_blas(threads: int) -> None:
    """Start a worker process as the run's own process is set."""
    threadpool_limits(limits=threads, user_api="blas")


def _graph(tasks: tuple[Task, ...], keep: Keep, most: int, device: Device, ahead: Ahead | None) -> dict[Any, Any]:
    """Blocks in the order of the plan, each behind the gate that the `most`-th before it opens once merged."""
    graph: dict[Any, Any] = {}
    merged: list[Any] = []  # for every block, the step after which its partial is no more
    for task in tasks:
        for index, unit in enumerate(task.units):
            folded: Any = Partial()
            for i, block in enumerate(unit.blocks):
                n = len(merged)
                gate = ("gate", n)
                # after the gate before it, too: else one in `most` may fall behind and the others run ahead
                earlier = merged[n - most : n - most + 1] if n >= most else []
                graph[gate] = (_open, earlier + [("gate", n - 1)] * (n > 0))
                graph["block", task.name, index, i] = (_reduce, block, gate, device, ahead)
                graph["merge", task.name, index, i] = (merge, folded, ("block", task.name, index, i))
                folded = ("merge", task.name, index, i)
                merged.append(folded)
            graph["finish", task.name, index] = (finish, unit, folded)
        graph["keep", task.name] = (_keep, keep, task, [("finish", task.name, i) for i in range(len(task.units))])
        if any(unit.blocks for unit in task.units):
            merged[-1] = ("keep", task.name)
    return graph


def _open(_: object) -> None:
    """A step that gives nothing but its end: what waits for it holds no memory of what it waited for."""


def _reduce(block: Block, _: None, device: Device, ahead: Ahead | None) -> Partial:
    """Reduce a block whose gate is open."""
    return reduce_block(block, device, ahead)


def _keep(keep: Callable[..., None], task: Task | CompositeTask, results: Any) -> Done:
    keep(task, results)
    return Done(task.name, task.nbytes)


class _Progress(Callback):
    """Reports the bytes of every finished step that reads some."""

    def __init__(self, sizes: Mapping[Any, int], report: Callable[[int], None] | None) -> None:
        super().__init__(posttask=self._posttask)
        self.sizes, self.report = sizes, report

    def _posttask(self, key: Any, *_: Any) -> None:
        if self.report and key in self.sizes:
            self.report(self.sizes[key])
