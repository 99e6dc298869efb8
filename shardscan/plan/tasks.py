"""PLAN, its values: what is read, reduced and committed together, and under which names. Pure.

A task is one role of one layer, or a run of its experts, or one kind of circuit or one LoRA delta of a layer: the unit
of commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shardscan.anatomy.composites import Composite
from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.shards.address import Window

EXPERTS_PER_TASK = 8  # one file of each array; results wait in memory until their task is written
PANEL_BYTES = 32 << 20  # of the float64 copy of a piece of a matrix
ROW_MULTIPLE = 8  # rows of sub-byte dtypes begin on a byte

Slot = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a block holds of one matrix, `index` in its tensor: `count` of its stored rows, from the `first` on.

    All of a block whose tensor has no matrices; `first` counts its rows then. `products` are what is wanted of it.
    """

    index: int
    matrix: Matrix | None
    first: int
    count: int
    products: frozenset[str]

    @property
    def columns(self) -> bool:
        """Whether stored columns have statistics."""
        return self.matrix is not None and self.matrix.has_columns


@dataclass(frozen=True, slots=True)
class Block:
    """A run of whole stored rows of one tensor, seen as (rows, cols), and the matrices that they belong to.

    Its bytes are `hashed` where a product vouches for them.
    """

    window: Window
    rows: int
    cols: int
    first_row: int
    hashed: bool
    pieces: tuple[Piece, ...]

    @property
    def products(self) -> frozenset[str]:
        """What is wanted of any of its pieces."""
        return frozenset().union(*(piece.products for piece in self.pieces))


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
        return slot_of(self.placed, self.slot, matrix)


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
        matrices_of: dict[str, list[tuple[Placed, Matrix, Slot]]] = {}
        for p, slot in self.members:
            for matrix in p.matrices:
                where = stack_folder(self.folder, self.role, matrix.role)
                matrices_of.setdefault(where, []).append((p, matrix, slot_of(p, slot, matrix)))
        return matrices_of


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
    product: str
    composite: Composite
    slot: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.composite.nbytes


def runs(p: Placed, slot: Slot) -> Iterator[tuple[Slot, range]]:
    """The slots at which tasks take up a tensor, each with its matrices by number: several of a stack of experts."""
    if not p.is_stack:
        yield slot, range(len(p.matrices))
        return
    per_expert = 1 + max(i for i, matrix in enumerate(p.matrices) if matrix.expert == 0)
    for first in range(0, len(p.matrices) // per_expert, EXPERTS_PER_TASK):
        last = min(first + EXPERTS_PER_TASK, len(p.matrices) // per_expert)
        yield (slot[0], first), range(first * per_expert, last * per_expert)


def slot_of(p: Placed, slot: Slot, matrix: Matrix) -> Slot:
    """Where a matrix is stacked: at the slot of its tensor, of a stack at the number of its expert."""
    return (slot[0], matrix.expert) if p.is_stack and matrix.expert is not None else slot


def task_name(folder: str, layer: int | None, slot: tuple[int, int]) -> str:
    """One layer of a group's folder, as commits name it; a run of its experts where there are many."""
    run = slot[1] // EXPERTS_PER_TASK
    return f"{folder.replace('/', '.')}.{'-' if layer is None else layer}" + (f".{run}" if run else "")


def composite_task_names(folder: str, layers: Sequence[int | None]) -> list[str]:
    """The tasks of a folder's composites, as commits name them: the second of a layer has a number, and so on."""
    seen: Counter[int | None] = Counter()
    names = []
    for layer in layers:
        names.append(task_name(folder, layer, (0, 0)) + (f".{seen[layer]}" if seen[layer] else ""))
        seen[layer] += 1
    return names


def stack_folder(folder: str, role: str, matrix_role: str) -> str:
    """Where the matrices of a group's tensors are stacked; no role has a dot."""
    return folder if matrix_role == role else f"{folder}.{matrix_role}"


def in_flight(workers: int) -> int:
    """Blocks that are being reduced or wait to be merged: one to begin as soon as another ends."""
    return workers + 1
