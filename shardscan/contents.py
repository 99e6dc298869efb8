"""CATALOG, its source: what a scan holds, tensor by tensor, and what of it is committed.

Only what is committed becomes numbers; a tensor of the headers is a member in any case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from shardscan import commits, store
from shardscan.commits import Scan
from shardscan.plan import CIRCUITS, FULL, HEADS, STATS, task_name
from shardscan.reduce.distribution import BINS
from shardscan.reduce.moments import CHANNEL_STATISTICS

REGION_BYTES = 8 << 20  # of the largest stacked array: what is read of it at a time
CIRCUITS_AT_ONCE = 16  # layers


@dataclass(frozen=True, slots=True)
class Contents:
    """A scan, what it knows of its checkpoint, and its commits by task and product."""

    scan: Scan
    facts: Mapping[str, Any]
    done: Mapping[tuple[str, str], Mapping[str, Any]]

    @property
    def model(self) -> str:
        return str(self.facts["model"])

    @property
    def identity(self) -> str:
        """A hash of headers, file sizes and the contents of every tensor committed."""
        records = (record for (_, product), record in self.done.items() if product == STATS)
        verdicts = (item for record in records for item in record["tensors"].items())
        digests = sorted((name, verdict["digest"]) for name, verdict in verdicts if verdict["digest"])
        return xxhash.xxh3_128_hexdigest(json.dumps([self.facts["probe"], digests]).encode())


@dataclass(frozen=True, slots=True)
class Member:
    """One tensor as the store holds it, its commit's verdict, and its spectra: the products that have them, or failed.

    `failures` says why, by product.
    """

    facts: Mapping[str, Any]
    slot: tuple[int, int]
    status: str
    reason: str | None
    digest: str | None
    spectra: frozenset[str]
    failures: Mapping[str, str]

    @property
    def name(self) -> str:
        return str(self.facts["tensor"]["name"])

    @property
    def place(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.facts["place"]
        return found

    @property
    def matrix(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.facts["matrix"]
        return found


@dataclass(frozen=True, slots=True)
class Region:
    """Neighbouring slots of one group's stacks, and the members in them; `layers` and `experts` say where it lies."""

    folder: str
    layers: slice
    experts: slice
    members: tuple[Member, ...]

    def slot(self, member: Member) -> tuple[int, int]:
        """A member's slot, counted from the region's corner."""
        return member.slot[0] - self.layers.start, member.slot[1] - self.experts.start


@dataclass(frozen=True, slots=True)
class Circuits:
    """Circuits of neighbouring layers of one folder, by their place in its stack: those that are committed.

    `failures` says why there are no values, by place.
    """

    folder: str
    component: str
    kind: str
    layers: slice
    facts: Mapping[int, Mapping[str, Any]]
    failures: Mapping[int, str]


def contents(scan: Scan) -> Contents:
    """Read what a scan's tables are made from, less the arrays."""
    return Contents(scan, store.attributes(scan), commits.committed(scan))


def members(held: Contents) -> dict[str, list[Member]]:
    """Every tensor of the headers, by the folder of its group."""
    return {
        folder: [_member(facts, folder, held.done) for facts in group["tensors"]]
        for folder, group in store.groups(held.scan)
        if group["tensors"]
    }


def circuits(held: Contents) -> Iterator[Circuits]:
    """Every circuit that is committed, a few layers at a time."""
    for folder, group in store.groups(held.scan):
        found = group["circuits"]
        names = [task_name(folder, facts["layer"], (i, 0)) for i, facts in enumerate(found)]
        done = {i: held.done[name, CIRCUITS] for i, name in enumerate(names) if (name, CIRCUITS) in held.done}
        verdicts = {i: record["tensors"][found[i]["id"]] for i, record in done.items()}
        for first in range(0, len(found), CIRCUITS_AT_ONCE):
            layers = slice(first, first + CIRCUITS_AT_ONCE)
            inside = {i: v for i, v in verdicts.items() if layers.start <= i < layers.stop}
            failures = {i: str(v["reason"]) for i, v in inside.items() if v["status"] == "failed"}
            if inside:
                facts = {i: found[i] for i in inside}
                yield Circuits(folder, group["component"], group["role"], layers, facts, failures)


def regions(folder: str, found: Sequence[Member]) -> Iterator[Region]:
    """A group in pieces that are small in memory, however many layers and experts it has."""
    layers, experts = (1 + max(m.slot[axis] for m in found) for axis in (0, 1))
    slots = max(1, REGION_BYTES // max(_slot_bytes(m) for m in found))
    tall, wide = max(1, slots // experts), min(experts, slots)
    for top in range(0, layers, tall):
        for left in range(0, experts, wide):
            inside = (m for m in found if top <= m.slot[0] < top + tall and left <= m.slot[1] < left + wide)
            yield Region(folder, slice(top, top + tall), slice(left, left + wide), tuple(inside))


def _slot_bytes(member: Member) -> int:
    """Of a distribution, or of the statistics of the longer axis."""
    channels = max(member.matrix["rows"], member.matrix["cols"]) if member.matrix else 0
    return 8 * max(BINS, len(CHANNEL_STATISTICS) * int(channels))


def _member(facts: Mapping[str, Any], folder: str, done: Mapping[tuple[str, str], Mapping[str, Any]]) -> Member:
    slot = (int(facts["slot"][0]), int(facts["slot"][1]))
    name, task = facts["tensor"]["name"], task_name(folder, facts["place"]["layer"], slot)
    verdicts = {
        product: done[task, product]["tensors"].get(name) for product in (STATS, HEADS, FULL) if (task, product) in done
    }
    verdict = verdicts.get(STATS) or {"status": "pending", "reason": None, "digest": None}
    matrix = facts["matrix"] or {"heads": None}
    possible = [HEADS] * bool(matrix["heads"]) + [FULL]
    found = {p: v for p in possible if (v := verdicts.get(p))}
    return Member(
        facts,
        slot,
        str(verdict["status"]),
        verdict["reason"] or facts["reason"],
        verdict["digest"],
        frozenset(p for p, v in found.items() if v["status"] == "ok"),
        {p: v["reason"] for p, v in found.items() if v["status"] == "failed"},
    )
