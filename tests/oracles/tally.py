"""What the campaigns try and what comes of it: each test counts its own, and the run ends with the sums in a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest

TRIED = ("inputs", "kills", "write faults")
FOUND = ("lost", "laxer", "tracebacks")

Tally = Callable[..., None]


def tally_into(record_property: Callable[[str, object], None]) -> Tally:
    """Count what a test tries and finds, from the moment on that it does: `tally(kills=1)`, `tally(lost=0)`."""

    def count(**numbers: int) -> None:
        for name, number in numbers.items():
            record_property(name.replace("_", " "), number)

    return count


def summed(reports: Iterable[pytest.TestReport]) -> str:
    """`97 kills, 68 write faults: 0 lost, 0 tracebacks`; empty where nothing was tried."""
    counts: Counter[str] = Counter()
    for report in reports:
        for name, value in report.user_properties:
            if name in TRIED + FOUND and isinstance(value, int):
                counts[name] += value
    tried, found = (", ".join(f"{counts[n]:,} {n}" for n in names if n in counts) for names in (TRIED, FOUND))
    return f"{tried}: {found}" if tried else ""
