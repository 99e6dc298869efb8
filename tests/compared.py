"""Two checkpoints compared, weight by weight of one id: what the tests of comparisons have in common."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import shardscan
from shardscan import anatomy, catalog, commits, comparing, families, store, writers
from shardscan import shards as opening
from shardscan.anatomy import Anatomy
from shardscan.commits import Scan
from shardscan.comparing import Alignment, Summary
from shardscan.errors import ShardscanError
from shardscan.pairs import Pair, Side, Task, tasks
from shardscan.shards.address import Checkpoint

Kept = Mapping[str, tuple[np.ndarray | None, np.ndarray | None]]  # rows and columns of a, by the id in b


def placed(folder: Path, family: str | None = None, io: str = "auto") -> tuple[Checkpoint, Anatomy]:
    """A checkpoint and its anatomy, by a family in TOML if one is given."""
    checkpoint = opening.open(folder, io=io)
    known = {"any": families.parse(family, "any.toml")} if family else None
    return checkpoint, anatomy.place(checkpoint, known)


def sides(found: Anatomy) -> dict[str, Side]:
    """Every weight of a model by its id."""
    every = [Side(p, matrix) for p in found.placed for matrix in p.matrices or (None,)]
    return {side.id: side for side in every}


def pairs(a: Anatomy, b: Anatomy, kept: Kept | None = None) -> list[Pair]:
    """Weights of one id, in the order of b."""
    of_a = sides(a)
    return [Pair(of_a[id], side, *(kept or {}).get(id, (None, None))) for id, side in sides(b).items() if id in of_a]


def scan_of(folder: Path, model: str) -> Scan:
    return next(scan for scan in store.current(folder) if store.attributes(scan)["model"] == model)


def begun(
    a: Path, b: Path, folder: Path, kept: Kept | None = None, io: str = "auto"
) -> tuple[Scan, tuple[Task, ...], tuple[Checkpoint, Checkpoint]]:
    """A comparison of two models that a store has scanned."""
    (of_a, anatomy_a), (of_b, anatomy_b) = placed(a, io=io), placed(b, io=io)
    found = tasks(pairs(anatomy_a, anatomy_b, kept))
    scans = scan_of(folder, of_a.name), scan_of(folder, of_b.name)
    return comparing.begin(*scans, (of_a.name, of_b.name), found), found, (of_a, of_b)


def compare(
    a: Path,
    b: Path,
    folder: Path,
    *,
    kept: Kept | None = None,
    alignments: list[Alignment] | None = None,
    io: str = "auto",
    **options: Any,
) -> Summary:
    """Compare and rebuild the catalog."""
    with writers.writing(folder):
        comparison, found, checkpoints = begun(a, b, folder, kept, io)
        if alignments:
            comparing.keep_alignments(comparison, alignments)
        done = comparing.run(comparison, found, checkpoints, **options)
        catalog.build(folder)
    return done


def only(folder: Path) -> Scan:
    """The one comparison of a store."""
    (found,) = commits.comparisons(folder)
    return found


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with shardscan.connect(folder) as connection:
        return [tuple(row) for row in connection.sql(sql).fetchall()]


def main(words: list[str]) -> NoReturn:
    """Compare two checkpoints of a store as a command does that may be killed: models a and b, the store."""
    try:
        done = compare(Path(words[0]), Path(words[1]), Path(words[2]), rank=True, workers=2)
        print(f"[{done.bytes_read}]")
    except ShardscanError as error:
        print(f"Error: {error}")
        sys.exit(error.exit_code)
    sys.exit(0)
