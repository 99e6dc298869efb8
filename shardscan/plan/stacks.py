"""PLAN, its folders: which tensors and products are stacked together, and at which slots. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import xxhash

from shardscan.anatomy.composites import CIRCUIT, Composite, list_composites
from shardscan.anatomy.places import OTHER, Anatomy, Placed
from shardscan.plan.tasks import Group


def group_tensors(anatomy: Anatomy) -> tuple[Group, ...]:
    """Every folder of a scan."""
    return (*_groups(anatomy), *_composite_groups(anatomy))


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
    for composite in list_composites(anatomy):
        kind = "" if composite.kind == CIRCUIT else f".{composite.kind}"
        by_folder.setdefault(f"{composite.component}/{composite.role}{kind}", []).append(composite)
    for folder, composites in by_folder.items():
        ordered = sorted(composites, key=lambda c: -1 if c.layer is None else c.layer)
        layers = tuple(c.layer for c in ordered)
        yield Group(ordered[0].component, ordered[0].role, folder, layers, (None,), (), tuple(ordered))


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
