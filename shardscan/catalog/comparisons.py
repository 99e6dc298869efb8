"""CATALOG, its source for what is of two scans: what is committed of a comparison, pair by pair, and alignments.

Both are derived: where one is damaged there are no rows of it until it is made anew, and everything else goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from shardscan.plan.scan import kept_channels
from shardscan.store import alignments as aligned
from shardscan.store import commits
from shardscan.store import comparison as store
from shardscan.store import two_scans as of_two
from shardscan.store.alignments import Alignment
from shardscan.store.commits import ALIGNED, COMPARISON, FAILED, OK, SCANNED, Scan
from shardscan.store.comparison import RANKS, VALUES


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison, what it is of, its commits, and which channels were asked for of model b.

    It is damaged where a commit, or a file that it began with, is not what was once written.
    """

    scan: Scan
    facts: Mapping[str, Any]
    done: commits.Commits
    is_damaged: bool
    channels: str | None

    @property
    def models(self) -> tuple[str, str]:
        return _models(self.facts)

    @property
    def state(self) -> str:
        """A hash of every commit: what tables are made of."""
        return xxhash.xxh3_128_hexdigest(json.dumps(sorted(self.done.items())).encode())

    @property
    def kept(self) -> str:
        """Which channels become rows, by the rule for those of scans."""
        return kept_channels(self.channels, sum(sum(verdict["channels"][1:]) for verdict in self.verdicts.values()))

    @property
    def verdicts(self) -> Mapping[str, Mapping[str, Any]]:
        """What is said of every weight of b that is committed, in the order of the pairs."""
        records = sorted(self._of(VALUES).items())
        return {name: verdict for _, record in records for name, verdict in record["tensors"].items()}

    @property
    def changes(self) -> Mapping[str, Mapping[str, Any]]:
        """Likewise of their ranks."""
        return {name: v for record in self._of(RANKS).values() for name, v in record["tensors"].items()}

    def _of(self, product: str) -> Mapping[str, Mapping[str, Any]]:
        return {task: record for (task, kind), record in self.done.items() if kind == product}

    @property
    def failed(self) -> int:
        return sum(verdict["status"] == FAILED for verdict in self.verdicts.values())


@dataclass(frozen=True, slots=True)
class Aligned:
    """All alignments of two scans, None where they are damaged."""

    scan: Scan
    models: tuple[str, str]
    found: Sequence[Alignment] | None

    @property
    def state(self) -> str | None:
        """A hash of what the rows are made of."""
        return None if self.found is None else digest(self.found)


def digest(found: Sequence[Alignment]) -> str:
    """A hash of alignments, in whatever order they are."""
    hashed = xxhash.xxh3_128()
    for one in sorted(found, key=lambda one: (one.weight_b, one.axis)):
        said = [one.weight_a, one.weight_b, one.axis, one.method, one.reason]
        hashed.update(json.dumps(said).encode())
        hashed.update(np.ascontiguousarray(one.channels_a, np.int64).tobytes())
    return hashed.hexdigest()


def current(scans: Sequence[Scan]) -> Iterator[Comparison | Aligned]:
    """What is of scans that speak for the models of a store, which the others do not: they are stale."""
    for scan, facts in of_two.speaking(COMPARISON, scans, store.LAYOUT):
        sealed, are_all = commits.sealed(scan)
        done = {key: record for key, record in sealed.items() if commits.is_whole(scan, record)}
        of_b = commits.channels(Scan(scan.store, str(facts["b"])))
        yield Comparison(scan, facts, done, not are_all or not commits.is_intact(scan, facts), of_b)
    for scan, facts in of_two.speaking(ALIGNED, scans, aligned.LAYOUT):
        yield Aligned(scan, _models(facts), aligned.read(scan, facts))


def _models(facts: Mapping[str, Any]) -> tuple[str, str]:
    a, b = facts["models"]
    return str(a), str(b)


def with_channels(held: Comparison) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The weights whose channels become rows of the catalog."""
    kept = held.kept
    for name, verdict in held.verdicts.items():
        shown = kept == "all" or (kept == "dense" and not verdict["of_expert"])
        if shown and verdict["status"] in SCANNED and verdict["channels"][1]:
            yield name, verdict


def status(verdict: Mapping[str, Any], change: Mapping[str, Any] | None) -> tuple[str, str | None]:
    """Status and reason of a weight: a rank that failed is told where nothing else is."""
    if verdict["status"] == OK and change and change["status"] == FAILED:
        return OK, f"the rank of its change: {change['reason']}"
    return str(verdict["status"]), verdict["reason"]
