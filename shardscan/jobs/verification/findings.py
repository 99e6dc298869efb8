"""VERIFY, its values: what was found, where, and how bad it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["problem", "note"]
PROBLEM: Severity = "problem"
NOTE: Severity = "note"

Advance = Callable[[int, int], None]


class Finding(NamedTuple):
    """One sentence about a file, a tensor or a run of its values; `position` is their coordinates.

    `check` is which look found it: header, index, duplicate, tied, nan, inf, zeros, file, checksum, config, whole of a
    checkpoint; commit, checksum, scan, file, catalog of a store.
    """

    severity: Severity
    check: str
    detail: str
    file: str | None = None
    tensor: str | None = None
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Everything found in one checkpoint or store, called `name`; it is clean if nothing is a problem.

    `count` is of tensors or scans, as `of` says, `nbytes` of what was read.
    """

    name: str
    findings: tuple[Finding, ...]
    of: Literal["tensor", "scan"]
    count: int
    nbytes: int

    @property
    def problems(self) -> int:
        return sum(finding.severity == PROBLEM for finding in self.findings)


def coordinates(number: int, shape: tuple[int, ...]) -> str:
    """Where value `number` of a tensor is, row-major, as text: [12, 7]; a number for shapes that nobody could read."""
    if len(shape) > 16:
        return f"value {number}"
    indices = []
    for size in reversed(shape):
        number, index = divmod(number, size)
        indices.append(index)
    return str(indices[::-1])
