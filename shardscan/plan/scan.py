"""PLAN: checkpoint + anatomy + options → tasks, the blocks they read, and what they leave. Pure: nothing is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from shardscan.anatomy.places import Anatomy, Placed
from shardscan.plan.blocks import cut_blocks
from shardscan.plan.product_costs import count_channels
from shardscan.plan.products import BlockProduct, MatrixProduct, of_blocks, of_composites, of_matrices
from shardscan.plan.stacks import group_tensors
from shardscan.plan.tasks import (
    CompositeTask,
    Group,
    Slot,
    Task,
    Unit,
    composite_task_names,
    runs,
    task_name,
)

LARGE_ORDER = 2048  # of the shorter side: more is too large to have one in every worker

CHANNELS = ("all", "dense", "none")  # which become rows of the catalog; dense: those of no expert
MOST_CHANNELS = 20_000_000  # rows that the catalog takes unasked

EMPTY_STORE, CHANNEL_ROW = 5_000_000, 60  # bytes on disk: see `product_costs`


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


def plan_scan(anatomy: Anatomy, products: frozenset[str], done: Set[tuple[str, str]] = frozenset()) -> Plan:
    """The tasks for `products`, less the (task, product) pairs in `done`."""
    groups = group_tensors(anatomy)
    tasks = tuple(task for group in groups for task in _tasks(group, of_blocks(products), done))
    composites = tuple(task for group in groups for task in _composite_tasks(group, products, done))
    matrices = tuple(task for group in groups for task in _tasks(group, of_matrices(products), done))
    all_matrices = [matrix for p in anatomy.placed for matrix in p.matrices]
    return Plan(
        groups=groups,
        tasks=tasks,
        composites=composites,
        matrices=tuple(task for task in matrices if not _is_large(task)),
        large_matrices=tuple(filter(_is_large, matrices)),
        bytes_to_read=sum(task.nbytes for task in (*tasks, *matrices)) + sum(t.nbytes for t in composites),
        store_bytes=EMPTY_STORE + _store_bytes(groups, products),
        channels=sum(map(count_channels, all_matrices)),
        dense_channels=sum(count_channels(matrix) for matrix in all_matrices if matrix.expert is None),
    )


def kept_channels(choice: str | None, total: int) -> str:
    """Which of so many channels become rows of the catalog: what was chosen, else all unless they are too many."""
    return choice or ("all" if total <= MOST_CHANNELS else "dense")


def keeps_channels_of(choice: str, is_expert: bool) -> bool:
    """Whether the channels of a matrix, an expert's or not, become rows of the catalog."""
    return choice == "all" or (choice == "dense" and not is_expert)


def catalog_rows(plan: Plan, channels: str) -> int:
    """How many channels become rows of the catalog."""
    return {"all": plan.channels, "dense": plan.dense_channels, "none": 0}[channels]


def _is_large(task: Task) -> bool:
    return any(min(matrix.rows, matrix.cols) > LARGE_ORDER for unit in task.units for matrix in unit.matrices)


def _tasks(
    group: Group, wanted: Sequence[BlockProduct] | Sequence[MatrixProduct], done: Set[tuple[str, str]]
) -> Iterator[Task]:
    """The tasks of a group that products of one pass want and that are not done."""
    members: dict[str, list[tuple[Placed, Slot, range]]] = {}
    for p, first in group.members:
        for slot, numbers in runs(p, first):
            members.setdefault(task_name(group.folder, p.place.layer, slot), []).append((p, slot, numbers))
    for name, units in members.items():
        missing = frozenset(
            product.name
            for product in wanted
            if (name, product.name) not in done and any(_is_wanted(product, p) for p, _, _ in units)
        )
        if missing:
            # a commit of the pass over blocks speaks of all its tensors, one of whole matrices of those that have some
            own = units if of_blocks(missing) else [u for u in units if any(_is_wanted(w, u[0]) for w in wanted)]
            yield Task(
                name, group.folder, missing, tuple(Unit(p, at, n, tuple(cut_blocks(p, n, missing))) for p, at, n in own)
            )


def _is_wanted(product: BlockProduct | MatrixProduct, p: Placed) -> bool:
    """Whether a product wants anything of a tensor; the experts of a stack are alike."""
    typical = p.matrices[:1] if p.is_stack else p.matrices
    whole = isinstance(product, BlockProduct) and product.wants(p, None)
    return whole or any(product.wants(p, matrix) for matrix in typical)


def _composite_tasks(group: Group, products: frozenset[str], done: Set[tuple[str, str]]) -> Iterator[CompositeTask]:
    names = composite_task_names(group.folder, [composite.layer for composite in group.composites])
    for index, (composite, name) in enumerate(zip(group.composites, names, strict=True)):
        for product in of_composites(composite.kind):
            if product.name in products and (name, product.name) not in done:
                yield CompositeTask(name, group.folder, product.name, composite, (index, 0))


def _store_bytes(groups: Sequence[Group], products: frozenset[str]) -> int:
    """What products leave of all tensors and composites."""
    placed = [p for group in groups for p, _ in group.members]
    of_tensors: list[BlockProduct | MatrixProduct] = [*of_blocks(products), *of_matrices(products)]
    composites = [composite for group in groups for composite in group.composites]
    return sum(product.stored(p) for product in of_tensors for p in placed) + sum(
        product.stored(c) for c in composites for product in of_composites(c.kind) if product.name in products
    )
