"""CATALOG, its source for comparisons: what is committed of two scans that were compared, pair by pair."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from shardscan import commits
from shardscan.commits import FAILED, OK, SCANNED, Scan
from shardscan.plan import kept_channels
from shardscan.store import comparison as store
from shardscan.store.comparison import RANKS, VALUES


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison, what it is of, its commits, and which channels were asked for of model b."""

    scan: Scan
    facts: Mapping[str, Any]
    done: commits.Commits
    channels: str | None

    @property
    def models(self) -> tuple[str, str]:
        a, b = self.facts["models"]
        return str(a), str(b)

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


def current(scans: Sequence[Scan]) -> Iterator[Comparison]:
    """The comparisons of scans that speak for the models of a store, which the others do not: they are stale."""
    for scan in store.current(scans[0].store, scans) if scans else ():
        if facts := commits.compared(scan):
            of_b = commits.channels(Scan(scan.store, str(facts["b"])))
            yield Comparison(scan, facts, commits.committed(scan), of_b)


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
