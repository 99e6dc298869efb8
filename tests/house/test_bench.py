"""The benchmark's cheapest rows on tiny inputs, and how rows are judged and recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import _merged
from bench.measure import Failed, in_turn, middle, run
from bench.row import Context, Goal, Row, memory_of, versus
from bench.rows import ROWS
from shardscan.reduce import devices

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.full_only
def test_quick_rows_find_what_was_planted_and_land_in_the_table_and_the_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--scratch", str(tmp_path), "--rows", "ingest-8b", "disk-8b"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "ingest-8b" in done.stdout
    rows = {row["row"]: row for row in json.loads((tmp_path / "quick.json").read_text("utf-8"))["rows"]}
    assert set(rows) == {"ingest-8b", "disk-8b"}
    ingest = rows["ingest-8b"]
    assert ingest["details"]["planted"] == {
        "loud row": [276],
        "dead row": [41],
        "low-rank head": [1],
        "NaN": [1],
        "no other NaN": [],
    }
    assert ingest["ours"] > 0 and ingest["theirs"] > 0 and ingest["ours_mb"] > 50
    assert (ingest["at_least"], ingest["aim"]) == (0.4, 0.8)
    assert ingest["at_least_met"] is None  # tiny inputs are not judged
    assert ingest["when"] and ingest["processor"]


def test_an_unknown_row_is_refused_with_the_names_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--rows", "nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "ingest-8b" in done.stderr


def test_a_goal_is_met_from_either_side() -> None:
    assert Goal(2, 5).met(2.0, 2) and not Goal(2, 5).met(1.9, 2)
    assert Goal(450, 300, at_most=True).met(450, 450) and not Goal(450, 300, at_most=True).met(301, 300)
    assert Goal().met(1.0, None) is None
    assert Goal(2).met(None, 2) is False
    assert Row("r", "-", 400, goal=Goal(450, 300, of="ours", at_most=True)).record()["at_least_met"] is True


def test_peak_memory_counts_children_and_failures_say_why() -> None:
    large = "b = bytearray(80 << 20); print(flush=True); import time; time.sleep(900)"
    parent = (
        "import sys, subprocess, time; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=-1); "
        "p.stdout.readline(); time.sleep(1); p.kill(); p.wait()"
    )
    found = run(["-c", parent, large])
    assert found.peak > 80 << 20 or not Path("/proc/self/status").exists()
    with pytest.raises(Failed, match="no such thing"):
        run(["-c", "raise SystemExit('no such thing')"])


def test_sides_run_in_turn_and_give_a_ratio_of_each_round() -> None:
    order: list[str] = []

    def way(name: str, code: str) -> Any:
        def once() -> Any:
            order.append(name)
            return run(["-c", code])

        return once

    ours, theirs = in_turn(2, way("ours", "pass"), way("theirs", "import time; time.sleep(2)"))
    assert order == ["ours", "theirs", "ours", "theirs"]
    row = versus("r", "sleep", ours, theirs, Goal(1.1))
    assert row.ratio and row.ratio > 1.1 and row.record()["at_least_met"]
    assert middle(ours).seconds == row.ours
    assert memory_of(row, 10).row == "r-memory"


def test_rows_are_merged_by_name_and_an_absence_takes_no_number_away() -> None:
    def row(name: str, group: str, ours: float | None, note: str = "") -> dict[str, Any]:
        return {"row": name, "group": group, "ours": ours, "note": note}

    before = [row("channels-torch", "channels", 2.0), row("disk-8b", "disk-8b", 1.0)]
    measured = [row("channels-numpy", "channels", 3.0), row("channels-torch", "channels", None, "no torch")]
    found = {r["row"]: r["ours"] for r in _merged(before, measured)}
    assert found == {"disk-8b": 1.0, "channels-torch": 2.0, "channels-numpy": 3.0}
    assert [r["ours"] for r in _merged(before, [row("disk-8b", "disk-8b", 5.0)]) if r["row"] == "disk-8b"] == [5.0]
    failed = [row("channels", "channels", None, "failed: it was killed")]
    assert [r["note"] for r in _merged(before, failed) if r["group"] == "channels"] == ["failed: it was killed"]
    assert _merged([], [row("channels", "channels", None, "x")])[0]["note"] == "x"
    assert "channels" not in {r["row"] for r in _merged(before, [row("channels", "channels", None)])}


def test_without_a_gpu_its_rows_say_that_they_were_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_cuda_devices", list)
    found = ROWS["gpu"](Context(tmp_path))
    assert [(row.row, row.ours, row.goal.at_least, row.note) for row in found] == [
        ("gpu-torch", None, 2, "not run: no CUDA device"),
        ("gpu-cpu", None, 20, "not run: no CUDA device"),
    ]
    assert not list(tmp_path.iterdir())


def test_the_readme_names_every_row() -> None:
    text = (ROOT / "bench" / "README.md").read_text("utf-8")
    assert [name for name in ROWS if f"`{name}`" not in text] == []
