"""The options of a job: what a value of them refuses when it is made, what it decides, and that commands hand it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shardscan import machine
from shardscan.cli import main
from shardscan.errors import OptionError, ShardscanError
from shardscan.jobs.scan.options import Reading, Resources, ScanOptions
from shardscan.plan.products import FULL, HEADS, STATS
from shardscan.plan.scan_budget import LEAST
from shardscan.plan.workers import most_workers

MB = 10**6


@pytest.mark.parametrize("spectra", ["", "some", "heads,", "heads,some", "none,heads", "Heads"])
def test_words_that_are_no_spectra_are_refused(spectra: str) -> None:
    with pytest.raises(OptionError, match="is no choice of spectra: take none, or some of none, heads, full, circuits"):
        ScanOptions(spectra=spectra)


def test_the_products_are_those_of_all_words() -> None:
    assert ScanOptions(spectra="none").products == {STATS}
    assert {STATS, HEADS, FULL} < ScanOptions(spectra="heads, full").products


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers: int) -> None:
    with pytest.raises(OptionError, match=f"{workers} workers do no work"):
        Resources.within(workers=workers)


def test_less_memory_than_any_scan_takes_is_refused() -> None:
    with pytest.raises(OptionError, match="of memory are too few for any scan"):
        Resources.within(memory_limit=LEAST - 1)
    assert Resources.within(memory_limit=LEAST).memory == LEAST


@pytest.mark.parametrize(("available", "memory"), [(10 * MB, 5 * MB), (None, None)])
def test_half_of_what_is_free_may_be_taken_where_nobody_says(
    available: int | None, memory: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: available)
    assert Resources.within() == Resources(machine.processors(), memory, None)


def test_more_than_may_be_taken_is_refused_in_one_sentence() -> None:
    resources = Resources(1, 100 * MB, 1000)
    resources.check_memory("this scan needs", 100 * MB)
    resources.check_bytes("this scan", 1000)
    with pytest.raises(
        OptionError, match=r"^this scan needs 101 MB of memory and may take 100 MB: .* --memory, or x\.$"
    ):
        resources.check_memory("this scan needs", 100 * MB + 1, ", or x")
    with pytest.raises(OptionError, match=r"^this scan would read 1,001 bytes and may read 1,000: .* --max-bytes\.$"):
        resources.check_bytes("this scan", 1001)


def test_where_nothing_is_limited_nothing_is_refused() -> None:
    resources = Resources(1, None, None)
    resources.check_memory("this scan needs", 1 << 60)
    resources.check_bytes("this scan", 1 << 60)


@dataclass(frozen=True)
class Linear:
    """A budget of 10 bytes and 5 for each worker."""

    workers: int

    @property
    def peak(self) -> int:
        return 10 + 5 * self.workers


@pytest.mark.parametrize(("memory", "workers"), [(None, 8), (1000, 8), (50, 8), (49, 7), (20, 2), (15, 1), (1, 1)])
def test_as_many_workers_run_as_there_is_memory_for_and_at_least_one(memory: int | None, workers: int) -> None:
    assert most_workers(Linear, 8, memory) == Linear(workers)


def test_a_command_hands_on_what_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []

    def take(*values: Any, **named: Any) -> None:
        taken.extend((*values, named))
        raise ShardscanError("enough")

    monkeypatch.setattr("shardscan.jobs.scan.prepare.prepare", take)
    words = "ingest m --name n --family f --family g --spectra full --exact --blas-threads 3 --channels none --io read"
    words += " --pickled-module --workers 5 --memory 1GB --max-bytes 7"
    CliRunner().invoke(main, words.split(), catch_exceptions=False)
    assert taken == [
        "m",
        ScanOptions("full", exact=True, blas_threads=3, channels="none"),
        Reading("read", pickled_module=True, family_files=("f", "g")),
        Resources(5, 1000 * MB, 7),
        {"name": "n"},
    ]
