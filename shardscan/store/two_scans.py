"""STORE, what it has of two scans: it is bound to both, holds while both speak for their models, and goes with them."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from shardscan.errors import StoreError, shown
from shardscan.store import commits
from shardscan.store.arrays import list_current_scans
from shardscan.store.commits import OfTwo, Scan
from shardscan.store.facts import read_scan
from shardscan.store.records import BegunOfTwo

Models = tuple[str, str]


def locate_of_two(kind: str, a: Scan, b: Scan, layout: int) -> Scan:
    """Where one kind of what is of two scans, in this order, has its place."""
    return Scan(a.store, kind + xxhash.xxh3_128_hexdigest(f"{a.id} {b.id} {layout}".encode()))


def check_both_speak(a: Scan, b: Scan, models: Models) -> None:
    """Refuse to keep what was found of scans that do not speak for their models any more; the store must be locked."""
    speaking = {scan: read_scan(scan).model for scan in list_current_scans(a.store)}
    if any(speaking.get(scan) != model for scan, model in zip((a, b), models, strict=True)):
        raise StoreError(f"{shown(str(a.store), 400)} was written meanwhile: compare again.")


def forget_others(pair: Scan, kind: str, models: Models) -> None:
    """Remove what else there is of this kind of two models: it is of other scans of theirs, or of another version."""
    for other in commits.list_of_two_scans(pair.store, kind):
        known = commits.read_begun_of_two(other, BegunOfTwo)
        if other != pair and known and known.models == models:
            commits.forget(other)


def list_speaking(kind: str, begun: type[OfTwo], scans: Sequence[Scan], layout: int) -> list[tuple[Scan, OfTwo]]:
    """What is of scans that speak for their models, as this version writes it, by their models' names."""
    ids = {scan.id for scan in scans}
    pairs = commits.list_of_two_scans(scans[0].store, kind) if scans else []
    begun_pairs = [(facts, pair) for pair in pairs if (facts := commits.read_begun_of_two(pair, begun))]
    return [
        (pair, facts)
        for facts, pair in sorted(begun_pairs, key=lambda begun_pair: begun_pair[0].models)
        if {facts.a, facts.b} <= ids and facts.layout == layout
    ]
