"""Memory that is asked for is enough, and memory that is planned is neither less than what is taken nor much more."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import click
import numpy as np
import pytest

import shardscan
from made import tiny
from made.commands import ingest
from made.page_cache import evict
from shardscan import machine
from shardscan.cli.options import Size
from shardscan.errors import OptionError
from shardscan.jobs.scan.options import Resources, ScanOptions
from shardscan.jobs.scan.prepare import prepare
from shardscan.plan import scan_budget as budget
from shardscan.reduce.kernels import cpu

MB = 10**6


def sparse(folder: Path, *shape: int) -> Path:
    """A checkpoint of one bfloat16 matrix of zeros, whose file takes no room."""
    folder.mkdir()
    header = json.dumps({"w.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * shape[0] * shape[1]]}})
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header.encode())
        file.truncate(8 + len(header) + 2 * shape[0] * shape[1])
    return folder


def filled(folder: Path, rows: int, cols: int) -> Path:
    """The same with values, a run of them again and again: zeros would leave out what it takes to store statistics.

    It is not in the page cache, so that blocks take the buffers that they are planned with.
    """
    file = sparse(folder, rows, cols) / "model.safetensors"
    run = (np.random.default_rng(0).standard_normal(1 << 20, np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    with file.open("r+b") as stream:
        left = 2 * rows * cols
        stream.seek(-left, os.SEEK_END)
        while left:
            left -= stream.write(run[:left])
    evict(file)
    return folder


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Kernels in the cache: a process that compiles them takes more, and is planned to."""
    folder = tmp_path_factory.mktemp("compiled")
    shardscan.ingest(tiny.llama(folder / "tiny"), folder / "scans", spectra="heads,full")


def test_a_process_that_compiles_is_planned_with_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.llama(tmp_path / "tiny")
    before = planned(model)
    monkeypatch.setattr(cpu, "compiled", lambda: False)
    assert planned(model).peak - before.peak == budget.COMPILING


def planned(
    model: Path, options: ScanOptions | None = None, workers: int | None = None, memory_limit: int | None = None
) -> budget.Budget:
    """What a whole scan takes."""
    prepared = prepare(model, options, resources=Resources.within(workers, memory_limit))
    return prepared.budget(prepared.plan)


@pytest.mark.parametrize(
    ("shape", "spectra", "limit"),
    [
        pytest.param((100_000, 4096), "none", "260MB", id="statistics"),
        pytest.param((200_000, 1024), "full", "300MB", id="a whole matrix", marks=pytest.mark.full_only),
    ],
)
def test_a_tensor_larger_than_the_memory_is_scanned_in_it(
    tmp_path: Path, shape: tuple[int, int], spectra: str, limit: str
) -> None:
    model = filled(tmp_path / "large", *shape)
    options = (model, "--store", tmp_path / "scans", "--spectra", spectra, "--memory", limit)
    planned = ingest(*options, "--dry-run")["peak_memory"]
    measured = ingest(*options)["peak_memory"]
    room = Size().convert(limit, None, None)
    assert 2 * shape[0] * shape[1] > room
    assert measured <= planned <= room
    assert planned <= 1.5 * measured


def test_what_does_not_fit_says_what_it_needs_before_it_starts(tmp_path: Path) -> None:
    model = sparse(tmp_path / "wide", 8192, 8192)
    with pytest.raises(OptionError, match=r"this scan needs \d{3} MB of memory and may take 512 MB: allow more"):
        shardscan.ingest(model, tmp_path / "scans", spectra="full", memory_limit=512 * MB)
    assert not (tmp_path / "scans").exists()


def test_listing_a_checkpoint_needs_no_room(tmp_path: Path) -> None:
    resources = Resources.within(memory_limit=budget.LEAST)
    prepare(sparse(tmp_path / "huge", 40_000, 40_000), ScanOptions(spectra="full"), resources=resources)


def test_less_than_the_least_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="take at least 219 MB"):
        shardscan.ingest(tiny.llama(tmp_path / "tiny"), tmp_path / "scans", memory_limit=budget.LEAST - 1)


def test_memory_decides_how_many_workers_run(tmp_path: Path) -> None:
    model = sparse(tmp_path / "large", 100_000, 4096)
    many, few = (planned(model, workers=64, memory_limit=limit) for limit in (2000 * MB, 350 * MB))
    assert many.workers == 64
    assert 1 <= few.workers < 64
    assert few.peak <= 350 * MB
    one_more = budget.budget_scan(prepare(model).plan, prepare(model).anatomy, few.workers + 1, False, False)
    assert one_more.peak > 350 * MB


def test_exact_spectra_are_planned_with_what_qr_needs(tmp_path: Path) -> None:
    model = sparse(tmp_path / "wide", 4096, 4096)
    gram, exact = (planned(model, ScanOptions("full", exact)).matrices for exact in (False, True))
    assert exact - gram == 7 * 8 * 4096**2


def test_what_is_free_is_no_more_than_the_machine_has() -> None:
    free = machine.available_memory()
    if free is None:
        pytest.skip("this system does not say how much memory is free")
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < free <= int(total.split()[1]) * 1024


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("512MB", 512 * MB), ("4gb", 4000 * MB), ("2GiB", 2**31), ("1.5 GB", 1500 * MB), ("700000000", 700 * MB)],
)
def test_sizes_have_units(text: str, nbytes: int) -> None:
    assert Size().convert(text, None, None) == nbytes


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "5 apples", "MB", "1e9", "1" * 30])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size: write 512MB"):
        Size().convert(text, None, None)
