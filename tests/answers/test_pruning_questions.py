"""The questions about pruning and series, on checkpoints whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shardscan
from made import pruning
from shardscan.answers.connection import ask
from shardscan.jobs.comparison.job import diff

LAYERS, TOUCHED = 4, (1, 2)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original and what LLM-Pruner's way makes of it, and the same with a mask."""
    made = tmp_path_factory.mktemp("made")
    original = pruning.llama(made / "original", layers=LAYERS)
    pruning.llm_pruner(original, made / "pruned", layers=TOUCHED)
    pruning.masked(original, made / "masked", lambda name: "layers.3.mlp" in name)
    return made


@pytest.fixture(scope="module")
def store(made: Path) -> Path:
    """Both compared with the original."""
    diff(made / "original", made / "pruned", made / "scans")
    diff(made / "original", made / "masked", made / "scans", values=True)
    return made / "scans"


def answer(store: Path, question: str, **parameters: str) -> Rows:
    found: Rows = ask(store, question, parameters).to_pylist()
    return found


def test_the_pruned_model_is_found_without_its_name(store: Path) -> None:
    (row,) = answer(store, "pruning", a="original")
    assert (row["model_a"], row["model_b"]) == ("original", "pruned")
    assert row["untouched"] == [0, 3] and row["consistent"] and row["faults"] == 0


def test_layers_are_listed_with_what_they_have_left(store: Path) -> None:
    rows = answer(store, "pruning-layers", a="original", b="pruned")
    assert [row["layer"] for row in rows] == [None, 0, 1, 2, 3]
    assert [row["touched"] for row in rows] == [False, False, True, True, False]
    assert [row["faults"] for row in rows] == [""] * 5


def test_a_module_has_a_line_about_its_consistency(store: Path) -> None:
    lines = {row["role"]: row["consistency"] for row in answer(store, "pruning-modules", a="original", b="pruned")}
    assert lines["gate_proj"] == "consistent: 0.7500 in 2 of 4 layers" and lines["input_norm"] == "untouched"


def test_the_table_has_one_row_for_each_layer_and_module(store: Path) -> None:
    rows = answer(store, "pruning-table", a="original", b="pruned")
    assert len({(row["layer"], row["role"]) for row in rows}) == len(rows) == 3 + 9 * LAYERS
    row = next(row for row in rows if (row["layer"], row["role"]) == (1, "up_proj"))
    assert (row["status"], row["shape_a"], row["shape_b"]) == ("pruned", [96, 64], [72, 64])


def test_the_experts_and_parts_of_a_module_are_one_row_of_the_table(tmp_path: Path) -> None:
    moe = pruning.mixtral(tmp_path / "moe", experts=4)
    weights = pruning.load(moe)
    for name in [name for name in weights if name.endswith("q_proj.weight")]:
        weights[name.replace("weight", "bias")] = np.zeros(len(weights[name]), weights[name].dtype)
    pruning.save(moe, weights, pruning.config_of(moe))
    pruning.experts_pruned(moe, tmp_path / "fewer", kept=3)
    store = pruning.scan_all([moe, tmp_path / "fewer"], tmp_path / "scans")
    rows = answer(store, "pruning-table", a="moe", b="fewer")
    assert len({(row["layer"], row["role"]) for row in rows}) == len(rows) == 3 + 2 * 10
    found = {row["role"]: row for row in rows if row["layer"] == 1}
    up, query = found["up_proj"], found["q_proj"]
    assert (up["status"], up["shape_a"], up["shape_b"]) == ("equal, removed", None, None)
    assert [up[f"{what}_{side}"] for what in ("weights", "experts") for side in "ab"] == [4, 3, 4, 3]
    assert (up["parameters_a"], up["parameters_b"], up["retention"]) == (4 * 24 * 32, 3 * 24 * 32, 0.75)
    assert (query["status"], query["shape_a"], query["shape_b"]) == ("equal", [32, 32], [32, 32])
    assert (query["parameters_a"], query["weights_a"], query["experts_a"]) == (32 * 32 + 32, 2, 0)
    assert (query["zeros_a"], query["zeros_b"]) == (32, 32)


def test_survivors_are_counted_by_module_and_by_head(store: Path) -> None:
    rows = answer(store, "survivors", a="original", b="pruned")
    assert {row["layer"] for row in rows} == set(TOUCHED)
    row = next(row for row in rows if (row["layer"], row["role"]) == (1, "q_proj"))
    assert (row["heads"], row["heads_kept"], row["heads_broken"], row["dropped"]) == (8, 6, 0, 16)


def test_a_mask_is_told_by_its_groups_and_by_what_is_newly_zero(store: Path) -> None:
    rows = answer(store, "pruning-zeros", a="original", b="masked")
    found = {row["role"]: row for row in rows if row["layer"] == 3}
    for role in ("gate_proj", "up_proj", "down_proj"):
        row = found[role]
        assert row["is_2_4"] and not row["was_2_4"] and row["violating_rows_2_4"] == 0
        assert row["newly_zero"] == row["zeros_b"] - row["zeros_a"] > 0
        assert row["sparsity_b"] == 0.5
    assert found["q_proj"]["newly_zero"] == 0 and not found["q_proj"]["is_2_4"]


def test_changes_are_told_layer_by_layer(store: Path) -> None:
    rows = answer(store, "changes", b="masked", role="%_proj")
    changed = {(row["layer"], row["role"]) for row in rows if row["relative_change"]}
    assert changed == {(3, role) for role in ("gate_proj", "up_proj", "down_proj")}


def test_a_file_that_did_not_shrink_says_why(store: Path, made: Path) -> None:
    rows = {row["model"]: row for row in answer(store, "size-check")}
    assert rows.keys() == {"original", "pruned", "masked"}
    for name, row in rows.items():
        weights = pruning.load(made / name)
        nbytes, on_disk = (
            sum(w.nbytes for w in weights.values()),
            (made / name / "model.safetensors").stat().st_size,
        )
        assert (row["file_bytes"], row["tensor_bytes"], row["other_bytes"]) == (on_disk, nbytes, on_disk - nbytes)
        assert row["parameters"] == sum(w.size for w in weights.values())
        assert row["zero_bytes"] == 2 * sum(int((w == 0).sum()) for w in weights.values())
        assert (row["copied_bytes"], row["bits_per_parameter"], row["dtypes"]) == (0, 16, "BF16 100.0 %")
    assert rows["masked"]["file_bytes"] == rows["original"]["file_bytes"] > rows["pruned"]["file_bytes"]
    assert rows["masked"]["zero_bytes"] > 0


def test_a_series_is_followed_in_the_order_of_its_steps(tmp_path: Path) -> None:
    checkpoints = pruning.series(tmp_path / "made", layers=1)
    steps = sorted(checkpoints)
    store = pruning.scan_all(checkpoints.values(), tmp_path / "scans")
    diff(checkpoints[steps[0]], checkpoints[steps[1]], store, values=True)
    rows = answer(store, "drift", role="up_proj", models="tiny-step%")
    weights = [next(w for n, w in pruning.load(checkpoints[step]).items() if "up_proj" in n) for step in steps]
    assert [row["step"] for row in rows] == steps
    for row, w in zip(rows, weights, strict=True):
        assert row["rms"] == pytest.approx(np.sqrt(np.mean(w.astype(np.float64) ** 2)))
    assert rows[0]["rms_ratio"] is None and rows[2]["rms_ratio"] == pytest.approx(rows[2]["rms"] / rows[1]["rms"])
    change = np.linalg.norm(weights[1] - weights[0]) / np.linalg.norm(weights[0])
    assert [row["relative_change"] for row in rows] == [None, pytest.approx(change, rel=1e-5), None, None]
    assert [row["unchanged_channels"] for row in rows][1:] == [0, 0, 0]


def test_in_a_series_heads_and_whole_matrices_have_ranks_of_their_own(tmp_path: Path) -> None:
    small = pruning.llama(tmp_path / "run-1", layers=1, hidden=16, heads=2, kv_heads=1, intermediate=24, vocab=20)
    shardscan.ingest(small, tmp_path / "scans", spectra="heads,full")
    (query,) = answer(tmp_path / "scans", "drift", role="q_proj", models="run-%")
    (up,) = answer(tmp_path / "scans", "drift", role="up_proj", models="run-%")
    weights = {name.split(".")[-2]: w.astype(np.float64) for name, w in pruning.load(small).items()}
    heads = [effective_rank(weights["q_proj"][i : i + 8]) for i in (0, 8)]
    assert query["effective_rank"] == pytest.approx(np.mean(heads), rel=1e-6)
    assert query["whole_effective_rank"] == pytest.approx(effective_rank(weights["q_proj"]), rel=1e-6)
    assert up["effective_rank"] is None
    assert up["whole_effective_rank"] == pytest.approx(effective_rank(weights["up_proj"]), rel=1e-6)


def effective_rank(w: np.ndarray) -> float:
    """exp(−Σ p ln p), p = σ / Σσ."""
    sigma = np.linalg.svd(w, compute_uv=False)
    p = sigma / sigma.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def test_weights_without_a_role_are_compared_with_themselves_in_a_series(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    first = {f"model.layers.0.{name}.weight": rng.normal(size=(6, 4)).astype(np.float32) for name in ("odd", "even")}
    second = {name: w.copy() for name, w in first.items()}
    second["model.layers.0.odd.weight"][:3] += 1
    folders = [pruning.save(tmp_path / f"run-{i}", w, None) for i, w in enumerate((first, second))]
    store = pruning.scan_all(folders, tmp_path / "scans")
    rows = answer(store, "drift", role="other", models="run-%")
    assert [row["unchanged_channels"] for row in rows] == [None, 9 / 12]
