"""REDUCE, its graphs: steps over blocks as one dask graph, and whoever carries it out.

A unit is a left fold over its blocks, so its sums are added in one order on any number of workers. The last step of a
task keeps its results from within the worker, so what returns to the caller is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import dask.base
import dask.config
import dask.threaded
import numpy as np  # noqa: F401 - brings the BLAS that is limited: in a new process one that came later would not be
from dask.callbacks import Callback
from threadpoolctl import threadpool_limits


class Blocks(Protocol):
    """What is read and folded together."""

    @property
    def blocks(self) -> Sequence[Any]: ...


class Named(Protocol):
    """What is kept together, under its name."""

    @property
    def name(self) -> str: ...

    @property
    def nbytes(self) -> int: ...


class Folded(Named, Protocol):
    """The same, of several units."""

    @property
    def units(self) -> Sequence[Blocks]: ...


@dataclass(frozen=True, slots=True)
class Done:
    """A task that was kept, and the bytes that it read."""

    task: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Steps:
    """How blocks are reduced: each to a partial, which `merge` folds from `empty` on and `finish` makes a result."""

    reduce: Callable[[Any], Any]
    empty: object
    merge: Callable[[Any, Any], Any]
    finish: Callable[[Any, Any], Any]


def on_workers(
    graph: Mapping[Any, Any], tasks: Sequence[Named], workers: int, progress: Progress, blas_threads: int = 1
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
        return list(scheduler()(graph, keys, num_workers=workers, optimize_graph=False))


def in_threads() -> bool:
    """Whether blocks are reduced by threads of this process, which can share what is read ahead."""
    return scheduler() is dask.threaded.get


def scheduler() -> Callable[..., Any]:
    """Whatever the caller has set up through dask, else threads here."""
    return dask.base.get_scheduler() or dask.threaded.get


def limit_blas(threads: int) -> None:
    """Start a worker process as the run's own process is set."""
    threadpool_limits(limits=threads, user_api="blas")


def fold_blocks(tasks: Sequence[Folded], keep: Callable[..., None], most: int, steps: Steps) -> dict[Any, Any]:
    """Blocks in the order of the tasks, each behind the gate that the `most`-th before it opens once merged."""
    graph: dict[Any, Any] = {}
    merged: list[Any] = []  # for every block, the step after which its partial is no more
    for task in tasks:
        for index, unit in enumerate(task.units):
            folded: Any = steps.empty
            for i, block in enumerate(unit.blocks):
                n = len(merged)
                gate = ("gate", n)
                # after the gate before it, too: else one in `most` may fall behind and the others run ahead
                earlier = merged[n - most : n - most + 1] if n >= most else []
                graph[gate] = (_open, earlier + [("gate", n - 1)] * (n > 0))
                graph["block", task.name, index, i] = (_reduce, steps.reduce, block, gate)
                graph["merge", task.name, index, i] = (steps.merge, folded, ("block", task.name, index, i))
                folded = ("merge", task.name, index, i)
                merged.append(folded)
            graph["finish", task.name, index] = (steps.finish, unit, folded)
        graph["keep", task.name] = (
            keep_results,
            keep,
            task,
            [("finish", task.name, i) for i in range(len(task.units))],
        )
        if any(unit.blocks for unit in task.units):
            merged[-1] = ("keep", task.name)
    return graph


def _open(_: object) -> None:
    """A step that gives nothing but its end: what waits for it holds no memory of what it waited for."""


def _reduce(reduce: Callable[[Any], Any], block: Any, _: None) -> Any:
    """Reduce a block whose gate is open."""
    return reduce(block)


def keep_results(keep: Callable[..., None], task: Named, results: Any) -> Done:
    """The last step of a task."""
    keep(task, results)
    return Done(task.name, task.nbytes)


class Progress(Callback):
    """Reports the bytes of every finished step that reads some."""

    def __init__(self, sizes: Mapping[Any, int], report: Callable[[int], None] | None) -> None:
        super().__init__(posttask=self._posttask)
        self.sizes, self.report = sizes, report

    def _posttask(self, key: Any, *_: Any) -> None:
        if self.report and key in self.sizes:
            self.report(self.sizes[key])
