"""A small scan is killed at its n-th write, rename, sync or removal, or its disk is full or fails there.

At a few of them in every run and at every 24th with `--campaigns=full`; `pytest -m faults --every 1` takes each in
turn, which is a quarter of an hour.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from made.campaigns import in_full
from made.crashing import BROKEN, FULL, KILL, TORN, Fault, Server
from oracles import survival
from oracles.tally import Tally

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as found:
        yield found


@pytest.fixture(
    scope="module",
    params=[
        in_full(False, id="a first scan"),
        pytest.param(True, id="one that replaces another"),
    ],
)
def trial(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> survival.Trial:
    folder = tmp_path_factory.mktemp("faults")
    options = ("--replace",) if request.param else ()
    rival = survival.small(folder / "rival" / "new", seed=1) if request.param else None
    return survival.prepare(server, folder, survival.small(folder / "new"), *options, rival=rival)


def places(trial: survival.Trial, every: int) -> range:
    """Events of a run at which a fault strikes, in the middle of every so many."""
    assert trial.events > 150
    return range(1 + every // 2, trial.events + 1, every)


def test_a_run_killed_at_any_write_or_rename_is_continued_to_the_bit(
    server: Server, trial: survival.Trial, tmp_path: Path, every: int, tally: Tally
) -> None:
    for at, kind in zip(places(trial, every), cycle((TORN, KILL)), strict=False):
        store = tmp_path / f"scans-{at}"
        shutil.copytree(trial.before, store)
        ended = survival.disturbed(server, trial, store, tmp_path / "log", Fault(kind, at), tally)
        # two threads may both make a folder, or one: a run can have an event less than the one that was counted
        assert ended.code == -9 or ended.events < at
        tally(kills=int(ended.code == -9))
        survival.resume(server, trial, store, tmp_path / "log", tally)
        shutil.rmtree(store)


@pytest.mark.parametrize(("kind", "said"), [(FULL, "No space left on device"), (BROKEN, "Input/output error")])
def test_a_disk_that_is_full_or_fails_at_any_write_is_said_and_survived(
    kind: str, said: str, server: Server, trial: survival.Trial, tmp_path: Path, every: int, tally: Tally
) -> None:
    for at in places(trial, 2 * every):
        store = tmp_path / f"scans-{at}"
        shutil.copytree(trial.before, store)
        ended = survival.disturbed(server, trial, store, tmp_path / "log", Fault(kind, at), tally)
        tally(write_faults=1)
        if ended.code:  # a removal that fails, or a mkdir of what is there, harms nobody
            assert (ended.code, ended.output.count("Error: ")) == (9, 1), (at, ended)
            assert f"scans-{at}' cannot be written ({said}): see to what stands in the way" in ended.output
        survival.resume(server, trial, store, tmp_path / "log", tally)
        shutil.rmtree(store)
