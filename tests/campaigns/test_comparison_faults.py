"""A comparison, or the keeping of alignments, is killed at its n-th write, rename, sync or removal, or a disk fails.

Four times as often as a scan is in `test_faults`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from made import compared
from made.campaigns import in_full
from made.crashing import BROKEN, FULL, KILL, TORN, Ended, Fault, Server
from oracles import survival
from oracles.tally import Tally
from shardscan.catalog import build as catalog
from shardscan.store.lock import writing_store

pytestmark = pytest.mark.faults
KINDS = pytest.mark.parametrize(
    "kinds",
    [pytest.param((KILL, TORN), id="killed"), in_full((FULL,), id="full"), in_full((BROKEN,), id="failing")],
)
WHOLE = "select count(*) from tensor_diffs where status = 'ok'"


@dataclass(frozen=True)
class Trial:
    """Two models, their store before they were compared, and what an undisturbed comparison leaves in it."""

    models: tuple[Path, Path]
    before: Path
    files: Mapping[str, str]
    tables: Mapping[str, list[object]]
    events: int


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as found:
        yield found


def places(trial: Trial, kinds: tuple[str, ...], every: int) -> Iterator[tuple[int, str]]:
    """Events of a run at which a fault strikes, from its first to its last, and which fault it is."""
    many = -(-trial.events // max(1, every // 4))
    events = np.linspace(1, trial.events, max(2, many)).round().astype(int).tolist()
    return zip(events, cycle(kinds), strict=False)


def be_survived(ended: Ended, kind: str, store: Path, tally: Tally) -> None:
    """After a run with a fault the last catalog answers, and nobody has seen a traceback."""
    tally(
        kills=int(ended.code == -9),
        write_faults=int(kind in (FULL, BROKEN)),
        tracebacks=int("Traceback" in ended.output),
    )
    assert "Traceback" not in ended.output, ended.output
    assert ended.code in ((-9, 0) if kind in (KILL, TORN) else (9, 0)), ended.output
    assert survival.answer(store, "select count(*) from models") == 2


def compare(server: Server, models: tuple[Path, Path], store: Path, log: Path, fault: Fault | None = None) -> Ended:
    return server.run([*map(str, models), str(store)], log, fault, command="made.compared:main")


def keep(server: Server, store: Path, log: Path, fault: Fault | None = None) -> Ended:
    return server.run([str(store)], log, fault, command="made.compared:main_keeping")


@pytest.fixture(
    scope="module",
    params=[
        in_full([], id="first"),
        pytest.param(compared.BEFORE, id="others before"),
    ],
)
def keeping(
    request: pytest.FixtureRequest, server: Server, two_scans: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    """Likewise of keeping alignments, the first of two scans or in the place of others."""
    folder = tmp_path_factory.mktemp("alignments")
    before = shutil.copytree(two_scans, folder / "before")
    with writing_store(before):
        compared.keep(before, request.param)
        catalog.build(before)
    after = shutil.copytree(before, folder / "after")
    ended = keep(server, after, folder / "log")
    assert ended.code == 0, ended.output
    return Trial(compared.models_of(two_scans), before, survival.files(after), survival.tables(after), ended.events)


@pytest.fixture(scope="module")
def trial(server: Server, two_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    folder, models = tmp_path_factory.mktemp("comparison"), compared.models_of(two_scans)
    shutil.copytree(two_scans, folder / "before")
    after = shutil.copytree(folder / "before", folder / "after")
    ended = compare(server, models, after, folder / "log")
    assert ended.code == 0, ended.output
    assert survival.answer(after, WHOLE) == 9
    return Trial(models, folder / "before", survival.files(after), survival.tables(after), ended.events)


@KINDS
def test_a_disturbed_comparison_is_continued_to_the_bit(
    kinds: tuple[str, ...], server: Server, trial: Trial, tmp_path: Path, every: int, tally: Tally
) -> None:
    assert trial.events > 20
    log = tmp_path / "log"
    for at, kind in places(trial, kinds, every):
        store = shutil.copytree(trial.before, tmp_path / f"scans-{at}")
        ended = compare(server, trial.models, store, log, Fault(kind, at))
        be_survived(ended, kind, store, tally)
        committed = survival.commits(store)
        again = compare(server, trial.models, store, log)
        assert again.code == 0, again.output
        now = survival.commits(store)
        assert all(now[path] == stamp for path, stamp in committed.items())  # nothing was done twice
        lost = int(survival.files(store) != trial.files or survival.tables(store) != trial.tables)
        tally(lost=lost)
        assert not lost, sorted(trial.files.items() ^ survival.files(store).items())
        shutil.rmtree(store)


@KINDS
def test_alignments_are_those_before_or_those_after(
    kinds: tuple[str, ...], server: Server, keeping: Trial, tmp_path: Path, every: int, tally: Tally
) -> None:
    held = compared.kept(keeping.before), compared.kept(keeping.before.with_name("after"))
    log, seen = tmp_path / "log", set()
    for at, kind in places(keeping, kinds, every):
        store = shutil.copytree(keeping.before, tmp_path / f"scans-{at}")
        ended = keep(server, store, log, Fault(kind, at))
        be_survived(ended, kind, store, tally)
        seen.add(held.index(compared.kept(store)))
        assert keep(server, store, log).code == 0
        lost = int(survival.files(store) != keeping.files or survival.tables(store) != keeping.tables)
        tally(lost=lost)
        assert not lost, sorted(keeping.files.items() ^ survival.files(store).items())
        shutil.rmtree(store)
    assert seen == {0, 1}
