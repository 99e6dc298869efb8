"""A scan is killed at random moments, again and again, until it is done.

A few times in every run and 50 times with `--campaigns=full`; `pytest -m faults --kills 1000` is longer.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from made import tiny
from made.campaigns import in_full
from made.crashing import KILL, Fault, Server
from oracles import survival
from oracles.tally import Tally

WHOLE = "select count(*) from tensors where model = 'new' and status = 'ok'"
pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as found:
        yield found


@pytest.mark.parametrize(
    "replacing",
    [
        in_full(False, id="a first scan"),
        pytest.param(True, id="one that replaces another"),
    ],
)
def test_a_run_killed_at_random_moments_is_continued_to_the_bit(
    replacing: bool, server: Server, tmp_path: Path, kills: int, tally: Tally
) -> None:
    rival = tiny.llama(tmp_path / "rival" / "new", seed=7) if replacing else None
    options = ("--spectra", "heads,full", *(("--replace",) if replacing else ()))
    trial = survival.prepare(server, tmp_path, tiny.llama(tmp_path / "new"), *options, rival=rival)
    moments, left, store, log = random.Random(2026), kills // 2, tmp_path / "scans", tmp_path / "log"
    while left:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(trial.before, store)
        code = -9
        while code == -9 and left:
            fault = Fault(KILL, seconds=moments.uniform(0.01, 0.6))
            code = survival.disturbed(server, trial, store, log, fault, tally).code
            tally(kills=int(code == -9))
            left -= code == -9
            if replacing and left % 4 == 0:
                # the old scan or the new one, whole in any case
                assert server.run(["catalog", "--rebuild", "--store", str(store)], log).code == 0
                assert survival.answer(store, WHOLE) == 16
        if code == -9:
            survival.resume(server, trial, store, log, tally)
        survival.be_equal(trial, store, tally)
