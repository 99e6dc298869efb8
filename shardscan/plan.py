"""PLAN: checkpoint + anatomy + options → tasks, the blocks they read, and what they leave. Pure: nothing is read.

A task is one role of one layer, or a run of its experts, or one kind of circuit or one LoRA delta of a layer: the unit
of commit. The blocks of a tensor are runs of whole rows whose grid depends on it alone, never on workers or memory, so
that any machine adds in the same order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import xxhash

from shardscan.anatomy import OTHER, Anatomy, Placed
from shardscan.composites import CIRCUIT, DELTA, Composite, composites
from shardscan.dtypes import DTYPES
from shardscan.matrices import Matrix
from shardscan.shards.address import Window

STATS, HEADS, FULL, CIRCUITS, DELTAS = "stats/1", "heads/1", "full/1", "circuits/1", "deltas/1"
PRODUCT_OF = {CIRCUIT: CIRCUITS, DELTA: DELTAS}
SPECTRA = {
    "none": frozenset({STATS}),
    "heads": frozenset({STATS, HEADS, DELTAS}),
    "full": frozenset({STATS, FULL, DELTAS}),
    "circuits": frozenset({STATS, CIRCUITS}),
}

BLOCK_BYTES = 16 << 20
PANEL_BYTES = 32 << 20  # of the float64 copy of a piece of a matrix
LARGE_ORDER = 2048  # of the shorter side: more is too large to have one in every worker
EXPERTS_PER_TASK = 8  # one file of each array; results wait in memory until their task is written
ROW_MULTIPLE = 8  # rows of sub-byte dtypes begin on a byte

CHANNELS = ("all", "dense", "none")  # which become rows of the catalog; dense: those of no expert
MOST_CHANNELS = 20_000_000  # rows that the catalog takes unasked

# Bytes on disk, of arrays and catalog: together within a tenth of what SmolLM2, the demo and an 8B left.
EMPTY_STORE = 5_000_000
TYPICAL_BINS = 2048
STORED_CHANNEL, CHANNEL_ROW, STORED_BIN, STORED_SIGMA = 85, 60, 30, 24


Slot = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a block holds of one matrix, `index` in its tensor: `count` of its stored rows, from the `first` on.

    All of a block whose tensor has no matrices; `first` counts its rows then. `statistics` and `heads` say what is
    wanted.
    """

    index: int
    matrix: Matrix | None
    first: int
    count: int
    statistics: bool
    heads: bool

    @property
    def columns(self) -> bool:
        """Whether stored columns have statistics."""
        return self.matrix is not None and self.matrix.has_columns

    @property
    def divided(self) -> tuple[str, int] | None:
        """The stored axis and length of the heads whose Gram matrices are wanted."""
        if not self.heads or self.matrix is None or not self.matrix.heads:
            return None
        return self.matrix.stored_axis or "out", self.matrix.heads.dim


@dataclass(frozen=True, slots=True)
class Block:
    """A run of whole stored rows of one tensor, seen as (rows, cols), and the matrices that they belong to."""

    window: Window
    rows: int
    cols: int
    first_row: int
    statistics: bool
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """One tensor of a task, or a run of the experts in a stack: its slot, the numbers of its matrices, its blocks."""

    placed: Placed
    slot: Slot
    numbers: range
    blocks: tuple[Block, ...]

    @property
    def nbytes(self) -> int:
        return sum(block.window.nbytes for block in self.blocks)

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Its matrices, in the order of `numbers`."""
        return self.placed.matrices[self.numbers.start : self.numbers.stop]

    def slot_of(self, matrix: Matrix) -> Slot:
        """Where one of its matrices is stacked."""
        first = self.matrices[0].expert
        beside = matrix.expert - first if matrix.expert is not None and first is not None else 0
        return self.slot[0], self.slot[1] + beside


@dataclass(frozen=True, slots=True)
class Group:
    """One folder of the scan: all tensors of one component and role, stacked over `layers` and `experts`.

    `experts` has one entry where there are none; for `other` it numbers the tensors that share a layer and a pattern.
    Experts that are one tensor have the slot of the first. A folder of composites has no tensors; they are in the order
    of its layers, and their kind is its role.
    """

    component: str
    role: str
    folder: str
    layers: tuple[int | None, ...]
    experts: tuple[int | None, ...]
    members: tuple[tuple[Placed, Slot], ...]
    composites: tuple[Composite, ...] = ()

    @property
    def stacks(self) -> Mapping[str, list[tuple[Placed, Matrix, Slot]]]:
        """Its matrices by the folder they are stacked in: the group's own, or one for each part of fused tensors."""
        found: dict[str, list[tuple[Placed, Matrix, Slot]]] = {}
        for p, (layer, expert) in self.members:
            for matrix in p.matrices:
                slot = layer, matrix.expert if p.is_stack and matrix.expert is not None else expert
                found.setdefault(stack_folder(self.folder, self.role, matrix.role), []).append((p, matrix, slot))
        return found


@dataclass(frozen=True, slots=True)
class Task:
    """One layer of one group, or a run of its experts: what is read, reduced and committed together."""

    name: str
    folder: str
    products: frozenset[str]
    units: tuple[Unit, ...]

    @property
    def nbytes(self) -> int:
        return sum(unit.nbytes for unit in self.units)


@dataclass(frozen=True, slots=True)
class CompositeTask:
    """One kind of circuit or one delta of one layer, read, reduced and committed together, and its slot."""

    name: str
    folder: str
    composite: Composite
    slot: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.composite.nbytes


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
    groups = (*_groups(anatomy), *_composite_groups(anatomy))
    tasks = tuple(task for group in groups for task in _tasks(group, products & {STATS, HEADS}, done))
    of_composites = tuple(task for group in groups for task in _composite_tasks(group, products, done))
    matrices = tuple(task for group in groups for task in _tasks(group, products & {FULL}, done))
    every = [matrix for p in anatomy.placed for matrix in p.matrices]
    sigmas = sum(c.heads * c.rank for group in groups for c in group.composites if PRODUCT_OF[c.kind] in products)
    return Plan(
        groups=groups,
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


def channels(matrix: Matrix) -> int:
    """Rows and columns that have statistics."""
    return matrix.rows + (matrix.cols if matrix.has_columns else 0)


def catalog_rows(plan: Plan, channels: str) -> int:
    """How many channels become rows of the catalog."""
    return {"all": plan.channels, "dense": plan.dense_channels, "none": 0}[channels]


def _is_large(task: Task) -> bool:
    return any(min(matrix.rows, matrix.cols) > LARGE_ORDER for unit in task.units for matrix in unit.matrices)


def in_flight(workers: int) -> int:
    """Blocks that are being reduced or wait to be merged: one to begin as soon as another ends."""
    return workers + 1


def _groups(anatomy: Anatomy) -> Iterator[Group]:
    by_folder: dict[tuple[str, str, str], list[Placed]] = {}
    for p in anatomy.placed:
        by_folder.setdefault((p.place.component, p.place.role, _folder(p)), []).append(p)
    for (component, role, folder), members in by_folder.items():
        layers = sorted({p.place.layer for p in members}, key=lambda n: -1 if n is None else n)
        experts: list[int | None]
        if role == OTHER:
            ordinals = _ordinals(members)
            experts = list(range(1 + max(ordinals.values())))
            slots = [(layers.index(p.place.layer), ordinals[p.tensor.name]) for p in members]
        else:
            experts = _experts(members)
            first = {number: i for i, number in enumerate(experts)}
            at = {number: i for i, number in enumerate(layers)}
            slots = [(at[p.place.layer], 0 if p.is_stack else first[p.place.expert]) for p in members]
        yield Group(component, role, folder, tuple(layers), tuple(experts), tuple(zip(members, slots, strict=True)))


def _experts(members: Sequence[Placed]) -> list[int | None]:
    """The numbers along the axis of experts: in a stack all there are, so that a slot is a number."""
    stacked = [matrix.expert for p in members if p.is_stack for matrix in p.matrices[-1:]]
    if stacked:
        return list(range(1 + max(number or 0 for number in stacked)))
    return sorted({p.place.expert for p in members}, key=lambda n: -1 if n is None else n)


def _composite_groups(anatomy: Anatomy) -> Iterator[Group]:
    by_folder: dict[str, list[Composite]] = {}
    for composite in composites(anatomy):
        by_folder.setdefault(_folder_of_composite(composite), []).append(composite)
    for folder, found in by_folder.items():
        ordered = sorted(found, key=lambda c: -1 if c.layer is None else c.layer)
        layers = tuple(c.layer for c in ordered)
        yield Group(ordered[0].component, ordered[0].role, folder, layers, (None,), (), tuple(ordered))


def _folder_of_composite(composite: Composite) -> str:
    """One composite of a layer to a folder."""
    where = f"{composite.component}/{composite.role}"
    if composite.kind == CIRCUIT:
        return where
    is_plain = composite.role != OTHER and composite.expert is None and composite.id.count(".") == 2
    return f"{where}.{DELTA}" + ("" if is_plain else f".{_hashed(composite.id)}")


def _folder(p: Placed) -> str:
    """Names are data and never become paths: a role is checked when its family loads, a pattern is hashed."""
    if p.place.role != OTHER:
        # dense layers and those with experts may share a role, and differ in width
        kind = ".stack" if p.is_stack else ".experts" if p.place.expert is not None else ""
        return f"{p.place.component}/{p.place.role}{kind}"
    # one shape to a stack, or a single tall tensor would pad all the others
    pattern = re.sub(r"\d+", "*", p.canonical_name) + f" {p.place.part} {list(p.tensor.shape)}"
    return f"{p.place.component}/{OTHER}/{_hashed(pattern)}"


def _hashed(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode("utf-8", "surrogatepass"))


def _ordinals(members: list[Placed]) -> dict[str, int]:
    """Tensors of one pattern and one layer, numbered in header order."""
    seen: dict[int | None, int] = {}
    ordinals = {}
    for p in members:
        ordinals[p.tensor.name] = seen.get(p.place.layer, 0)
        seen[p.place.layer] = ordinals[p.tensor.name] + 1
    return ordinals


def _tasks(group: Group, products: frozenset[str], done: Set[tuple[str, str]]) -> Iterator[Task]:
    members: dict[str, list[tuple[Placed, Slot, range]]] = {}
    for p, first in group.members:
        for slot, numbers in runs(p, first):
            members.setdefault(task_name(group.folder, p.place.layer, slot), []).append((p, slot, numbers))
    for name, found in members.items():
        possible = products & _products([p for p, _, _ in found])
        missing = frozenset(product for product in possible if (name, product) not in done)
        if missing:
            wanted = (run for run in found if missing != {FULL} or any(has_full(run[0], m) for m in run[0].matrices))
            units = (Unit(p, slot, numbers, tuple(_blocks(p, numbers, missing))) for p, slot, numbers in wanted)
            yield Task(name, group.folder, missing, tuple(units))


def runs(p: Placed, slot: Slot) -> Iterator[tuple[Slot, range]]:
    """The slots at which tasks take up a tensor, each with its matrices by number: several of a stack of experts."""
    if not p.is_stack:
        yield slot, range(len(p.matrices))
        return
    each = 1 + max(i for i, matrix in enumerate(p.matrices) if matrix.expert == 0)
    for first in range(0, len(p.matrices) // each, EXPERTS_PER_TASK):
        last = min(first + EXPERTS_PER_TASK, len(p.matrices) // each)
        yield (slot[0], first), range(first * each, last * each)


def _composite_tasks(group: Group, products: frozenset[str], done: Set[tuple[str, str]]) -> Iterator[CompositeTask]:
    for index, composite in enumerate(group.composites):
        name, product = task_name(group.folder, composite.layer, (index, 0)), PRODUCT_OF[composite.kind]
        if product in products and (name, product) not in done:
            yield CompositeTask(name, group.folder, composite, (index, 0))


def task_name(folder: str, layer: int | None, slot: tuple[int, int]) -> str:
    """One layer of a group's folder, as commits name it; a run of its experts where there are many."""
    run = slot[1] // EXPERTS_PER_TASK
    return f"{folder.replace('/', '.')}.{'-' if layer is None else layer}" + (f".{run}" if run else "")


def stack_folder(folder: str, role: str, matrix_role: str) -> str:
    """Where the matrices of a group's tensors are stacked; no role has a dot."""
    return folder if matrix_role == role else f"{folder}.{matrix_role}"


def _products(members: list[Placed]) -> frozenset[str]:
    every = [(p, matrix) for p in members for matrix in p.matrices]
    has_heads = any(matrix.heads for _, matrix in every)
    return frozenset({STATS, *[HEADS] * has_heads, *[FULL] * any(has_full(p, matrix) for p, matrix in every)})


def has_full(p: Placed, matrix: Matrix) -> bool:
    """Whether a matrix has singular values."""
    return matrix.has_columns and DTYPES[p.tensor.dtype].kind == "float"


def _blocks(p: Placed, numbers: range, products: frozenset[str]) -> Iterator[Block]:
    """About 16 MiB of whole rows each, whole heads where heads are rows; a 1-D tensor is cut into runs of values.

    The grid is one for all products: it is in the tensor's digest, and sums are added along it.
    """
    statistics = STATS in products and not p.codes
    heads = HEADS in products and any(matrix.heads for matrix in p.matrices)
    if not statistics and not heads and FULL not in products:
        return
    tensor = p.tensor
    if tensor.parameters == 0:
        yield Block(tensor.window(0, 0), 1, 0, 0, statistics, (Piece(0, None, 0, 0, statistics, False),))
        return
    flat = len(tensor.shape) < 2
    first, last, cols = _extent(p, numbers)
    align = math.lcm(ROW_MULTIPLE, _whole_heads(p))
    step = max(1, BLOCK_BYTES * 8 // max(1, cols * DTYPES[tensor.dtype].bits) // align) * align
    for start in range(first, last, step):
        stop = min(start + step, last)
        window = tensor.rows(start, stop, cols) if tensor.shape else tensor.window()
        pieces = tuple(_pieces(p, numbers, start, stop, statistics, heads))
        if not pieces:
            pieces = (Piece(0, None, start, 1 if flat else stop - start, statistics, False),)
        yield Block(window, 1 if flat else stop - start, stop - start if flat else cols, start, statistics, pieces)


def _extent(p: Placed, numbers: range) -> tuple[int, int, int]:
    """The first and last of the stored rows that matrices are in, and how many columns there are; 1 of a vector."""
    if len(p.tensor.shape) < 2:
        return 0, max(1, p.tensor.parameters), 1
    rows, cols = p.stored_shape
    if not p.is_stack:
        return 0, rows, cols
    each = rows // (1 + (p.matrices[-1].expert or 0))
    first, last = (p.matrices[n].expert or 0 for n in (numbers[0], numbers[-1]))
    return first * each, (last + 1) * each, cols


def _whole_heads(p: Placed) -> int:
    """Stored rows that a block holds a multiple of, so that no head is in two."""
    divided = [matrix for matrix in p.matrices if matrix.heads and matrix.stored_axis == "out"]
    unit = math.lcm(*(matrix.heads.dim for matrix in divided if matrix.heads))
    edges = [n for m in divided for n in (m.stored_rows.start, m.stored_rows.length, m.stored_rows.stride)]
    return unit if all(n % unit == 0 for n in edges) else math.lcm(*(m.stored_rows.stride for m in divided))


def _pieces(p: Placed, numbers: range, start: int, stop: int, statistics: bool, heads: bool) -> Iterator[Piece]:
    """What is in the stored rows from `start` to `stop`, matrix by matrix."""
    for number in numbers:
        matrix = p.matrices[number]
        first, last = matrix.stored_rows.below(start), matrix.stored_rows.below(stop)
        if last > first:
            yield Piece(number, matrix, first, last - first, statistics, heads and matrix.heads is not None)


def _store_bytes(p: Placed, products: frozenset[str]) -> int:
    """Arrays and catalog rows of one tensor."""
    divided = [(m, m.heads) for m in p.matrices if m.heads] if HEADS in products else []
    sigmas = sum(heads.count * heads.rank(m.rows, m.cols) for m, heads in divided)
    if FULL in products:
        sigmas += sum(min(matrix.rows, matrix.cols) for matrix in p.matrices if has_full(p, matrix))
    bins = min(p.tensor.parameters, TYPICAL_BINS)
    return STORED_CHANNEL * sum(map(channels, p.matrices)) + STORED_BIN * bins + STORED_SIGMA * sigmas
