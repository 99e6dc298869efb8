"""A comparison that a disk has damaged: nothing else is blocked by it, and comparing again makes it anew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import shardscan
from made import compared, tiny
from made.campaigns import sampled
from made.compared import AFTER, flip, rows, small_tasks, survivors
from made.once import Once
from shardscan.catalog import checks
from shardscan.jobs.scan.job import rebuild_catalog
from shardscan.jobs.verification.job import verify
from shardscan.store import arrays as store
from shardscan.store.names import CATALOG

TABLES = ("diffs", "tensor_diffs", "channel_diffs")


@pytest.fixture(scope="session")
def models(two_scans: Path) -> tuple[Path, Path]:
    return compared.models_of(two_scans)


@pytest.fixture(scope="session")
def whole(once: Once, two_scans: Path, models: tuple[Path, Path]) -> Path:
    """A store of two models, compared and aligned, in tasks of a few weights each."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            small_tasks(patch)
            store = shutil.copytree(two_scans, folder / "scans")
            compared.compare(*models, store, rank=True, alignments=AFTER)

    return once("compared", make) / "scans"


@pytest.fixture
def scans(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small_tasks(monkeypatch)
    return shutil.copytree(whole, tmp_path / "scans")


def tables(folder: Path, names: tuple[str, ...] = TABLES) -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows(folder, f"select * from {table} order by all") for table in names}


KINDS = ["begun", "values-1.json", "ranks-1.json", "zarr.json", "figures/zarr.json", "figures/c/0/1"]


@pytest.mark.parametrize("kind", sampled(KINDS, 3))
def test_damage_blocks_nothing_and_is_made_good_by_comparing_again(
    kind: str, scans: Path, models: tuple[Path, Path], tmp_path: Path
) -> None:
    right, built = survivors(scans), tables(scans)
    aligned = tables(scans, ("alignments",))
    flip(scans / next(name for name in right if "diff-" in name and name.endswith(kind)))
    assert verify(scans).problems
    (scans / CATALOG).unlink()
    rebuild_catalog(scans)
    assert not any(tables(scans).values())
    assert tables(scans, ("alignments",)) == aligned
    is_known = kind != "begun"  # of which scans it was
    assert bool(verify(scans).problems) is is_known
    assert checks.find_stale(scans / CATALOG, store.list_current_scans(scans)) == [("a", "b")] * is_known
    shardscan.ingest(tiny.llama(tmp_path / "third", seed=9), scans)
    assert rows(scans, "select count(*) from models") == [(3,)]
    assert not any(tables(scans).values())
    compared.compare(*models, scans, rank=True)
    assert survivors(scans) == right
    assert tables(scans) == built
    assert verify(scans).findings == ()
    assert checks.find_stale(scans / CATALOG, store.list_current_scans(scans)) == []


def test_what_was_not_asked_for_again_and_is_damaged_is_given_up(scans: Path, models: tuple[Path, Path]) -> None:
    flip(next(compared.only(scans).commits.glob("*ranks-1.json")))
    compared.compare(*models, scans)
    assert verify(scans).findings == ()
    assert rows(scans, "select weights = compared, ranked between 1 and weights - 1 from diffs") == [(True, True)]


def test_half_of_the_rows_of_a_damaged_comparison_are_no_rows(
    scans: Path, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared.compare(models[1], models[0], scans)
    other = tables(scans)
    monkeypatch.setattr("shardscan.catalog.rows.comparison.AT_ONCE", 64)
    last = max(name for name in survivors(scans) if "figures/c/0/" in name)
    flip(scans / last)
    rebuild_catalog(scans)
    left = tables(scans)
    assert len(left["diffs"]) == 1
    assert 0 < len(left["channel_diffs"]) < len(other["channel_diffs"])
    assert {row[:2] for table in left.values() for row in table} == {left["diffs"][0][:2]}
