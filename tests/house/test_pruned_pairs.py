"""The pairs that pruning is tested with are what they are said to be."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from made import headers, pruning
from made.pruning import STEPS, load


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pruning.llama(tmp_path_factory.mktemp("pairs") / "original", layers=2)


def test_a_cut_model_is_the_original_at_what_was_kept(original: Path, tmp_path: Path) -> None:
    cut, before = pruning.llm_pruner(original, tmp_path / "pruned", layers=[1]), load(original)
    for name, w in load(tmp_path / "pruned").items():
        own = cut.get(name, pruning.Kept())
        expected = before[name] if own.rows is None else before[name][own.rows]
        np.testing.assert_array_equal(w, expected if own.cols is None else expected[:, own.cols])
    assert all(".layers.1." in name for name in cut)
    q = cut["model.layers.1.self_attn.q_proj.weight"].rows
    kv = cut["model.layers.1.self_attn.k_proj.weight"].rows
    assert q is not None
    assert kv is not None
    # heads of 8, two query heads of each of the KV heads that stay
    assert set(q // 16) == set(kv // 8)
    assert (q.size, kv.size) == (48, 24)


def test_layers_are_pruned_at_different_places(original: Path, tmp_path: Path) -> None:
    cut = pruning.llm_pruner(original, tmp_path / "pruned", layers=[0, 1])
    first, second = (cut[f"model.layers.{i}.mlp.gate_proj.weight"].rows for i in (0, 1))
    assert not np.array_equal(first, second)  # type: ignore[arg-type]


def test_no_row_and_no_column_is_what_it_was_after_fine_tuning(original: Path, tmp_path: Path) -> None:
    after = load(pruning.fine_tuned(original, tmp_path / "tuned"))
    for name, w in load(original).items():
        assert (w != after[name]).all()
        np.testing.assert_allclose(after[name].astype(float), w.astype(float), rtol=0.05)


def test_two_of_four_are_zero_and_they_are_the_smallest(original: Path, tmp_path: Path) -> None:
    zeros = pruning.masked(original, tmp_path / "masked", lambda name: "down_proj" in name)
    name = "model.layers.0.mlp.down_proj.weight"
    before, after = (load(folder)[name].astype(float).reshape(64, -1, 4) for folder in (original, tmp_path / "masked"))
    assert set(zeros) == {name, name.replace(".0.", ".1.")}
    assert zeros[name] == before.size // 2
    assert ((after == 0).sum(axis=2) == 2).all()
    size = np.abs(before)
    gone, kept = np.where(after == 0, size, 0), np.where(after == 0, np.inf, size)
    assert (gone.max(axis=2) <= kept.min(axis=2)).all()


def test_a_share_of_every_row_is_zero(original: Path, tmp_path: Path) -> None:
    zeros = pruning.masked(original, tmp_path / "masked", lambda name: "gate_proj" in name, share=0.25)
    w = load(tmp_path / "masked")["model.layers.1.mlp.gate_proj.weight"]
    assert ((w == 0).sum(axis=1) == 16).all()
    assert zeros["model.layers.1.mlp.gate_proj.weight"] == 96 * 16


def test_a_series_drifts_in_a_straight_line(tmp_path: Path) -> None:
    steps = {step: load(folder) for step, folder in pruning.series(tmp_path, layers=1).items()}
    assert tuple(steps) == STEPS
    for name, w in steps[1000].items():
        drift = (steps[143000][name] - w) / 142
        assert np.linalg.norm(drift) > 0
        np.testing.assert_allclose(steps[16000][name] - w, 15 * drift, atol=1e-6)


def test_headers_alone_take_no_room(tmp_path: Path) -> None:
    file = headers.llama3_8b(tmp_path / "Llama-3-8B") / "model.safetensors"
    assert file.stat().st_size > 2 * 8_030_261_248
    assert file.stat().st_blocks * 512 < 1_000_000


def test_a_recast_model_has_the_same_values(original: Path, tmp_path: Path) -> None:
    after = load(pruning.recast(original, tmp_path / "single", np.float32))
    assert all(np.array_equal(w.astype(np.float32), after[name]) for name, w in load(original).items())
    assert {w.dtype for w in load(original).values()} == {np.dtype(ml_dtypes.bfloat16)}
