"""CATALOG, its source for what is of two scans: what is committed of a comparison, pair by pair, and alignments.

Both are derived: where one is damaged there are no rows of it until it is made anew, and everything else goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from shardscan.plan.scan import keeps_channels_of, kept_channels
from shardscan.store import commits
from shardscan.store.alignments import ALIGNMENTS_LAYOUT, Alignment, read_begun_alignments
from shardscan.store.commits import ALIGNED, COMPARISON, Scan
from shardscan.store.comparison import COMPARISON_LAYOUT
from shardscan.store.records import (
    FAILED,
    OK,
    RANKS,
    SCANNED,
    VALUES,
    BegunAlignments,
    BegunComparison,
    Commit,
    RankVerdict,
    WeightVerdict,
)
from shardscan.store.two_scans import list_speaking


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison, what it is of, its commits, and which channels were asked for of model b.

    It is damaged where a commit, or a file that it began with, is not what was once written.
    """

    scan: Scan
    facts: BegunComparison
    done: commits.Commits
    is_damaged: bool
    channels: str | None

    @property
    def models(self) -> tuple[str, str]:
        return self.facts.models

    @property
    def state(self) -> str:
        """A hash of every commit: what tables are made of."""
        return commits.state_of(self.done)

    @property
    def kept(self) -> str:
        """Which channels become rows, by the rule for those of scans."""
        return kept_channels(self.channels, sum(sum(verdict.channels[1:]) for verdict in self.verdicts.values()))

    @property
    def verdicts(self) -> Mapping[str, WeightVerdict]:
        """What is said of every weight of b that is committed, in the order of the pairs."""
        records = sorted(self._of(VALUES).items())
        return {name: verdict for _, record in records for name, verdict in record.tensors.items()}

    @property
    def changes(self) -> Mapping[str, RankVerdict]:
        """Likewise of their ranks."""
        return {name: v for record in self._of(RANKS).values() for name, v in record.tensors.items()}

    def _of(self, product: str) -> Mapping[str, Commit]:
        return {task: record for (task, kind), record in self.done.items() if kind == product}

    @property
    def failed(self) -> int:
        return sum(verdict.status == FAILED for verdict in self.verdicts.values())


@dataclass(frozen=True, slots=True)
class Aligned:
    """All alignments of two scans, None where they are damaged."""

    scan: Scan
    models: tuple[str, str]
    alignments: Sequence[Alignment] | None

    @property
    def state(self) -> str | None:
        """A hash of what the rows are made of."""
        return None if self.alignments is None else digest_alignments(self.alignments)


def digest_alignments(alignments: Sequence[Alignment]) -> str:
    """A hash of alignments, in whatever order they are."""
    hashed = xxhash.xxh3_128()
    for alignment in sorted(alignments, key=lambda alignment: (alignment.weight_b, alignment.axis)):
        facts = [alignment.weight_a, alignment.weight_b, alignment.axis, alignment.method, alignment.reason]
        hashed.update(json.dumps(facts).encode())
        hashed.update(np.ascontiguousarray(alignment.channels_a, np.int64).tobytes())
    return hashed.hexdigest()


def read_current_comparisons(scans: Sequence[Scan]) -> Iterator[Comparison | Aligned]:
    """What is of scans that speak for the models of a store, which the others do not: they are stale."""
    for scan, facts in list_speaking(COMPARISON, BegunComparison, scans, COMPARISON_LAYOUT):
        records, are_all_sealed = commits.read_sealed_commits(scan)
        done = {key: record for key, record in records.items() if commits.is_whole(scan, record.files)}
        channels_of_b = commits.read_channels(Scan(scan.store, facts.b))
        yield Comparison(
            scan, facts, done, not are_all_sealed or not commits.is_intact(scan, facts.files), channels_of_b
        )
    for place, begun in list_speaking(ALIGNED, BegunAlignments, scans, ALIGNMENTS_LAYOUT):
        yield Aligned(place, begun.models, read_begun_alignments(place, begun))


def list_with_channels(comparison: Comparison) -> Iterator[tuple[str, WeightVerdict]]:
    """The weights whose channels become rows of the catalog."""
    kept = comparison.kept
    for name, verdict in comparison.verdicts.items():
        if keeps_channels_of(kept, verdict.of_expert) and verdict.status in SCANNED and verdict.channels[1]:
            yield name, verdict


def describe_status(verdict: WeightVerdict, change: RankVerdict | None) -> tuple[str, str | None]:
    """Status and reason of a weight: a rank that failed is told where nothing else is."""
    if verdict.status == OK and change and change.status == FAILED:
        return OK, f"the rank of its change: {change.reason}"
    return verdict.status, verdict.reason
