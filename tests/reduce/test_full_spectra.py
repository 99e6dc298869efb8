"""Spectra of whole matrices against the float64 SVD, and what a scan makes of the ones that cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import shardscan
from made import tiny
from oracles.exactness import solved as solved_whole
from oracles.exactness import tensors_of, the_only, units
from shardscan.plan.products import FULL
from shardscan.reduce import panels, selfcheck
from shardscan.reduce.devices import Solver
from shardscan.reduce.kernels import cpu
from shardscan.reduce.kernels.cpu import lapack
from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.products import Steps, steps_of
from shardscan.reduce.result import Inconsistent, Result
from shardscan.reduce.spectra import METHODS

SHAPES = [(1, 1), (1, 9), (9, 1), (3, 3), (8, 5), (5, 8), (40, 40), (300, 33), (33, 300), (520, 530), (600, 513)]


def solved(folder: Path, w: np.ndarray, code: str = "F32", exact: bool = False) -> tuple[np.ndarray, str]:
    """σ and method of one matrix, through a checkpoint."""
    (unit,) = units(tensors_of(folder, {"w.weight": w}, code), "full").values()
    full = the_only(solved_whole(unit, Solver(exact)), unit).full
    assert full is not None
    return full.sigma[0], METHODS[int(full.methods[0])]


def query(store: Path, sql: str) -> list[tuple[Any, ...]]:
    with shardscan.connect(store) as connection:
        return connection.sql(sql).fetchall()


@pytest.mark.parametrize("panel_bytes", [1, 32 << 20], ids=["many panels", "one panel"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_matrix_of_any_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], panel_bytes: int
) -> None:
    monkeypatch.setattr(panels, "PANEL_BYTES", panel_bytes)
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = np.linalg.svd(w.astype(np.float64), compute_uv=False)
    for exact in (False, True):
        sigma, _ = solved(tmp_path, w, exact=exact)
        np.testing.assert_allclose(sigma, expected, atol=1e-9 * expected[0], rtol=0)


@pytest.mark.parametrize("shape", [(64, 40), (40, 64)], ids=["tall", "wide"])
@pytest.mark.parametrize("code", ["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"])
def test_a_matrix_of_every_float_dtype(tmp_path: Path, code: str, shape: tuple[int, int]) -> None:
    folder = tensors_of(tmp_path, {"w.weight": np.random.default_rng(1).standard_normal(shape)}, code)
    held = shardscan.open(folder)["w.weight"].compute().astype(np.float64)
    sigma, method = solved(tmp_path, held, code)
    expected = np.linalg.svd(held, compute_uv=False)
    assert method == "gram"
    np.testing.assert_allclose(sigma, expected, atol=1e-9 * expected[0], rtol=0)


def test_what_lies_below_the_floor_is_counted_and_exact_redoes_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    left, right = np.linalg.qr(rng.standard_normal((90, 30)))[0], np.linalg.qr(rng.standard_normal((30, 30)))[0]
    expected = np.geomspace(1, 1e-9, 30)
    folder = tensors_of(tmp_path / "w", {"w.weight": (left * expected) @ right.T}, "F64")
    shardscan.ingest(folder, tmp_path / "gram", spectra="full")
    counted = int((expected < 1e-5).sum())
    assert query(tmp_path / "gram", "select method, below_floor from spectra") == [("gram", counted)]
    assert shardscan.ingest(folder, tmp_path / "gram", spectra="full", exact=True).tasks == 1
    assert query(tmp_path / "gram", "select method, below_floor from spectra") == [("qr_svd", 0)]
    assert shardscan.ingest(folder, tmp_path / "gram", spectra="full").tasks == 0
    sigma = [s for (s,) in query(tmp_path / "gram", "select sigma from singular_values order by i")]
    np.testing.assert_allclose(sigma, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_squares_beyond_float64_need_exact(tmp_path: Path, scale: float) -> None:
    w = np.random.default_rng(3).standard_normal((30, 20)) * scale
    sigma, method = solved(tmp_path, w, "F64")
    assert method == "none"
    sigma, method = solved(tmp_path, w, "F64", exact=True)
    assert method == "qr_svd"
    np.testing.assert_allclose(sigma, np.linalg.svd(w / scale, compute_uv=False) * scale, rtol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_costs_its_matrix_alone(tmp_path: Path, bad: float) -> None:
    model = tiny.llama(tmp_path / "tiny")
    w = np.random.default_rng(4).standard_normal((2, 30, 20)).astype(np.float32)
    w[0, 3, 4] = bad
    model = tensors_of(tmp_path / "m", {"a.weight": w[0], "b.weight": w[1]})
    summary = shardscan.ingest(model, tmp_path / "scans", spectra="full", exact=True)
    assert not summary.failures
    found = query(tmp_path / "scans", "select matrix, method, sigma_max, reason from spectra order by matrix")
    assert found[0] == ("a.weight", "none", None, "NaN or infinite values, or squares beyond float64")
    assert found[1][1] == "gram"
    assert query(tmp_path / "scans", "select count(*) from singular_values") == [(20,)]


def test_zeros_have_a_spectrum_of_zeros(tmp_path: Path) -> None:
    sigma, method = solved(tmp_path, np.zeros((30, 20), np.float32))
    assert method == "gram"
    assert (sigma == 0).all()


def test_full_spectra_asked_for_later_add_only_themselves(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    shardscan.ingest(model, tmp_path / "later")
    added = shardscan.ingest(model, tmp_path / "later", spectra="heads,full", blas_threads=2)
    shardscan.ingest(model, tmp_path / "once", spectra="heads,full", workers=1, blas_threads=2)
    weights = [t for t in shardscan.open(model).checkpoint.values() if len(t.shape) == 2]
    assert added.bytes_read == sum(t.nbytes for t in weights)
    assert query(tmp_path / "later", "select count(*) from spectra where head is null") == [(len(weights),)]
    for table in ("spectra", "singular_values", "spectrum_fits", "tensors"):
        sql = f"select * from {table} order by all"
        assert query(tmp_path / "later", sql) == query(tmp_path / "once", sql)
    again = shardscan.ingest(model, tmp_path / "later", spectra="heads,full")
    assert (again.tasks, again.bytes_read) == (0, 0)


def test_every_spectrum_has_the_norm_that_the_statistics_have(tmp_path: Path) -> None:
    shardscan.ingest(tiny.llama(tmp_path / "tiny"), tmp_path / "scans", spectra="heads,full")
    sql = "select count(*) > 10, count(self_check) = count(*), max(self_check) < 1e-12 from spectra"
    assert query(tmp_path / "scans", sql) == [(True, True, True)]


@pytest.mark.parametrize("product", ["heads", "full"])
def test_singular_values_that_miss_the_norm_are_a_failure(tmp_path: Path, product: str) -> None:
    model = tiny.llama(tmp_path / "tiny")
    unit = next(unit for name, unit in units(model, product).items() if "q_proj" in name)
    (matrix,) = unit.matrices
    w = shardscan.open(model)[unit.placed.tensor.name].compute().astype(np.float64)
    channels = np.full((len(CHANNEL_STATISTICS), matrix.rows), np.nan)
    channels[selfcheck.RMS] = np.sqrt((w**2).mean(axis=1))
    result = solved_whole(unit, Solver())
    (outcome,) = result.outcomes.values()
    check = steps_of(FULL, Steps).check
    assert len(check(unit, outcome, lambda *_: channels).of_matrices) == 1
    outcome.of_matrices[0]["full"][0] *= 1 + 1e-6
    with pytest.raises(Inconsistent, match="miss the norm of the weights by"):
        check(unit, outcome, lambda *_: channels)


def test_a_spectrum_that_fails_is_named_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solve = cpu.full_spectrum

    def wrong(panels: Any, n: int) -> np.ndarray:
        return np.asarray(solve(panels, n) * (1.01 if n == 20 else 1.0))

    monkeypatch.setattr(cpu, "full_spectrum", wrong)
    w = np.random.default_rng(5).standard_normal((30, 30)).astype(np.float32)
    model = tensors_of(tmp_path / "m", {"a.weight": w[:, :20], "b.weight": w})
    summary = shardscan.ingest(model, tmp_path / "scans", spectra="full")
    assert list(summary.failures) == ["a.weight"]
    found = query(tmp_path / "scans", "select matrix, method, sigma_max is null, reason from spectra order by matrix")
    assert found == [("a.weight", "none", True, summary.failures["a.weight"]), ("b.weight", "gram", False, None)]
    assert query(tmp_path / "scans", "select distinct spectrum from singular_values") == [("b.weight",)]
    monkeypatch.undo()
    assert shardscan.ingest(model, tmp_path / "scans", spectra="full").tasks == 1
    assert query(tmp_path / "scans", "select count(*) from spectra") == [(2,)]


def test_a_file_that_ends_early_fails_its_tensor_alone(tmp_path: Path) -> None:
    w = np.random.default_rng(6).standard_normal((40, 40)).astype(np.float32)
    (unit,) = units(tensors_of(tmp_path, {"w.weight": w}), "full").values()
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(200)
    result = solved_whole(unit, Solver())
    assert result == Result(failure=result.failure)
    assert "shorter than its header says" in str(result.failure)


def test_without_openblas_numpy_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(7).standard_normal((700, 600))
    panels = [w[:300], w[300:]]
    ours = cpu.full_spectrum(panels, 600)
    monkeypatch.setattr(lapack, "_routine", lambda *_: None)
    np.testing.assert_allclose(cpu.full_spectrum(panels, 600), ours, atol=1e-12 * ours[0], rtol=0)


def test_the_same_threads_give_the_same_bits() -> None:
    w = np.random.default_rng(8).standard_normal((700, 600))
    np.testing.assert_array_equal(cpu.full_spectrum([w], 600), cpu.full_spectrum([w], 600))


@pytest.mark.parametrize(("threads", "most", "expected"), [(1, 8, 1), (2, 8, 2), (2, 2048, 1)])
def test_a_large_matrix_has_the_blas_threads_that_were_asked_for_and_a_small_one_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, most: int, expected: int
) -> None:
    monkeypatch.setattr("shardscan.plan.scan.LARGE_ORDER", most)
    seen: set[int] = set()
    solve = cpu.full_spectrum

    def watched(panels: Any, n: int) -> np.ndarray:
        seen.update(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return solve(panels, n)

    monkeypatch.setattr(cpu, "full_spectrum", watched)
    shardscan.ingest(tiny.llama(tmp_path / "tiny"), tmp_path / "scans", spectra="full", blas_threads=threads)
    assert seen == {expected}
    ((options,),) = query(tmp_path / "scans", "select options ->> 'blas_threads' from runs")
    assert options == str(threads)


@pytest.mark.real
def test_smollm2_agrees_with_the_svd(smollm2: Path) -> None:
    for name, unit in units(smollm2, "full").items():
        if ".7." in name or "embed" in name:
            result = solved_whole(unit, Solver())
            w = shardscan.open(smollm2)[name].compute().astype(np.float64)
            expected = np.linalg.svd(w if len(w) < 10_000 else np.linalg.qr(w, mode="r"), compute_uv=False)
            full = the_only(result, unit).full
            assert full is not None
            np.testing.assert_allclose(full.sigma[0], expected, atol=1e-9 * expected[0], rtol=0)
