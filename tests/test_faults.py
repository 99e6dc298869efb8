"""A small scan is killed at its n-th write, rename or sync, or its disk is full or fails from then on.

By default at every few of them; `pytest -m faults --every 1` takes each in turn, which is several minutes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import survival
from crashing import BROKEN, FULL, KILL, TORN, Fault, Server

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as found:
        yield found


@pytest.fixture(scope="module")
def trial(server: Server, tmp_path_factory: pytest.TempPathFactory) -> survival.Trial:
    folder = tmp_path_factory.mktemp("faults")
    return survival.prepare(server, folder, survival.small(folder / "new"))


def places(trial: survival.Trial, every: int) -> range:
    """Events of a run at which a fault strikes."""
    assert trial.events > 150
    return range(1, trial.events + 1, every)


def test_a_run_killed_at_any_write_or_rename_is_continued_to_the_bit(
    server: Server, trial: survival.Trial, tmp_path: Path, every: int, record_property: Callable[[str, object], None]
) -> None:
    kills = 0
    for at in places(trial, every):
        store = tmp_path / f"scans-{at}"
        shutil.copytree(trial.before, store)
        ended = survival.disturbed(server, trial, store, tmp_path / "log", Fault(TORN if at % 2 else KILL, at))
        assert ended.code == -9
        survival.resume(server, trial, store, tmp_path / "log")
        shutil.rmtree(store)
        kills += 1
    record_property("kills", kills)


@pytest.mark.parametrize(("kind", "said"), [(FULL, "No space left on device"), (BROKEN, "Input/output error")])
def test_a_disk_that_is_full_or_fails_at_any_write_is_said_and_survived(
    kind: str,
    said: str,
    server: Server,
    trial: survival.Trial,
    tmp_path: Path,
    every: int,
    record_property: Callable[[str, object], None],
) -> None:
    faults = 0
    for at in places(trial, every):
        store = tmp_path / f"scans-{at}"
        shutil.copytree(trial.before, store)
        ended = survival.disturbed(server, trial, store, tmp_path / "log", Fault(kind, at))
        if ended.code or kind == FULL:  # one failing mkdir of a folder that is there harms nobody
            assert (ended.code, ended.output.count("Error: ")) == (9, 1), (at, ended)
            assert f"scans-{at}' cannot be written ({said}): see to what stands in the way" in ended.output
        survival.resume(server, trial, store, tmp_path / "log")
        shutil.rmtree(store)
        faults += 1
    record_property("write faults", faults)
