"""One bad tensor costs only itself: it has a row, a status and a reason, the exit code says so, all else is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import shardscan
from made import tiny
from shardscan.cli import main
from shardscan.reduce.kernels import cpu

NAN, INF = float("nan"), float("inf")
SHAPE = (tiny.HEADS * tiny.HEAD_DIM, tiny.HIDDEN)


def query(store: Path, sql: str) -> list[tuple[object, ...]]:
    with shardscan.connect(store) as connection:
        return connection.sql(sql).fetchall()


def name_of(layer: int) -> str:
    return f"model.layers.{layer}.self_attn.q_proj.weight"


def model(folder: Path, *layers: np.ndarray, **others: np.ndarray) -> Path:
    """A checkpoint with a q_proj of four heads in each layer, and other tensors."""
    return tiny.write(folder, {name_of(i): layer for i, layer in enumerate(layers)} | others, tiny.CONFIG)


def plain(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE, np.float32)


def planted(value: float) -> np.ndarray:
    found = plain()
    found[3, 4] = value
    return found


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers: all NaN, one NaN, one infinity, all zero, large, plain; a scalar NaN, an infinite norm, no values."""
    folder = tmp_path_factory.mktemp("bad")
    full = [np.full(SHAPE, value, np.float32) for value in (NAN, 0.0, 3e38)]
    model(
        folder / "bad", full[0], planted(NAN), planted(INF), full[1], full[2], plain(),
        scalar=np.full((), NAN, np.float32), norm=np.full(7, -INF, np.float32), empty=np.zeros((0, 5), np.float32),
    )  # fmt: skip
    return folder


def test_what_has_no_finite_value_is_degenerate_and_all_else_is_done(bad: Path) -> None:
    words = ["ingest", str(bad / "bad"), "--store", str(bad / "scans"), "--spectra", "heads,full", "--format", "json"]
    first = CliRunner().invoke(main, words)
    assert (first.exit_code, json.loads(first.stdout)[0]["failed"]) == (8, 3)
    assert f"Failed: '{name_of(0)}': none of its 512 values is finite.\n" in first.stderr
    assert "Failed: 'norm': none of its 7 values is finite.\n" in first.stderr
    assert "Failed: 'scalar': its value is not finite.\n" in first.stderr
    statuses = query(bad / "scans", "select tensor, status from tensors where status <> 'ok' order by tensor")
    assert statuses == [(name, "degenerate") for name in (name_of(0), "norm", "scalar")]
    again = CliRunner().invoke(main, words)
    assert (again.exit_code, json.loads(again.stdout)[0]["bytes_read"]) == (8, 0)


def test_their_counts_are_kept_and_their_values_are_null(bad: Path) -> None:
    shardscan.ingest(bad / "bad", bad / "scans", spectra="heads,full")
    sql = "select nans, infs, zeros, mean, absmax from tensors where status = 'degenerate' order by tensor"
    nothing = (0, None, None)
    assert query(bad / "scans", sql) == [(512, 0, *nothing), (0, 7, *nothing), (1, 0, *nothing)]
    assert query(bad / "scans", "select count(*) from tensors") == [(9,)]


def test_every_spectrum_has_values_or_a_reason(bad: Path) -> None:
    shardscan.ingest(bad / "bad", bad / "scans", spectra="heads,full")
    sql = "select layer, count(sigma_max), count(reason) from spectra where head is not null group by layer order by 1"
    heads = tiny.HEADS
    # a bad value costs the one head that it is in
    assert query(bad / "scans", sql) == [
        (0, 0, heads), (1, heads - 1, 1), (2, heads - 1, 1), (3, heads, 0), (4, heads, 0), (5, heads, 0)
    ]  # fmt: skip
    whole = "select layer from spectra where head is null and reason is not null order by layer"
    assert query(bad / "scans", whole) == [(0,), (1,), (2,)]


def test_lapack_that_fails_on_one_tensor_fails_that_one_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model(tmp_path / "model", plain(1), plain(2), plain(3))
    solve, calls = cpu.gram_spectra, list[int]()

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        return solve(*arguments)

    monkeypatch.setattr(cpu, "gram_spectra", failing)
    done = shardscan.ingest(folder, tmp_path / "scans", workers=1)
    ((failed, why),) = done.failures.items()
    assert why == "Eigenvalues did not converge"
    statuses = query(tmp_path / "scans", "select tensor, status from tensors order by tensor")
    assert statuses == [(name_of(i), "failed" if name_of(i) == failed else "ok") for i in range(3)]
    again = shardscan.ingest(folder, tmp_path / "scans")
    assert (again.tasks, again.bytes_read, again.failures) == (1, plain().nbytes, {})


def test_a_degenerate_tensor_does_not_keep_a_replacement_from_taking_over(tmp_path: Path) -> None:
    for folder, layer in (("a", plain()), ("b", np.full(SHAPE, NAN, np.float32))):
        shardscan.ingest(model(tmp_path / folder / "model", layer), tmp_path / "scans", replace=True)
    assert query(tmp_path / "scans", "select status from tensors") == [("degenerate",)]


def test_many_failures_are_counted_after_the_first_twenty(tmp_path: Path) -> None:
    nothing = {f"norm{i}.weight": np.full(3, NAN, np.float32) for i in range(25)}
    folder = tiny.write(tmp_path / "model", nothing)
    done = CliRunner().invoke(main, ["ingest", str(folder), "--store", str(tmp_path / "scans")])
    assert (done.exit_code, done.stderr.count("Failed: ")) == (8, 20)
    assert "And 5 more: `tensors.reason` and `spectra.reason` say why." in done.stderr
