"""CATALOG, its source: what a scan holds, tensor by tensor, and what of it is committed.

Only what is committed becomes numbers; a tensor of the headers is a member in any case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import xxhash

from shardscan.anatomy.matrices import FOLDED
from shardscan.plan import products
from shardscan.plan.products import BlockProduct
from shardscan.plan.scan import kept_channels
from shardscan.plan.tasks import (
    EXPERTS_PER_TASK,
    Slot,
    composite_task_names,
    stack_folder,
    task_name,
)
from shardscan.store import commits
from shardscan.store.arrays import read_stacked_array
from shardscan.store.commits import Commits, Scan
from shardscan.store.facts import read_groups, read_scan
from shardscan.store.records import (
    CODES,
    DEGENERATE,
    FAILED,
    OK,
    SCANNED,
    Run,
    StoredComposite,
    StoredGroup,
    StoredMatrix,
    StoredScan,
    StoredTensor,
    Verdict,
)

PENDING = "pending"  # what the catalog says of a tensor without a commit
REGION_BYTES = 8 << 20  # of a stacked array: what is read of it at a time
COMPOSITES_AT_ONCE = 16  # layers


@dataclass(frozen=True)
class Contents:
    """A scan, what it knows of its checkpoint, its commits by task and product, and which channels were asked for."""

    scan: Scan
    facts: StoredScan
    done: Commits
    channels: str | None

    @property
    def model(self) -> str:
        return self.facts.model

    @property
    def state(self) -> str:
        """A hash of every commit: what tables are made of, less what only runs know."""
        return commits.state_of(self.done)

    @property
    def runs(self) -> list[Run]:
        return commits.read_runs(self.scan)

    @property
    def identity(self) -> str:
        """A hash of headers, file sizes and the contents of every tensor committed."""
        verdicts = (item for commit in self.done.values() for item in commit.tensors.items())
        digests = sorted((name, verdict.digest) for name, verdict in verdicts if verdict.digest)
        return xxhash.xxh3_128_hexdigest(json.dumps([self.facts.probe, digests]).encode())

    @cached_property
    def kept(self) -> str:
        """Which channels become rows, by what was asked for or by their number."""
        matrices = (matrix.stored for stacked in self.stacks.values() for matrix in stacked)
        return kept_channels(self.channels, sum(map(channels_of, matrices)))

    @cached_property
    def groups(self) -> Mapping[str, StoredGroup]:
        """What lies in every folder, in the order of the headers."""
        return dict(read_groups(self.scan))

    @cached_property
    def members(self) -> Mapping[str, Sequence[Member]]:
        """Every tensor of the headers, by the folder of its group."""
        return {
            folder: [_member(tensor, folder, self.done) for tensor in group.tensors]
            for folder, group in self.groups.items()
            if group.tensors
        }

    @cached_property
    def stacks(self) -> Mapping[str, Sequence[StackedMatrix]]:
        """Every matrix, by the folder that it is stacked in."""
        stacked: dict[str, list[StackedMatrix]] = {}
        for folder, members in self.members.items():
            for member in members:
                for matrix in member.matrices:
                    where = stack_folder(folder, member.stored.place.role, matrix.stored.role)
                    stacked.setdefault(where, []).append(matrix)
        return stacked

    def array(self, region: Region[Any], name: str) -> np.ndarray:
        """A stacked array of a region."""
        return read_stacked_array(self.scan, region.folder, name, (region.layers, region.experts))

    def arrays_at(self, folder: str, name: str, slot: Slot) -> np.ndarray:
        """What lies in one slot of a stacked array."""
        layer, expert = slot
        values: np.ndarray = read_stacked_array(
            self.scan, folder, name, (slice(layer, layer + 1), slice(expert, expert + 1))
        )[0, 0]
        return values


@dataclass(frozen=True, slots=True)
class Member:
    """One tensor as the store holds it, and its verdict; a stack of experts has a slot for each task.

    `digest` is of a tensor that one commit speaks of.
    """

    stored: StoredTensor
    status: str
    reason: str | None
    digest: str | None
    matrices: tuple[StackedMatrix, ...]

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def scanned(self) -> bool:
        return self.status in SCANNED

    @property
    def slot(self) -> Slot:
        return self.stored.slots[0]


@dataclass(frozen=True, slots=True)
class StackedMatrix:
    """One matrix as the store holds it, and what the commits of its task say, by product."""

    tensor: str
    component: str
    layer: int | None
    stored: StoredMatrix
    verdicts: Mapping[str, Verdict]

    @property
    def slot(self) -> Slot:
        return self.stored.slot

    def has(self, product: str) -> bool:
        """Whether there are arrays of a product."""
        verdict = self.verdicts.get(product)
        return verdict is not None and verdict.status in SCANNED

    def failure(self, product: str) -> str | None:
        """Why there are none, if it failed."""
        verdict = self.verdicts.get(product)
        return verdict.reason if verdict and verdict.status == FAILED else None


class Stacked(Protocol):
    """What lies in a slot of stacked arrays."""

    @property
    def slot(self) -> Slot: ...


AnyStacked = TypeVar("AnyStacked", bound=Stacked)


@dataclass(frozen=True, slots=True)
class Region(Generic[AnyStacked]):
    """Neighbouring slots of one folder's stacks, and what is in them; `layers` and `experts` say where it lies."""

    folder: str
    layers: slice
    experts: slice
    members: tuple[AnyStacked, ...]

    def slot(self, member: AnyStacked) -> Slot:
        """A member's slot, counted from the region's corner."""
        return member.slot[0] - self.layers.start, member.slot[1] - self.experts.start


@dataclass(frozen=True, slots=True)
class Composites:
    """Composites of neighbouring layers of one folder, by their place in its stack: those that are committed.

    `failures` says why there are no values, by place.
    """

    folder: str
    component: str
    layers: slice
    stored: Mapping[int, StoredComposite]
    failures: Mapping[int, str]


def channels_of(matrix: StoredMatrix) -> int:
    """Its rows and columns that have statistics."""
    return matrix.rows + (matrix.cols if matrix.kind != FOLDED else 0)


def read_contents(scan: Scan) -> Contents:
    """Read what a scan's tables are made from, less the arrays."""
    return Contents(scan, read_scan(scan), commits.read_commits(scan), commits.read_channels(scan))


def list_composites(scanned: Contents, kind: str) -> Iterator[Composites]:
    """Every composite of one kind that is committed, a few layers at a time."""
    product = next(product.name for product in products.of_composites(kind))
    for folder, group in scanned.groups.items():
        names = composite_task_names(folder, [composite.layer for composite in group.composites])
        done = {
            i: scanned.done[name, product].tensors[composite.id]
            for i, (name, composite) in enumerate(zip(names, group.composites, strict=True))
            if composite.kind == kind and (name, product) in scanned.done
        }
        for first in range(0, len(group.composites), COMPOSITES_AT_ONCE):
            layers = slice(first, first + COMPOSITES_AT_ONCE)
            inside = {i: verdict for i, verdict in done.items() if layers.start <= i < layers.stop}
            if inside:
                failures = {i: str(v.reason) for i, v in inside.items() if v.status == FAILED}
                yield Composites(folder, group.component, layers, {i: group.composites[i] for i in inside}, failures)


def cut_regions(folder: str, stacked: Sequence[AnyStacked], width: int) -> Iterator[Region[AnyStacked]]:
    """A folder in pieces that are small in memory, however many layers and experts it has; files are not cut.

    `width` is how many values a slot of its largest array has.
    """
    layers, experts = (1 + max(member.slot[axis] for member in stacked) for axis in (0, 1))
    slots = max(1, REGION_BYTES // (8 * max(1, width)))
    wide = min(experts, -(-slots // EXPERTS_PER_TASK) * EXPERTS_PER_TASK)
    tall = max(1, slots // wide)
    inside: dict[Slot, list[AnyStacked]] = {}
    for member in stacked:
        inside.setdefault((member.slot[0] // tall, member.slot[1] // wide), []).append(member)
    for (down, across), members in sorted(inside.items()):
        top, left = down * tall, across * wide
        yield Region(
            folder, slice(top, min(top + tall, layers)), slice(left, min(left + wide, experts)), tuple(members)
        )


def _member(tensor: StoredTensor, folder: str, done: Commits) -> Member:
    def verdicts_at(slot: Slot) -> dict[str, Verdict]:
        task = task_name(folder, tensor.place.layer, slot)
        commits_of = {product.name: done.get((task, product.name)) for product in products.every()}
        return {
            name: commit.tensors[tensor.name]
            for name, commit in commits_of.items()
            if commit and tensor.name in commit.tensors
        }

    own = [_own_verdict(verdicts_at(slot)) for slot in tensor.slots]
    worst = max(own, key=lambda v: (OK, DEGENERATE, CODES, PENDING, FAILED).index(v.status))
    matrices = tuple(
        StackedMatrix(tensor.name, tensor.place.component, tensor.place.layer, matrix, verdicts_at(matrix.slot))
        for matrix in tensor.matrices
    )
    digest = own[0].digest if len(own) == 1 else None
    return Member(tensor, worst.status, worst.reason or tensor.reason, digest, matrices)


def _own_verdict(verdicts: Mapping[str, Verdict]) -> Verdict:
    """What the product that vouches for a tensor's contents says of it."""
    vouching = (p.name for p in products.every() if isinstance(p, BlockProduct) and p.vouches)
    return next((verdicts[name] for name in vouching if name in verdicts), Verdict(PENDING, None))
