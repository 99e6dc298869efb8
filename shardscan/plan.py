"""PLAN: checkpoint + anatomy + options → tasks, the blocks they read, and what they leave. Pure: nothing is read.

A task is one role of one layer, or a run of its experts, or one kind of circuit of a layer: the unit of commit. The
blocks of a tensor are runs of whole rows whose grid depends on it alone, never on workers or memory, so that any
machine adds in the same order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass

import xxhash

from shardscan.anatomy import OTHER, Anatomy, Heads, Placed
from shardscan.circuits import Circuit, circuits
from shardscan.dtypes import DTYPES
from shardscan.shards.address import Window

STATS, HEADS, FULL, CIRCUITS = "stats/1", "heads/1", "full/1", "circuits/1"
SPECTRA = {
    "none": frozenset({STATS}),
    "heads": frozenset({STATS, HEADS}),
    "full": frozenset({STATS, FULL}),
    "circuits": frozenset({STATS, CIRCUITS}),
}

BLOCK_BYTES = 16 << 20
PANEL_BYTES = 32 << 20  # of the float64 copy of a piece of a matrix
LARGE_ORDER = 2048  # of the shorter side: more is too large to have one in every worker
EXPERTS_PER_TASK = 32  # results wait in memory until their task is written
ROW_MULTIPLE = 8  # rows of sub-byte dtypes begin on a byte

# Bytes on disk, arrays and catalog together: within a tenth of what the same three left.
EMPTY_STORE = 5_000_000
TYPICAL_BINS = 2048
STORED_CHANNEL, STORED_BIN, STORED_SIGMA = 145, 30, 24


@dataclass(frozen=True, slots=True)
class Block:
    """A run of whole rows of one tensor, seen as (rows, cols), and what is wanted of it."""

    window: Window
    rows: int
    cols: int
    first_row: int
    statistics: bool
    columns: bool
    heads: Heads | None


@dataclass(frozen=True, slots=True)
class Unit:
    """One tensor of a task, its slot in the task's stacked arrays, and its blocks in order."""

    placed: Placed
    slot: tuple[int, int]
    blocks: tuple[Block, ...]

    @property
    def nbytes(self) -> int:
        return sum(block.window.nbytes for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Group:
    """One folder of the scan: all tensors of one component and role, stacked over `layers` and `experts`.

    `experts` has one entry where there are none; for `other` it numbers the tensors that share a layer and a pattern.
    A folder of circuits has no tensors; they are in the order of its layers, and their kind is its role.
    """

    component: str
    role: str
    folder: str
    layers: tuple[int | None, ...]
    experts: tuple[int | None, ...]
    members: tuple[tuple[Placed, tuple[int, int]], ...]
    circuits: tuple[Circuit, ...] = ()


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
class CircuitTask:
    """One kind of circuit of one layer, read, reduced and committed together, and its slot in the stacked arrays."""

    name: str
    folder: str
    circuit: Circuit
    slot: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.circuit.nbytes


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a run will do, with bytes read and left.

    `tasks` in one pass, then `circuits` and `matrices`, as many at once as there are workers, then `large_matrices` one
    after the other.
    """

    groups: tuple[Group, ...]
    tasks: tuple[Task, ...]
    circuits: tuple[CircuitTask, ...]
    matrices: tuple[Task, ...]
    large_matrices: tuple[Task, ...]
    bytes_to_read: int
    store_bytes: int


def plan(anatomy: Anatomy, products: frozenset[str], done: Set[tuple[str, str]] = frozenset()) -> Plan:
    """The tasks for `products`, less the (task, product) pairs in `done`."""
    groups = (*_groups(anatomy), *_circuit_groups(anatomy))
    tasks = tuple(task for group in groups for task in _tasks(group, products & {STATS, HEADS}, done))
    of_circuits = tuple(task for group in groups for task in _circuit_tasks(group, products, done))
    matrices = tuple(task for group in groups for task in _tasks(group, products & {FULL}, done))
    sigmas = sum(c.heads * c.rank for group in groups for c in group.circuits) if CIRCUITS in products else 0
    return Plan(
        groups=groups,
        tasks=tasks,
        circuits=of_circuits,
        matrices=tuple(task for task in matrices if not _is_large(task)),
        large_matrices=tuple(filter(_is_large, matrices)),
        bytes_to_read=sum(task.nbytes for task in (*tasks, *matrices)) + sum(t.nbytes for t in of_circuits),
        store_bytes=EMPTY_STORE + sum(_store_bytes(p, products) for p in anatomy.placed) + STORED_SIGMA * sigmas,
    )


def _is_large(task: Task) -> bool:
    sides = [(u.placed.matrix.rows, u.placed.matrix.cols) for u in task.units if u.placed.matrix]
    return any(min(both) > LARGE_ORDER for both in sides)


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
            experts = sorted({p.place.expert for p in members}, key=lambda n: -1 if n is None else n)
            slots = [(layers.index(p.place.layer), experts.index(p.place.expert)) for p in members]
        yield Group(component, role, folder, tuple(layers), tuple(experts), tuple(zip(members, slots, strict=True)))


def _circuit_groups(anatomy: Anatomy) -> Iterator[Group]:
    stacks: dict[tuple[str, str], list[Circuit]] = {}
    for circuit in circuits(anatomy):
        stacks.setdefault((circuit.component, circuit.kind), []).append(circuit)
    for (component, kind), found in stacks.items():
        ordered = sorted(found, key=lambda c: -1 if c.layer is None else c.layer)
        layers = tuple(c.layer for c in ordered)
        yield Group(component, kind, f"{component}/{kind}", layers, (None,), (), tuple(ordered))


def _folder(p: Placed) -> str:
    """Names are data and never become paths: a role is checked when its family loads, a pattern is hashed."""
    if p.place.role != OTHER:
        return f"{p.place.component}/{p.place.role}"
    # one shape to a stack, or a single tall tensor would pad all the others
    pattern = re.sub(r"\d+", "*", p.canonical_name) + f" {p.place.part} {list(p.tensor.shape)}"
    return f"{p.place.component}/{OTHER}/{xxhash.xxh3_64_hexdigest(pattern.encode('utf-8', 'surrogatepass'))}"


def _ordinals(members: list[Placed]) -> dict[str, int]:
    """Tensors of one pattern and one layer, numbered in header order."""
    seen: dict[int | None, int] = {}
    ordinals = {}
    for p in members:
        ordinals[p.tensor.name] = seen.get(p.place.layer, 0)
        seen[p.place.layer] = ordinals[p.tensor.name] + 1
    return ordinals


def _tasks(group: Group, products: frozenset[str], done: Set[tuple[str, str]]) -> Iterator[Task]:
    members: dict[str, list[tuple[Placed, tuple[int, int]]]] = {}
    for p, slot in group.members:
        members.setdefault(task_name(group.folder, p.place.layer, slot), []).append((p, slot))
    for name, found in members.items():
        possible = products & _products([p for p, _ in found])
        missing = frozenset(product for product in possible if (name, product) not in done)
        if missing:
            units = (Unit(p, slot, tuple(_blocks(p, missing))) for p, slot in found if missing != {FULL} or has_full(p))
            yield Task(name, group.folder, missing, tuple(units))


def _circuit_tasks(group: Group, products: frozenset[str], done: Set[tuple[str, str]]) -> Iterator[CircuitTask]:
    for index, circuit in enumerate(group.circuits):
        name = task_name(group.folder, circuit.layer, (index, 0))
        if CIRCUITS in products and (name, CIRCUITS) not in done:
            yield CircuitTask(name, group.folder, circuit, (index, 0))


def task_name(folder: str, layer: int | None, slot: tuple[int, int]) -> str:
    """One layer of a group's folder, as commits name it; a run of its experts where there are many."""
    run = slot[1] // EXPERTS_PER_TASK
    return f"{folder.replace('/', '.')}.{'-' if layer is None else layer}" + (f".{run}" if run else "")


def _products(members: list[Placed]) -> frozenset[str]:
    has_heads = any(p.matrix and p.matrix.heads for p in members)
    return frozenset({STATS, *[HEADS] * has_heads, *[FULL] * any(map(has_full, members))})


def has_full(p: Placed) -> bool:
    """Whether a tensor is a matrix with singular values."""
    is_whole = p.matrix is not None and p.matrix.kind == "whole" and p.tensor.parameters > 0
    return is_whole and not p.codes and DTYPES[p.tensor.dtype].kind == "float"


def _blocks(p: Placed, products: frozenset[str]) -> Iterator[Block]:
    """About 16 MiB of whole rows each, whole heads where heads are rows; a 1-D tensor is cut into runs of values.

    The grid is one for all products: it is in the tensor's digest, and sums are added along it.
    """
    divided = p.matrix.heads if p.matrix else None
    heads = divided if HEADS in products else None
    statistics = STATS in products and not p.codes
    if not statistics and not heads and FULL not in products:
        return
    tensor = p.tensor
    if tensor.parameters == 0:
        yield Block(tensor.window(0, 0), 1, 0, 0, statistics, False, None)
        return
    length = tensor.shape[0] if tensor.shape else 1
    cols = math.prod(tensor.shape[1:])
    flat = len(tensor.shape) < 2
    align = math.lcm(ROW_MULTIPLE, divided.dim if divided and divided.axis == "out" else 1)
    step = max(1, BLOCK_BYTES * 8 // max(1, cols * DTYPES[tensor.dtype].bits) // align) * align
    for start in range(0, length, step):
        stop = min(start + step, length)
        rows, columns = (1, stop - start) if flat else (stop - start, cols)
        both = bool(p.matrix and p.matrix.kind == "whole")
        yield Block(tensor.window(start, stop), rows, columns, start, statistics, both, heads)


def _store_bytes(p: Placed, products: frozenset[str]) -> int:
    """Arrays and catalog rows of one tensor."""
    heads = p.matrix.heads if p.matrix else None
    channels = p.matrix.rows + (p.matrix.cols if p.matrix.kind == "whole" else 0) if p.matrix else 0
    sigmas = heads.count * heads.dim if heads and HEADS in products else 0
    if p.matrix and FULL in products and has_full(p):
        sigmas += min(p.matrix.rows, p.matrix.cols)
    bins = min(p.tensor.parameters, TYPICAL_BINS)
    return STORED_CHANNEL * channels + STORED_BIN * bins + STORED_SIGMA * sigmas
