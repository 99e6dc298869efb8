"""Spectra of heads against the SVD of each slice: easy heads by Gram matrix, hard ones by QR, impossible ones not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shardscan
from oracles.exactness import Found, packed, result_of, results, shard, tensors_of, units
from oracles.reference import head_singular_values
from shardscan.reduce.kernels import cpu
from shardscan.reduce.spectra import GRAM_FLOOR, METHODS
from shardscan.shards.checkpoint import open as open_checkpoint

LAYOUTS = {"q": "(heads d) m", "k": "(heads d) m", "v": "(heads d) m", "o": "m (heads d)"}
GRAM, QR, NONE = (METHODS.index(name) for name in ("gram", "qr_svd", "none"))


def name_of(role: str, layer: int = 0) -> str:
    return f"model.layers.{layer}.self_attn.{role}_proj.weight"


def config(heads: int, dim: int, kv_heads: int | None = None) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "head_dim": dim,
    }


def scanned(folder: Path, role: str, w: np.ndarray, dim: int, code: str = "F32") -> Found:
    count = w.shape[0 if role != "o" else 1] // dim
    tensors_of(folder, {name_of(role): w}, code, config(count, dim))
    result = results(folder)[name_of(role)]
    assert result.failure is None
    return result


def check(result: Found, w: np.ndarray, dim: int, role: str) -> float:
    """σ within 1e-9·σ₁ of the SVD of each head, and within 1e-6 of itself down to 1e-5·σ₁; the worst of the former."""
    layout = LAYOUTS[role]
    heads = w.shape[0 if role != "o" else 1] // dim
    expected = head_singular_values(w.astype(np.float64), heads, layout)
    assert result.heads is not None
    assert result.heads.sigma.shape == expected.shape
    largest = expected[:, :1]
    errors = np.abs(result.heads.sigma - expected)
    assert (errors <= 1e-9 * largest).all()
    above = expected >= GRAM_FLOOR * largest
    assert (errors[above] <= 1e-6 * expected[above]).all()
    return float((errors / np.where(largest > 0, largest, 1)).max(initial=0.0))


@pytest.mark.parametrize("block_bytes", [1, 16 << 20], ids=["many blocks", "one block"])
@pytest.mark.parametrize(("dim", "other"), [(8, 40), (7, 41), (5, 3), (16, 7), (1, 9), (13, 1), (3, 300)])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("role", LAYOUTS)
def test_heads_of_any_size_along_rows_and_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, heads: int, dim: int, other: int, block_bytes: int
) -> None:
    monkeypatch.setattr("shardscan.plan.blocks.BLOCK_BYTES", block_bytes)
    shape = (other, heads * dim) if role == "o" else (heads * dim, other)
    w = np.random.default_rng(dim).standard_normal(shape).astype(np.float32)
    check(scanned(tmp_path, role, w, dim), w, dim, role)


@pytest.mark.parametrize("code", ["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("role", ["q", "o"])
def test_heads_of_every_float_dtype(tmp_path: Path, role: str, code: str) -> None:
    shape = (64, 100) if role == "q" else (100, 64)
    w = np.random.default_rng(0).standard_normal(shape)
    folder = tensors_of(tmp_path, {name_of(role): w}, code, config(4, 16))
    held = shardscan.open(folder)[name_of(role)].compute()
    check(results(folder)[name_of(role)], held, 16, role)


def test_heads_of_a_packed_dtype_that_begin_within_a_byte(tmp_path: Path) -> None:
    w = np.random.default_rng(1).choice([0.0, 0.5, -1.0, 6.0], (12, 9))
    w[3:6] = w[3]
    folder = shard(tmp_path, {name_of("q"): ("F4", w.shape, packed(w, "F4"))}, config(4, 3))
    result = results(folder)[name_of("q")]
    check(result, w, 3, "q")
    assert result.heads is not None
    assert result.heads.methods.tolist() == [GRAM, QR, GRAM, GRAM]


def test_key_and_value_heads_are_computed_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    shapes = {"q": (6 * 8, 20), "k": (2 * 8, 20), "v": (2 * 8, 20), "o": (20, 6 * 8)}
    tensors = {name_of(role): rng.standard_normal(shape).astype(np.float32) for role, shape in shapes.items()}
    folder = tensors_of(tmp_path, tensors, config=config(6, 8, 2))
    found = results(folder)
    for role in shapes:
        check(found[name_of(role)], tensors[name_of(role)], 8, role)
    heads = {role: units(folder)[name_of(role)].matrices[0].heads for role in shapes}
    assert {role: (h.count, h.queries) for role, h in heads.items() if h} == {
        "q": (6, 1), "k": (2, 3), "v": (2, 3), "o": (6, 1),
    }  # fmt: skip


@pytest.mark.parametrize("role", ["q", "o"])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_head_of_low_rank_is_done_again_by_qr_down_to_its_roundoff(tmp_path: Path, role: str, rank: int) -> None:
    rng = np.random.default_rng(rank)
    w = rng.standard_normal((4 * 16, 90))
    w[16:32] = rng.integers(-8, 8, (16, rank)) @ rng.integers(-8, 8, (rank, 90))  # exact in float32
    w = w.astype(np.float32) if role == "q" else np.ascontiguousarray(w.T, np.float32)
    result = scanned(tmp_path, role, w, 16)
    check(result, w, 16, role)
    assert result.heads is not None
    assert result.heads.methods.tolist() == [GRAM, QR, GRAM, GRAM]
    sigma = result.heads.sigma[1]
    assert (sigma[:rank] > 1e-3 * sigma[0]).all()
    assert (sigma[rank:] <= 100 * np.finfo(float).eps * sigma[0]).all()


@pytest.mark.parametrize("least", [1e-4, 1.2e-5, 1.01e-5, 0.9e-5, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("role", ["q", "o"])
def test_known_spectra_hold_on_both_sides_of_the_floor(tmp_path: Path, role: str, least: float) -> None:
    rng = np.random.default_rng(4)
    expected = np.geomspace(1.0, least, 32)
    left, right = (np.linalg.qr(rng.standard_normal((n, 32)))[0] for n in (32, 200))
    w = (left * expected) @ right.T
    w = w if role == "q" else np.ascontiguousarray(w.T)
    result = scanned(tmp_path, role, w, 32, "F64")
    assert result.heads is not None
    assert result.heads.methods.tolist() == [GRAM if least > GRAM_FLOOR else QR]
    check(result, w, 32, role)
    np.testing.assert_allclose(result.heads.sigma[0], expected, rtol=1e-6 if least > 1e-9 else 1e-3)


@pytest.mark.parametrize("role", ["q", "o"])
def test_a_zero_head_has_zero_singular_values(tmp_path: Path, role: str) -> None:
    w = np.random.default_rng(5).standard_normal((24, 30)).astype(np.float32)
    w[8:16] = 0
    w = w if role == "q" else np.ascontiguousarray(w.T)
    result = scanned(tmp_path, role, w, 8)
    assert result.heads is not None
    assert (result.heads.sigma[1] == 0).all()
    check(result, w, 8, role)


@pytest.mark.parametrize("role", ["q", "o"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("code", ["BF16", "F32", "F64"])
def test_a_head_with_a_value_that_is_not_finite_has_no_spectrum_and_its_neighbours_have_theirs(
    tmp_path: Path, role: str, value: float, code: str
) -> None:
    w = np.random.default_rng(6).integers(-9, 9, (24, 30)).astype(np.float64)
    w[9, 4] = value
    w = w if role == "q" else np.ascontiguousarray(w.T)
    result = scanned(tmp_path, role, w, 8, code)
    assert result.heads is not None
    assert result.heads.methods.tolist() == [GRAM, NONE, GRAM]
    assert np.isnan(result.heads.sigma[1]).all()
    kept = [0, 2]
    expected = head_singular_values(np.nan_to_num(w, posinf=0, neginf=0), 3, LAYOUTS[role])
    np.testing.assert_allclose(result.heads.sigma[kept], expected[kept], rtol=1e-9)


def test_no_value_that_is_not_finite_reaches_lapack() -> None:
    """In a process of its own: one infinity makes LAPACK spin for ever where it does reach it."""
    code = (
        "import numpy as np; from shardscan.reduce.kernels import cpu;"
        "w = np.ones((64, 64)); w[3, 4] = np.inf; g = cpu.row_grams(w, None, 32);"
        "s, holds = cpu.gram_spectra(g, 32, 1e-5); assert np.isnan(s[0]).all() and not holds[0];"
        "assert cpu.exact_spectrum(w) is None; w[3, 4] = np.nan; assert cpu.exact_spectrum(w) is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


@pytest.mark.parametrize("scale", [1e300, 1e160, 1e-130, 1e-158, 1e-170, 1e-300])
@pytest.mark.parametrize("role", ["q", "o"])
def test_float64_heads_whose_squares_overflow_or_vanish_are_right(tmp_path: Path, role: str, scale: float) -> None:
    w = np.random.default_rng(7).standard_normal((24, 30)) * scale
    w[8:16] = 0
    w = w if role == "q" else np.ascontiguousarray(w.T)
    check(scanned(tmp_path, role, w, 8, "F64"), w, 8, role)


@pytest.mark.parametrize(
    ("code", "scale"), [("F32", 1e38), ("F32", 1e-43), ("BF16", 1e38), ("F16", 1e4), ("F16", 1e-6)]
)
def test_heads_at_the_ends_of_a_dtypes_range_are_right(tmp_path: Path, code: str, scale: float) -> None:
    w = np.random.default_rng(8).uniform(-1, 1, (24, 30)) * scale
    folder = tensors_of(tmp_path, {name_of("q"): w}, code, config(3, 8))
    held = shardscan.open(folder)[name_of("q")].compute().astype(np.float64)
    check(results(folder)[name_of("q")], held, 8, "q")


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (5, 5), (1, 9), (9, 1)], ids=str)
def test_exact_spectra_of_any_shape(shape: tuple[int, int]) -> None:
    w = np.random.default_rng(9).standard_normal(shape)
    sigma = cpu.exact_spectrum(w)
    assert sigma is not None
    np.testing.assert_allclose(sigma, np.linalg.svd(w, compute_uv=False), rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 20), (24, 0)], ids=str)
def test_an_empty_matrix_has_no_singular_values_and_does_not_fail(tmp_path: Path, shape: tuple[int, int]) -> None:
    folder = tensors_of(tmp_path, {name_of("q"): np.empty(shape, np.float32)}, config=config(3, 8))
    result = results(folder)[name_of("q")]
    assert result.failure is None
    assert result.heads is None or result.heads.sigma.size == 0


@pytest.mark.real
def test_smollm2_has_720_heads_and_they_agree_with_svd(smollm2: Path) -> None:
    known, checkpoint = units(smollm2), open_checkpoint(smollm2)
    matrices = [matrix for unit in known.values() for matrix in unit.matrices]
    assert sum(matrix.heads.count for matrix in matrices if matrix.heads) == 30 * (9 + 3 + 3 + 9)
    for role, layer in (("q", 0), ("k", 29), ("o", 14)):
        name = name_of(role, layer)
        w = checkpoint[name].window().read().astype(np.float64)
        assert check(result_of(known[name]), w, 64, role) < 1e-10


@pytest.mark.real
def test_a_scan_of_smollm2_has_its_tensors_and_its_spectra_and_not_one_warning(smollm2: Path, tmp_path: Path) -> None:
    summary = shardscan.ingest(smollm2, tmp_path / "scans", workers=2)
    assert summary.failures == {}
    with shardscan.connect(tmp_path / "scans") as connection:
        tensors = connection.sql("select count(*), count_if(status = 'ok'), sum(nans + infs) from tensors").fetchall()
        spectra = connection.sql("select method, count(*) from spectra group by all").fetchall()
        values = connection.sql("select count(*), count_if(not isfinite(sigma)) from singular_values").fetchall()
    assert tensors == [(272, 272, 0)]
    assert spectra == [("gram", 720)]
    assert values == [(720 * 64, 0)]


@pytest.mark.real
def test_minilms_heads_agree_with_svd(minilm: Path) -> None:
    known, checkpoint = units(minilm), open_checkpoint(minilm)
    for module, role in (("self.query", "q"), ("self.value", "v"), ("output.dense", "o")):
        name = f"encoder.layer.3.attention.{module}.weight"
        w = checkpoint[name].window().read().astype(np.float64)
        assert check(result_of(known[name]), w, 32, role) < 1e-10
