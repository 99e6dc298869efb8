"""REDUCE, its seam: the steps by which a product makes named arrays of blocks, of whole matrices or of composites.

A file of this room holds one product's steps, and `plan.products` names it. The steps are plain functions of picklable
values, so that any thread, process or cluster node can run them; the arrays are stacked by the store as is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pkgutil import resolve_name
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from shardscan.anatomy.composites import Composite
from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.plan import products
from shardscan.plan.tasks import EXPERTS_PER_TASK, Piece, Unit
from shardscan.reduce.devices import Device, DeviceBlock, Solver
from shardscan.reduce.result import Outcome

Stack = tuple[int, int]  # layers and experts that are stacked
Weights = Sequence[tuple[Placed, Matrix]]
StoredArray = Callable[[int, str], np.ndarray]


@dataclass(frozen=True, slots=True)
class StackedArray:
    """One array as it is stacked: a file for each layer and, where `stacked` is 2, run of experts; `sharded` by heads.

    `dims` are the names of its axes, `shape` their lengths; the axes behind the stacked ones are those of the values
    that a product leaves, as long as the longest of them.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    stacked: int
    sharded: bool = False

    @property
    def file(self) -> tuple[int, ...]:
        run = (min(EXPERTS_PER_TASK, self.shape[1]),) if self.stacked > 1 else ()
        return (1, *run, *(max(1, n) for n in self.shape[self.stacked :]))

    @property
    def chunk(self) -> tuple[int, ...]:
        return (1, 1, *self.file[2:]) if self.sharded else self.file


StackedArrays = Mapping[str, StackedArray]


class Mergeable(Protocol):
    """What a run of whole rows is reduced to."""

    def merge(self, other: Self) -> Self:
        """Join two runs: `other` comes after."""


class Reduced(NamedTuple):
    """What a product makes of one piece: of the tensor, merged over all pieces, and of the piece's matrix."""

    of_tensor: Mergeable | None
    of_matrix: Mergeable | None


def _no_arrays(*_: object) -> StackedArrays:
    return {}


def _unchecked(unit: Unit, outcome: Outcome, stored: StoredArray) -> Outcome:
    return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What all products say: the arrays that they leave, and what stands along axes of words.

    `tensor_arrays(stack)` are of each tensor, and stored as NAME_PART; `matrix_arrays(stack, weights)` of each matrix.
    `check(unit, outcome, stored)` holds an outcome against what `stored(i, name)` gives of the unit's i-th matrix, from
    this result or an earlier one; Inconsistent where the outcome is wrong.
    """

    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tensor_arrays: Callable[[Stack], StackedArrays] = _no_arrays
    matrix_arrays: Callable[[Stack, Weights], StackedArrays] = _no_arrays
    check: Callable[[Unit, Outcome, StoredArray], Outcome] = _unchecked


def _nothing_on_device(block: DeviceBlock, piece: Piece) -> None:
    return None


def _nothing_to_compile(values: np.ndarray, table: np.ndarray | None) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSteps(Steps):
    """A product of the pass over blocks.

    `on_device(block, piece)` runs where the block is; what it gives goes to `reduce(made, piece, values, table,
    device)`, which runs on the processor. `values` (rows, cols) and `table` are as kernels take them. `finish(unit,
    of_tensor, of_matrices)` makes the outcome of what all blocks merged to, of matrices by their number. `compile`
    makes kernels ready: beside blocks that would take memory that no plan has.
    """

    on_device: Callable[[DeviceBlock, Piece], Any] = _nothing_on_device
    reduce: Callable[[Any, Piece, np.ndarray, np.ndarray | None, Device], Reduced]
    finish: Callable[[Unit, Any, Mapping[int, Any]], Outcome]
    compile: Callable[[np.ndarray, np.ndarray | None], None] = _nothing_to_compile


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixSteps(Steps):
    """A product of whole matrices; CheckpointError and LinAlgError of `solve` cost only that tensor."""

    solve: Callable[[Placed, Matrix, Solver], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeSteps(Steps):
    """A product of composites; CheckpointError, LinAlgError and Inconsistent of `reduce` cost only that composite."""

    composite_arrays: Callable[[Stack, Sequence[Composite]], StackedArrays]
    reduce: Callable[[Composite], Mapping[str, np.ndarray]]


AnySteps = TypeVar("AnySteps", bound=Steps)


def steps_of(name: str, kind: type[AnySteps]) -> AnySteps:
    """The steps of a product; TypeError where they are not of this kind."""
    product = products.named(name)
    if product is None:
        raise LookupError(f"there is no product {name}")
    steps = _resolved(product.steps)
    if not isinstance(steps, kind):
        raise TypeError(f"{product.steps} are no {kind.__name__}")
    return steps


@cache
def _resolved(place: str) -> Any:
    return resolve_name(place)
