"""Disks that are really full: a file system of a few hundred kB, made for the test where the system allows it."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shardscan
from made import tiny
from made.campaigns import in_full
from oracles import survival
from oracles.tally import Tally

pytestmark = pytest.mark.faults
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
SCRIPT = """
mount -t tmpfs -o size=100m none "$1" && cp -r "$2" "$1/scans" && used=$(du -sk "$1" | cut -f1) || exit 99
mount -o remount,size=$((used + $4))k "$1"
"$0" -m shardscan ingest "$3" --store "$1/scans"; code=$?
"$0" -m shardscan sql "select count(*) as n from tensors where model = 'old'" --store "$1/scans" || exit 98
mount -o remount,size=100m "$1"
"$0" -m shardscan ingest "$3" --store "$1/scans" || exit 97
"$0" -m shardscan sql "select count(*) as n from tensors where mean is not null" --store "$1/scans" || exit 96
exit $code
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llama(tmp_path_factory.mktemp("new") / "new")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    shardscan.ingest(tiny.llama(folder / "old", inner=(8,)), folder / "scans")
    return folder / "scans"


@pytest.mark.parametrize("room", [in_full(8), 200, in_full(600), in_full(1200)])
def test_a_full_disk_is_said_the_last_catalog_answers_and_room_is_all_it_takes(
    room: int, small: Path, before: Path, tmp_path: Path, tally: Tally
) -> None:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a disk of their own")
    words = [*NAMESPACE, "sh", "-c", SCRIPT, sys.executable, *map(str, (tmp_path, before, small, room))]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 9, ended.stderr
    assert "cannot be written (" in ended.stderr
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [line for line in ended.stdout.splitlines() if line.startswith('{"n"')] == ['{"n": 9}', '{"n": 25}']
    tally(write_faults=1)


@pytest.mark.parametrize("limit", [in_full(100_000), in_full(500_000)])
def test_a_catalog_that_does_not_fit_is_said_and_leaves_the_one_before(
    limit: int, small: Path, before: Path, tmp_path: Path, tally: Tally
) -> None:
    """A limit on the size of a file, which DuckDB meets in its own writes."""
    shutil.copytree(before, tmp_path / "scans")
    ended = subprocess.run(
        [sys.executable, "-m", "shardscan", "ingest", str(small), "--store", "scans"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert ended.returncode == 9, ended.stderr
    assert "'scans' cannot be written (" in ended.stderr
    assert "File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert survival.answer(tmp_path / "scans", "select count(*) from tensors") == 9
    assert shardscan.ingest(small, tmp_path / "scans").bytes_read == 0
    assert survival.answer(tmp_path / "scans", "select count(*) from tensors") == 25
    tally(write_faults=1)
