"""PLAN: checkpoint + anatomy + options → tasks, the blocks they read, and what they leave. Pure: nothing is read."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Anatomy, Placed
from shardscan.plan.blocks import blocks
from shardscan.plan.stacks import groups
from shardscan.plan.tasks import (
    CIRCUITS,
    DELTAS,
    FULL,
    HEADS,
    PRODUCT_OF,
    STATS,
    CompositeTask,
    Group,
    Slot,
    Task,
    Unit,
    composite_task_names,
    has_full,
    runs,
    task_name,
)

SPECTRA = {
    "none": frozenset({STATS}),
    "heads": frozenset({STATS, HEADS, DELTAS}),
    "full": frozenset({STATS, FULL, DELTAS}),
    "circuits": frozenset({STATS, CIRCUITS}),
}

LARGE_ORDER = 2048  # of the shorter side: more is too large to have one in every worker

CHANNELS = ("all", "dense", "none")  # which become rows of the catalog; dense: those of no expert
MOST_CHANNELS = 20_000_000  # rows that the catalog takes unasked

# Bytes on disk, of arrays and catalog: together within a tenth of what SmolLM2, the demo and an 8B left.
EMPTY_STORE = 5_000_000
TYPICAL_BINS = 2048
STORED_CHANNEL, CHANNEL_ROW, STORED_BIN, STORED_SIGMA = 85, 60, 30, 24


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a run will do, with bytes read and left, and the channels that there are, `dense` of no expert.

    `store_bytes` are without the rows of channels: see `catalog_rows`.

    `tasks` in one pass, then `composites` and `matrices`, as many at once as there are workers, then `large_matrices`
    one after the other.
    """

    groups: tuple[Group, ...]
    tasks: tuple[Task, ...]
    composites: tuple[CompositeTask, ...]
    matrices: tuple[Task, ...]
    large_matrices: tuple[Task, ...]
    bytes_to_read: int
    store_bytes: int
    channels: int
    dense_channels: int


def plan(anatomy: Anatomy, products: frozenset[str], done: Set[tuple[str, str]] = frozenset()) -> Plan:
    """The tasks for `products`, less the (task, product) pairs in `done`."""
    stacked = groups(anatomy)
    tasks = tuple(task for group in stacked for task in _tasks(group, products & {STATS, HEADS}, done))
    of_composites = tuple(task for group in stacked for task in _composite_tasks(group, products, done))
    matrices = tuple(task for group in stacked for task in _tasks(group, products & {FULL}, done))
    every = [matrix for p in anatomy.placed for matrix in p.matrices]
    sigmas = sum(c.heads * c.rank for group in stacked for c in group.composites if PRODUCT_OF[c.kind] in products)
    return Plan(
        groups=stacked,
        tasks=tasks,
        composites=of_composites,
        matrices=tuple(task for task in matrices if not _is_large(task)),
        large_matrices=tuple(filter(_is_large, matrices)),
        bytes_to_read=sum(task.nbytes for task in (*tasks, *matrices)) + sum(t.nbytes for t in of_composites),
        store_bytes=EMPTY_STORE + sum(_store_bytes(p, products) for p in anatomy.placed) + STORED_SIGMA * sigmas,
        channels=sum(map(channels, every)),
        dense_channels=sum(channels(matrix) for matrix in every if matrix.expert is None),
    )


def kept_channels(choice: str | None, total: int) -> str:
    """Which of so many channels become rows of the catalog: what was chosen, else all unless they are too many."""
    return choice or ("all" if total <= MOST_CHANNELS else "dense")


def catalog_rows(plan: Plan, channels: str) -> int:
    """How many channels become rows of the catalog."""
    return {"all": plan.channels, "dense": plan.dense_channels, "none": 0}[channels]


def channels(matrix: Matrix) -> int:
    """Rows and columns that have statistics."""
    return matrix.rows + (matrix.cols if matrix.has_columns else 0)


def _is_large(task: Task) -> bool:
    return any(min(matrix.rows, matrix.cols) > LARGE_ORDER for unit in task.units for matrix in unit.matrices)


def _tasks(group: Group, products: frozenset[str], done: Set[tuple[str, str]]) -> Iterator[Task]:
    members: dict[str, list[tuple[Placed, Slot, range]]] = {}
    for p, first in group.members:
        for slot, numbers in runs(p, first):
            members.setdefault(task_name(group.folder, p.place.layer, slot), []).append((p, slot, numbers))
    for name, found in members.items():
        possible = products & _products([p for p, _, _ in found])
        missing = frozenset(product for product in possible if (name, product) not in done)
        if missing:
            wanted = (run for run in found if missing != {FULL} or any(has_full(run[0], m) for m in _typical(run[0])))
            units = (Unit(p, slot, numbers, tuple(blocks(p, numbers, missing))) for p, slot, numbers in wanted)
            yield Task(name, group.folder, missing, tuple(units))


def _composite_tasks(group: Group, products: frozenset[str], done: Set[tuple[str, str]]) -> Iterator[CompositeTask]:
    names = composite_task_names(group.folder, [composite.layer for composite in group.composites])
    for index, (composite, name) in enumerate(zip(group.composites, names, strict=True)):
        product = PRODUCT_OF[composite.kind]
        if product in products and (name, product) not in done:
            yield CompositeTask(name, group.folder, composite, (index, 0))


def _products(members: list[Placed]) -> frozenset[str]:
    every = [(p, matrix) for p in members for matrix in _typical(p)]
    has_heads = any(matrix.heads for _, matrix in every)
    return frozenset({STATS, *[HEADS] * has_heads, *[FULL] * any(has_full(p, matrix) for p, matrix in every)})


def _typical(p: Placed) -> tuple[Matrix, ...]:
    """The matrices of a tensor, of a stack one: its experts are alike."""
    return p.matrices[:1] if p.is_stack else p.matrices


def _store_bytes(p: Placed, products: frozenset[str]) -> int:
    """Arrays and catalog rows of one tensor."""
    divided = [(m, m.heads) for m in p.matrices if m.heads] if HEADS in products else []
    sigmas = sum(heads.count * heads.rank(m.rows, m.cols) for m, heads in divided)
    if FULL in products:
        sigmas += sum(min(matrix.rows, matrix.cols) for matrix in p.matrices if has_full(p, matrix))
    bins = min(p.tensor.parameters, TYPICAL_BINS)
    return STORED_CHANNEL * sum(map(channels, p.matrices)) + STORED_BIN * bins + STORED_SIGMA * sigmas
