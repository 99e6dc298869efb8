"""Alignments in a store: kept of two scans, whatever is compared of them, and as long as both are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import shardscan
from made import compared, tiny
from made.compared import AFTER, BEFORE, NORM, UP, flip, rows, survivors
from made.once import Once
from shardscan.catalog import build as catalog
from shardscan.catalog import checks
from shardscan.errors import StoreError
from shardscan.jobs.comparison import values as comparing
from shardscan.jobs.comparison.values import Alignment
from shardscan.jobs.verification.job import verify
from shardscan.store import commits
from shardscan.store.arrays import list_current_scans
from shardscan.store.commits import ALIGNED
from shardscan.store.lock import writing_store
from shardscan.store.names import CATALOG

TABLE = "select * from alignments order by all"


@pytest.fixture(scope="session")
def models(two_scans: Path) -> tuple[Path, Path]:
    return compared.models_of(two_scans)


@pytest.fixture(scope="session")
def whole(once: Once, two_scans: Path) -> Path:
    """Two models in one store, aligned and not compared."""

    def make(folder: Path) -> None:
        keep(shutil.copytree(two_scans, folder / "scans"), BEFORE)

    return once("aligned", make) / "scans"


@pytest.fixture
def scans(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "scans")


def keep(folder: Path, alignments: list[Alignment]) -> None:
    with writing_store(folder):
        compared.keep(folder, alignments)
        catalog.build(folder)


def said(alignments: list[Alignment]) -> list[tuple[object, ...]]:
    return [(x.weight_a, x.weight_b, x.axis, x.channels_a.tolist(), x.method, x.reason) for x in alignments]


def written(folder: Path) -> dict[str, int]:
    """When each file was."""
    return {name: (folder / name).stat().st_mtime_ns for name in survivors(folder)}


def test_alignments_need_no_comparison(whole: Path) -> None:
    assert compared.kept(whole) == said(BEFORE)
    assert rows(whole, "select channel_b, channel_a, method, reason from alignments order by all") == [
        (0, 3, "fingerprint", "one is unknown"),
        (1, None, "fingerprint", "one is unknown"),
        (2, 0, "fingerprint", "one is unknown"),
    ]
    assert rows(whole, "select count(*) from diffs") == [(0,)]
    assert verify(whole).findings == ()
    assert compared.kept(whole, "b", "a") == []


@pytest.mark.parametrize(
    "others",
    [AFTER, [], AFTER[1:], [Alignment(UP, UP, "out", np.array([3, -1, 1]), "fingerprint", "one is unknown")]],
    ids=["more", "none", "another", "other channels"],
)
def test_those_that_are_kept_take_the_place_of_those_before(others: list[Alignment], scans: Path) -> None:
    keep(scans, others)
    assert compared.kept(scans) == said(others)
    assert len(rows(scans, TABLE)) == sum(len(one.channels_a) for one in others)
    built = rows(scans, TABLE)
    catalog.build(scans, rebuild=True)
    assert rows(scans, TABLE) == built
    assert verify(scans).findings == ()
    assert len(survivors(scans)) == (4 if others else 0)


def test_equal_ones_are_not_written_again(scans: Path) -> None:
    before = written(scans)
    keep(scans, list(BEFORE))
    assert written(scans) == before


def test_no_comparison_touches_them_nor_they_a_comparison(scans: Path, models: tuple[Path, Path]) -> None:
    aligned, before = written(scans), rows(scans, TABLE)
    compared.compare(*models, scans)
    compared.compare(*models, scans, kept={NORM: (None, np.arange(16)[::-1])})
    with writing_store(scans):
        comparing.begin_comparison(*compared.scans_of(scans), ("a", "b"), ())
    assert written(scans).items() >= aligned.items()
    assert rows(scans, TABLE) == before
    compared.compare(*models, scans)
    finished = written(scans)
    keep(scans, AFTER)
    found = compared.only(scans).id
    assert {name: at for name, at in written(scans).items() if found in name}.items() <= finished.items()
    assert rows(scans, "select weights = compared from diffs") == [(True,)]


def test_a_catalog_that_lacks_them_is_stale(scans: Path) -> None:
    speaking = list_current_scans(scans)
    assert checks.find_stale(scans / CATALOG, speaking) == []
    for others in (AFTER, []):
        with writing_store(scans):
            compared.keep(scans, others)
        assert checks.find_stale(scans / CATALOG, speaking) == [("a", "b")]
        catalog.build(scans)
        assert checks.find_stale(scans / CATALOG, speaking) == []


def test_a_flipped_bit_is_found_and_costs_no_more_than_finding_them_again(scans: Path) -> None:
    right = survivors(scans)
    for name in right:
        flip(scans / name)
        (found,) = (one for one in verify(scans).findings if one.severity == "problem")
        assert found.file == name
        assert "compare its two models again" in found.detail
        assert compared.kept(scans) == []
        for rebuild in (False, True):
            catalog.build(scans, rebuild=rebuild)
            assert rows(scans, TABLE) == []
        keep(scans, BEFORE)
        assert survivors(scans) == right
        assert len(rows(scans, TABLE)) == 3


def test_they_go_with_the_scans(scans: Path, tmp_path: Path) -> None:
    shardscan.ingest(tiny.llama(tmp_path / "b", seed=5), scans, replace=True)
    assert rows(scans, TABLE) == []
    assert compared.kept(scans) == []
    assert [finding.severity for finding in verify(scans).findings] == ["note"]
    with writing_store(scans):
        assert survivors(scans) == {}
    assert verify(scans).findings == ()


@pytest.mark.parametrize("side", [0, 1])
def test_scans_that_were_replaced_meanwhile_are_refused(side: int, scans: Path, tmp_path: Path) -> None:
    of_a, of_b = compared.scans_of(scans)
    shardscan.ingest(tiny.llama(tmp_path / "ab"[side], seed=5), scans, replace=True)
    with writing_store(scans):
        for late in (
            lambda: comparing.keep_alignments(of_a, of_b, ("a", "b"), AFTER),
            lambda: comparing.begin_comparison(of_a, of_b, ("a", "b"), ()),
        ):
            with pytest.raises(StoreError, match="was written meanwhile: compare again"):
                late()
    assert commits.list_of_two_scans(scans) == []


def test_a_scan_that_is_still_to_replace_another_does_not_speak_yet(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = compared.scans_of(scans)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(commits, "supersede", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        shardscan.ingest(tiny.llama(tmp_path / "b", seed=5), scans, replace=True)
    (new,) = set(commits.list_scans(scans)) - set(old)
    with writing_store(scans), pytest.raises(StoreError, match="compare again"):
        comparing.keep_alignments(old[0], new, ("a", "b"), AFTER)
    keep(scans, AFTER)
    assert compared.kept(scans) == said(AFTER)


def test_scans_under_other_names_are_refused(scans: Path) -> None:
    with writing_store(scans), pytest.raises(StoreError, match="compare again"):
        comparing.keep_alignments(*compared.scans_of(scans), ("b", "a"), AFTER)


def test_half_made_ones_are_swept(scans: Path) -> None:
    (aligned,) = commits.list_of_two_scans(scans, ALIGNED)
    right = survivors(scans)
    (aligned.arrays / ("0" * 32)).mkdir()
    left = scans / "arrays.zarr" / f"{ALIGNED}{'0' * 32}"
    left.mkdir()
    keep(scans, BEFORE)
    assert not left.exists()
    assert not (aligned.arrays / ("0" * 32)).exists()
    assert survivors(scans) == right
