"""CATALOG, its source: what a scan holds, tensor by tensor, and what of it is committed.

Only what is committed becomes numbers; a tensor of the headers is a member in any case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import xxhash

from shardscan.plan.tasks import (
    EXPERTS_PER_TASK,
    FULL,
    HEADS,
    PRODUCT_OF,
    STATS,
    Slot,
    composite_task_names,
    stack_folder,
    task_name,
)
from shardscan.reduce.distribution import BINS
from shardscan.reduce.result import STORED_STATISTICS
from shardscan.store import arrays as store
from shardscan.store import commits
from shardscan.store.commits import CODES, DEGENERATE, FAILED, OK, SCANNED, Scan

PENDING = "pending"  # what the catalog says of a tensor without a commit
REGION_BYTES = 8 << 20  # of the largest stacked array: what is read of it at a time
COMPOSITES_AT_ONCE = 16  # layers


@dataclass(frozen=True, slots=True)
class Contents:
    """A scan, what it knows of its checkpoint, its commits by task and product, and which channels were asked for."""

    scan: Scan
    facts: Mapping[str, Any]
    done: Mapping[tuple[str, str], Mapping[str, Any]]
    channels: str | None

    @property
    def model(self) -> str:
        return str(self.facts["model"])

    @property
    def state(self) -> str:
        """A hash of every commit: what tables are made of, less what only runs know."""
        return xxhash.xxh3_128_hexdigest(json.dumps(sorted(self.done.items())).encode())

    @property
    def identity(self) -> str:
        """A hash of headers, file sizes and the contents of every tensor committed."""
        records = (record for (_, product), record in self.done.items() if product == STATS)
        verdicts = (item for record in records for item in record["tensors"].items())
        digests = sorted((name, verdict["digest"]) for name, verdict in verdicts if verdict["digest"])
        return xxhash.xxh3_128_hexdigest(json.dumps([self.facts["probe"], digests]).encode())


@dataclass(frozen=True, slots=True)
class Member:
    """One tensor as the store holds it, and its commits' verdict; a stack of experts has a slot for each task."""

    facts: Mapping[str, Any]
    slots: tuple[Slot, ...]
    status: str
    reason: str | None
    digest: str | None
    matrices: tuple[HeldMatrix, ...]

    @property
    def name(self) -> str:
        return str(self.facts["tensor"]["name"])

    @property
    def place(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.facts["place"]
        return found

    @property
    def slot(self) -> Slot:
        return self.slots[0]

    @property
    def width(self) -> int:
        """The values in a slot of its largest array."""
        return BINS


@dataclass(frozen=True, slots=True)
class HeldMatrix:
    """One matrix as the store holds it, and its spectra: the products that have them, or failed.

    `facts` has its id, kind, role, expert, rows, cols and heads; `failures` says why, by product.
    """

    tensor: str
    component: str
    layer: int | None
    facts: Mapping[str, Any]
    slot: Slot
    scanned: bool
    spectra: frozenset[str]
    failures: Mapping[str, str]

    @property
    def width(self) -> int:
        """The values in a slot of its largest array."""
        return len(STORED_STATISTICS) * int(max(self.facts["rows"], self.facts["cols"]))


class Stacked(Protocol):
    """What lies in a slot of stacked arrays."""

    @property
    def slot(self) -> Slot: ...

    @property
    def width(self) -> int: ...


Each = TypeVar("Each", bound=Stacked)


@dataclass(frozen=True, slots=True)
class Region(Generic[Each]):
    """Neighbouring slots of one folder's stacks, and what is in them; `layers` and `experts` say where it lies."""

    folder: str
    layers: slice
    experts: slice
    members: tuple[Each, ...]

    def slot(self, member: Each) -> Slot:
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
    facts: Mapping[int, Mapping[str, Any]]
    failures: Mapping[int, str]


def contents(scan: Scan) -> Contents:
    """Read what a scan's tables are made from, less the arrays."""
    return Contents(scan, store.attributes(scan), commits.committed(scan), commits.channels(scan))


def members(held: Contents) -> dict[str, list[Member]]:
    """Every tensor of the headers, by the folder of its group."""
    return {
        folder: [_member(facts, folder, held.done) for facts in group["tensors"]]
        for folder, group in store.groups(held.scan)
        if group["tensors"]
    }


def composites(held: Contents) -> Iterator[Composites]:
    """Every composite that is committed, a few layers at a time."""
    for folder, group in store.groups(held.scan):
        found = group["composites"]
        names = composite_task_names(folder, [facts["layer"] for facts in found])
        keys = [(name, PRODUCT_OF[facts["kind"]]) for name, facts in zip(names, found, strict=True)]
        done = {i: held.done[key] for i, key in enumerate(keys) if key in held.done}
        verdicts = {i: record["tensors"][found[i]["id"]] for i, record in done.items()}
        for first in range(0, len(found), COMPOSITES_AT_ONCE):
            layers = slice(first, first + COMPOSITES_AT_ONCE)
            inside = {i: v for i, v in verdicts.items() if layers.start <= i < layers.stop}
            failures = {i: str(v["reason"]) for i, v in inside.items() if v["status"] == FAILED}
            if inside:
                facts = {i: found[i] for i in inside}
                yield Composites(folder, group["component"], layers, facts, failures)


def stacks(groups: Mapping[str, Sequence[Member]]) -> dict[str, list[HeldMatrix]]:
    """Every matrix, by the folder that it is stacked in."""
    found: dict[str, list[HeldMatrix]] = {}
    for folder, members in groups.items():
        for member in members:
            for matrix in member.matrices:
                found.setdefault(stack_folder(folder, member.place["role"], matrix.facts["role"]), []).append(matrix)
    return found


def regions(folder: str, found: Sequence[Each]) -> Iterator[Region[Each]]:
    """A folder in pieces that are small in memory, however many layers and experts it has; files are not cut."""
    layers, experts = (1 + max(m.slot[axis] for m in found) for axis in (0, 1))
    slots = max(1, REGION_BYTES // (8 * max(m.width for m in found)))
    wide = min(experts, -(-slots // EXPERTS_PER_TASK) * EXPERTS_PER_TASK)
    tall = max(1, slots // wide)
    inside: dict[Slot, list[Each]] = {}
    for member in found:
        inside.setdefault((member.slot[0] // tall, member.slot[1] // wide), []).append(member)
    for (down, across), members in sorted(inside.items()):
        top, left = down * tall, across * wide
        yield Region(
            folder, slice(top, min(top + tall, layers)), slice(left, min(left + wide, experts)), tuple(members)
        )


def _member(facts: Mapping[str, Any], folder: str, done: Mapping[tuple[str, str], Mapping[str, Any]]) -> Member:
    name, place = facts["tensor"]["name"], facts["place"]

    def verdict(slot: Slot, product: str) -> Mapping[str, Any] | None:
        record = done.get((task_name(folder, place["layer"], slot), product))
        found: Mapping[str, Any] | None = record["tensors"].get(name) if record else None
        return found

    slots = tuple((int(layer), int(expert)) for layer, expert in facts["slots"])
    verdicts = [verdict(slot, STATS) or {"status": PENDING, "reason": None, "digest": None} for slot in slots]
    worst = max(verdicts, key=lambda v: (OK, DEGENERATE, CODES, PENDING, FAILED).index(v["status"]))
    matrices = []
    for matrix in facts["matrices"]:
        slot = (int(matrix["slot"][0]), int(matrix["slot"][1]))
        possible = [HEADS] * bool(matrix["heads"]) + [FULL]
        found = {product: v for product in possible if (v := verdict(slot, product))}
        own = verdict(slot, STATS)
        held = HeldMatrix(
            tensor=name,
            component=place["component"],
            layer=place["layer"],
            facts=matrix,
            slot=slot,
            scanned=own is not None and own["status"] in SCANNED,
            spectra=frozenset(p for p, v in found.items() if v["status"] in SCANNED),
            failures={p: v["reason"] for p, v in found.items() if v["status"] == FAILED},
        )
        matrices.append(held)
    digest = verdicts[0]["digest"] if len(slots) == 1 else None
    return Member(facts, slots, str(worst["status"]), worst["reason"] or facts["reason"], digest, tuple(matrices))
