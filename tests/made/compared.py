"""Two checkpoints compared, weight by weight of one id: what the tests of comparisons have in common."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import shardscan
from shardscan.anatomy import placement as anatomy
from shardscan.anatomy.families import loading as families
from shardscan.anatomy.places import Anatomy
from shardscan.catalog import build as catalog
from shardscan.errors import ShardscanError
from shardscan.jobs.comparison import values as comparing
from shardscan.jobs.comparison.values import Alignment, Summary
from shardscan.jobs.scan.options import Resources
from shardscan.machine import processors
from shardscan.plan import comparison as planned
from shardscan.plan.comparison import Pair, Side, Task, plan_comparison
from shardscan.shards import checkpoint as opening
from shardscan.shards.address import Checkpoint
from shardscan.store import arrays as store
from shardscan.store import commits
from shardscan.store import comparison as stored
from shardscan.store.commits import Scan
from shardscan.store.facts import read_scan
from shardscan.store.lock import writing_store

Kept = Mapping[str, tuple[np.ndarray | None, np.ndarray | None]]  # rows and columns of a, by the id in b


def placed(folder: Path, family: str | None = None, io: str = "auto") -> tuple[Checkpoint, Anatomy]:
    """A checkpoint and its anatomy, by a family in TOML if one is given."""
    checkpoint = opening.open(folder, io=io)
    known = {"any": families.parse_family(family, "any.toml")} if family else None
    return checkpoint, anatomy.place_tensors(checkpoint, known)


def sides(found: Anatomy) -> dict[str, Side]:
    """Every weight of a model by its id."""
    every = [Side(p, matrix) for p in found.placed for matrix in p.matrices or (None,)]
    return {side.id: side for side in every}


def pairs(a: Anatomy, b: Anatomy, kept: Kept | None = None) -> list[Pair]:
    """Weights of one id, in the order of b."""
    of_a = sides(a)
    return [Pair(of_a[id], side, *(kept or {}).get(id, (None, None))) for id, side in sides(b).items() if id in of_a]


def models_of(store: Path) -> tuple[Path, Path]:
    """The checkpoints a and b, which lie beside their store."""
    return store.with_name("a"), store.with_name("b")


def scan_of(folder: Path, model: str) -> Scan:
    return next(scan for scan in store.list_current_scans(folder) if read_scan(scan).model == model)


def scans_of(folder: Path, a: str = "a", b: str = "b") -> tuple[Scan, Scan]:
    return scan_of(folder, a), scan_of(folder, b)


def begun(
    a: Path, b: Path, folder: Path, kept: Kept | None = None, io: str = "auto"
) -> tuple[Scan, tuple[Task, ...], tuple[Checkpoint, Checkpoint]]:
    """A comparison of two models that a store has scanned."""
    (of_a, anatomy_a), (of_b, anatomy_b) = placed(a, io=io), placed(b, io=io)
    found = plan_comparison(pairs(anatomy_a, anatomy_b, kept))
    models = of_a.name, of_b.name
    return comparing.begin_comparison(*scans_of(folder, *models), models, found), found, (of_a, of_b)


def compare(
    a: Path,
    b: Path,
    folder: Path,
    *,
    kept: Kept | None = None,
    alignments: list[Alignment] | None = None,
    io: str = "auto",
    workers: int | None = None,
    room: int | None = None,
    max_bytes: int | None = None,
    **options: Any,
) -> Summary:
    """Compare and rebuild the catalog."""
    with writing_store(folder):
        comparison, found, checkpoints = begun(a, b, folder, kept, io)
        if alignments:
            keep(folder, alignments, a.name, b.name)
        done = comparing.compare_weights(
            comparison, found, checkpoints, Resources(workers or processors(), room, max_bytes), **options
        )
        catalog.build(folder)
    return done


def keep(folder: Path, alignments: list[Alignment], a: str = "a", b: str = "b") -> None:
    """Keep the alignments of two models, within `lock.writing_store`."""
    comparing.keep_alignments(*scans_of(folder, a, b), (a, b), alignments)


def kept(folder: Path, a: str = "a", b: str = "b") -> list[tuple[Any, ...]]:
    """What is kept of them."""
    found = comparing.read_alignments(*scans_of(folder, a, b))
    return [(x.weight_a, x.weight_b, x.axis, x.channels_a.tolist(), x.method, x.reason) for x in found]


def only(folder: Path) -> Scan:
    """The one comparison of a store."""
    (found,) = commits.list_of_two_scans(folder, commits.COMPARISON)
    return found


def small_tasks(patch: pytest.MonkeyPatch) -> None:
    """Have comparisons take a few weights in each task, and chunks of 64 channels."""
    patch.setattr(planned, "TASK_BYTES", 4000)
    patch.setattr(planned, "CHUNK", 64)
    patch.setattr(stored, "CHUNK", 64)


def survivors(folder: Path) -> dict[str, bytes]:
    """Every file of what a store has of two scans."""
    folders = [part for found in commits.list_of_two_scans(folder) for part in (found.arrays, found.commits)]
    files = (path for part in folders for path in part.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with shardscan.connect(folder) as connection:
        return [tuple(row) for row in connection.sql(sql).fetchall()]


UP, NORM = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
BEFORE = [Alignment(UP, UP, "out", np.array([3, -1, 0]), "fingerprint", "one is unknown")]
AFTER = [*BEFORE, Alignment(NORM, NORM, "in", np.arange(16), "order")]


def main_keeping(words: list[str]) -> NoReturn:
    """Keep the alignments of models a and b of a store as a command does that may be killed."""
    folder = Path(words[0])
    try:
        with writing_store(folder):
            keep(folder, AFTER)
            catalog.build(folder)
    except ShardscanError as error:
        print(f"Error: {error}")
        sys.exit(error.exit_code)
    sys.exit(0)


def main(words: list[str]) -> NoReturn:
    """Compare two checkpoints of a store as a command does that may be killed: models a and b, the store."""
    try:
        done = compare(Path(words[0]), Path(words[1]), Path(words[2]), rank=True, workers=2)
        print(f"[{done.bytes_read}]")
    except ShardscanError as error:
        print(f"Error: {error}")
        sys.exit(error.exit_code)
    sys.exit(0)
