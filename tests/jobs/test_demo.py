"""The demo: what a seed plants is found by SQL, a second run continues, and a person can read it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

import shardscan
from shardscan.cli import main
from shardscan.cli.frame import INCOMPLETE
from shardscan.cli.prints.demo import tabulate_facts
from shardscan.errors import StoreError
from shardscan.jobs import demo

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
Found = dict[int, list[demo.Fact]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    """The facts of every seed; the checkpoints share a store."""
    return {seed: demo.run_demo(folder, seed)[0] for seed in SEEDS}


@pytest.mark.parametrize("seed", SEEDS)
def test_every_planted_fact_is_found(seed: int, found: Found) -> None:
    assert len(found[seed]) == 4
    assert {fact.planted: fact.values for fact in found[seed]} == {fact.planted: fact.expected for fact in found[seed]}
    assert all(fact.found for fact in found[seed])


def test_the_seed_says_where_the_facts_are(found: Found) -> None:
    for planted in range(3):
        assert len({str(found[seed][planted].expected) for seed in SEEDS}) == len(SEEDS)
    assert demo.choose_plants(1) == demo.choose_plants(1)


def test_a_fact_that_is_elsewhere_or_nowhere_is_not_found() -> None:
    fact = demo.Fact("a dead row", "select 3", [(3,)])
    assert not fact.found
    assert not demo.Fact("a dead row", "select 4", [(3,)], pa.table({"row": [4]})).found
    assert not demo.Fact("a dead row", "select 3", [(3,)], pa.table({"row": [3, 3]})).found
    assert demo.Fact("a dead row", "select 3", [(3,)], pa.table({"row": [3]})).found


def test_a_second_run_continues_and_the_seeds_share_a_store(folder: Path, found: Found) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    looked, store = demo.run_demo(folder, 0)
    assert all(fact.found for fact in looked)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    with shardscan.connect(store) as connection:
        runs = connection.sql("select model, count(*) from runs group by model order by model").fetchall()
    assert runs == [(f"demo-{seed}", 1) for seed in SEEDS]


def test_a_checkpoint_half_written_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "demo-7").mkdir()
    (tmp_path / "demo-7" / "model-00001-of-00002.safetensors").write_bytes(b"half")
    assert all(fact.found for fact in demo.run_demo(tmp_path, 7)[0])


@pytest.mark.parametrize("own", [(), ("demo-0",), ("scans", "demo-0")])
def test_a_folder_with_anything_else_is_refused_and_left_alone(own: tuple[str, ...], tmp_path: Path) -> None:
    for name in (*own, "thesis"):
        (tmp_path / name).mkdir()
    with pytest.raises(StoreError, match="holds something else, such as 'thesis': name a folder that is new"):
        demo.run_demo(tmp_path, 0)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted((*own, "thesis"))


def test_a_store_of_somebodys_own_is_not_a_demos(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    with pytest.raises(StoreError, match="holds something else, such as 'scans'"):
        demo.run_demo(tmp_path, 0)


def test_the_command_prints_a_row_for_every_fact(folder: Path, found: Found) -> None:
    done = CliRunner().invoke(main, ["demo", str(folder), "--seed", "1", "--format", "json"])
    rows = json.loads(done.stdout)
    assert done.exit_code == 0, done.stderr
    assert [row["planted"] for row in rows] == [fact.planted for fact in found[1]]
    assert all(row["as_planted"] is True and "\n" not in row["sql"] for row in rows)
    assert f"shardscan ask outliers --store {folder / 'scans'}" in done.stderr


def test_the_sql_of_a_row_gives_what_the_row_says(folder: Path, found: Found) -> None:
    row = tabulate_facts(found[2]).to_pylist()[2]
    done = CliRunner().invoke(main, ["sql", row["sql"], "--store", str(folder / "scans")])
    dead = [json.loads(line) for line in done.stdout.splitlines()]
    assert ", ".join("{layer} {role} {channel}".format(**channel) for channel in dead) == row["found"]


def test_a_fact_that_is_not_found_ends_in_its_own_exit_code(
    folder: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "list_facts", lambda planted, model: [demo.Fact("a lie", "select 1 as one", [(2,)])])
    done = CliRunner().invoke(main, ["demo", str(folder)])
    assert (done.exit_code, json.loads(done.stdout)["as_planted"]) == (INCOMPLETE, False)


def test_a_person_sees_each_fact_with_its_sql_and_its_rows(folder: Path, found: Found) -> None:
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "shardscan", "demo", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(terminal), b"")).decode()
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in shown.splitlines()]
    assert process.returncode == 0
    for fact in found[0]:
        start = lines.index(f"Planted: {fact.planted}: found by")
        sql = [f"    {line}" for line in fact.sql.splitlines()]
        assert lines[start + 1 : start + 1 + len(sql)] == sql
        table = lines[start + len(sql) + 4 :][: len(fact.expected)]
        assert [line.split() for line in table] == [[str(value) for value in row] for row in fact.expected]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side of a terminal is closed
        return b""
