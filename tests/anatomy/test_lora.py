"""LoRA adapters: A and B found and paired, and the spectrum of ΔW = B·A against the SVD of the product."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import shardscan
from made.placing import CONFIG, checkpoint
from shardscan.anatomy.composites import list_composites
from shardscan.anatomy.lora import find_scaling
from shardscan.anatomy.placement import place_tensors

RANK, HIDDEN, INNER, VOCAB = 4, 24, 40, 90
BASE = "base_model.model.model.layers"


def factors(module: str, outputs: int, inputs: int, rank: int = RANK, suffix: str = "") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(module) + outputs)
    shapes = {"A": (rank, inputs), "B": (outputs, rank)}
    return {f"{module}.lora_{f}{suffix}.weight": rng.standard_normal(s).astype(np.float32) for f, s in shapes.items()}


def adapter(folder: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "base_model_name_or_path": "somebody/Llama"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def query(store: Path, sql: str) -> list[tuple[Any, ...]]:
    with shardscan.connect(store) as db:
        return db.sql(sql).fetchall()


def deltas(model: Path, store: Path, **options: Any) -> dict[str, np.ndarray]:
    """σ of every delta."""
    assert shardscan.ingest(model, store, **options).failures == {}
    rows = query(store, "select spectrum, sigma from singular_values where spectrum like 'delta:%' order by all")
    return {id: np.array(sorted((s for i, s in rows if i == id), reverse=True)) for id in {i for i, _ in rows}}


def test_the_singular_values_of_b_a_are_those_of_the_full_product(tmp_path: Path) -> None:
    pairs = {"q_proj": f"{BASE}.0.self_attn.q_proj", "down_proj": f"{BASE}.3.mlp.down_proj"}
    tensors = {**factors(pairs["q_proj"], HIDDEN, HIDDEN), **factors(pairs["down_proj"], HIDDEN, INNER)}
    found = deltas(adapter(tmp_path / "lora", tensors), tmp_path / "scans")
    assert found.keys() == {"delta:text.0.q_proj", "delta:text.3.down_proj"}
    for layer, role in ((0, "q_proj"), (3, "down_proj")):
        a, b = (tensors[f"{pairs[role]}.lora_{f}.weight"].astype(np.float64) for f in "AB")
        expected = np.linalg.svd(b @ a, compute_uv=False)[:RANK]
        np.testing.assert_allclose(found[f"delta:text.{layer}.{role}"], expected, rtol=1e-9)
    rows = query(
        tmp_path / "scans", "select matrix, kind, layer, role, rows, cols, scaling, tensor from matrices order by layer"
    )
    assert rows == [
        ("delta:text.0.q_proj", "delta", 0, "q_proj", HIDDEN, HIDDEN, 16 / RANK, None),
        ("delta:text.3.down_proj", "delta", 3, "down_proj", HIDDEN, INNER, 16 / RANK, None),
    ]
    facts = query(tmp_path / "scans", "select distinct rank, head, method, self_check < 1e-12 from spectra")
    assert facts == [(RANK, None, "qr_cores", True)]
    ((config,),) = query(tmp_path / "scans", "select config ->> 'lora_alpha' from models")
    assert config == "16"


def test_the_rank_of_an_update_is_seen(tmp_path: Path) -> None:
    module = f"{BASE}.1.mlp.up_proj"
    tensors = factors(module, INNER, HIDDEN)
    tensors[f"{module}.lora_A.weight"][2:] = tensors[f"{module}.lora_A.weight"][:2]
    found = deltas(adapter(tmp_path / "lora", tensors), tmp_path / "scans")["delta:text.1.up_proj"]
    assert (found[:2] > 0.1).all()
    assert (found[2:] < 1e-12 * found[0]).all()


def test_bfloat16_factors_and_names_with_an_adapter(tmp_path: Path) -> None:
    module = f"{BASE}.0.self_attn.v_proj"
    tensors = {name: w.astype(ml_dtypes.bfloat16) for name, w in factors(module, 16, HIDDEN, suffix=".default").items()}
    a, b = (tensors[f"{module}.lora_{f}.default.weight"].astype(np.float64) for f in "AB")
    found = deltas(adapter(tmp_path / "lora", tensors), tmp_path / "scans")
    np.testing.assert_allclose(found["delta:text.0.v_proj"], np.linalg.svd(b @ a)[1][:RANK], rtol=1e-9)


def test_the_delta_of_an_embedding_is_turned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((RANK, VOCAB), (HIDDEN, RANK)))
    module = "base_model.model.model.embed_tokens.lora_embedding_"
    found = deltas(adapter(tmp_path / "lora", {f"{module}A": a, f"{module}B": b}), tmp_path / "scans")
    expected = np.linalg.svd(b.astype(np.float64) @ a.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(found["delta:text.-.embed_tokens"], expected[:RANK], rtol=1e-9)
    assert query(tmp_path / "scans", "select rows, cols from matrices") == [(VOCAB, HIDDEN)]


def test_modules_that_no_family_names_and_experts_have_deltas_too(tmp_path: Path) -> None:
    tensors = factors("base_model.model.tower.block.3.mixer", 8, 12)
    tensors |= factors(f"{BASE}.0.block_sparse_moe.experts.1.w1", INNER, HIDDEN)
    tensors |= factors(f"{BASE}.0.block_sparse_moe.experts.2.w1", INNER, HIDDEN)
    found = deltas(adapter(tmp_path / "lora", tensors), tmp_path / "scans")
    experts = {"delta:text.0.gate_proj[1]", "delta:text.0.gate_proj[2]"}
    assert found.keys() == {"delta:tower.block.3.mixer", *experts}
    sql = "select expert from matrices where role = 'gate_proj' order by 1"
    assert query(tmp_path / "scans", sql) == [(1,), (2,)]


def test_two_adapters_of_one_module_are_two_deltas(tmp_path: Path) -> None:
    module = f"{BASE}.0.self_attn.q_proj"
    tensors = factors(module, HIDDEN, HIDDEN, suffix=".one") | factors(module, HIDDEN, HIDDEN, 2, suffix=".two")
    found = deltas(adapter(tmp_path / "lora", tensors), tmp_path / "scans")
    assert sorted(len(sigma) for sigma in found.values()) == [2, RANK]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"B": None}, "no lora_B beside it"),
        ({"A": None}, "no lora_A beside it"),
        ({"B": (HIDDEN, 5)}, f"no product: lora_A is [{RANK}, {HIDDEN}], lora_B [{HIDDEN}, 5]"),
        ({"B": (HIDDEN, RANK, 1, 1)}, "no product: LoRA factors have two axes"),
        ({"A": (0, HIDDEN), "B": (HIDDEN, 0)}, f"no product: lora_A is [0, {HIDDEN}], lora_B [{HIDDEN}, 0]"),
    ],
)
def test_factors_without_a_product_say_why(
    tmp_path: Path, change: dict[str, tuple[int, ...] | None], reason: str
) -> None:
    module = f"{BASE}.0.self_attn.q_proj"
    tensors = factors(module, HIDDEN, HIDDEN) | factors(f"{BASE}.1.self_attn.q_proj", HIDDEN, HIDDEN)
    for factor, shape in change.items():
        if shape is None:
            del tensors[f"{module}.lora_{factor}.weight"]
        else:
            tensors[f"{module}.lora_{factor}.weight"] = np.ones(shape, np.float32)
    found = deltas(adapter(tmp_path / "lora", tensors), tmp_path / "scans")
    assert found.keys() == {"delta:text.1.q_proj"}
    assert query(tmp_path / "scans", "select distinct reason from tensors where layer = 0") == [(reason,)]
    assert query(tmp_path / "scans", "select distinct status, reason from tensors where layer = 1") == [("ok", None)]


def test_deltas_come_with_heads_and_full_and_are_not_done_twice(tmp_path: Path) -> None:
    model = adapter(tmp_path / "lora", factors(f"{BASE}.0.self_attn.q_proj", HIDDEN, HIDDEN))
    assert deltas(model, tmp_path / "none", spectra="none") == {}
    assert deltas(model, tmp_path / "full", spectra="full").keys() == {"delta:text.0.q_proj"}
    assert shardscan.ingest(model, tmp_path / "none").tasks == 1
    assert shardscan.ingest(model, tmp_path / "none").tasks == 0


def test_a_module_with_factors_of_both_kinds_costs_no_other_model_its_catalog(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    module = "base_model.model.model.embed_tokens"
    tensors = factors(module, VOCAB, HIDDEN)
    shapes = {"A": (RANK, VOCAB), "B": (HIDDEN, RANK)}
    tensors |= {f"{module}.lora_embedding_{f}": rng.standard_normal(s).astype(np.float32) for f, s in shapes.items()}
    found = deltas(adapter(tmp_path / "lora", tensors), tmp_path / "scans")
    # two that claim one place have none, and go by their modules
    assert found.keys() == {"delta:model.embed_tokens", "delta:model.embed_tokens~2"}


def test_a_config_that_was_corrected_is_taken_up_without_another_scan(tmp_path: Path) -> None:
    model = adapter(tmp_path / "lora", factors(f"{BASE}.0.self_attn.q_proj", HIDDEN, HIDDEN))
    shardscan.ingest(model, tmp_path / "scans")
    config = json.loads((model / "adapter_config.json").read_text()) | {"lora_alpha": 32}
    (model / "adapter_config.json").write_text(json.dumps(config))
    assert shardscan.ingest(model, tmp_path / "scans").tasks == 0
    assert query(tmp_path / "scans", "select config ->> 'lora_alpha' from models") == [("32",)]


# ---- what others call it


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (f"{BASE}.0.self_attn.q_proj.lora_A.default.weight", f"{BASE}.0.self_attn.q_proj.lora_B.default.weight"),
        ("model.layers.0.self_attn.q_proj.lora_down.weight", "model.layers.0.self_attn.q_proj.lora_up.weight"),
        ("model.layers.0.self_attn.q_proj.lora.down.weight", "model.layers.0.self_attn.q_proj.lora.up.weight"),
        ("model.layers.0.self_attn.q_proj_lora.down.weight", "model.layers.0.self_attn.q_proj_lora.up.weight"),
        (
            "model.layers.0.self_attn.q_proj.lora_linear_layer.down.weight",
            "model.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
        ),
    ],
    ids=["PEFT", "kohya", "diffusers", "attention processors", "lora_linear_layer"],
)
def test_factors_of_every_dialect_are_paired_at_their_place(a: str, b: str) -> None:
    anatomy = place_tensors(checkpoint({a: ("F32", (RANK, HIDDEN)), b: ("F32", (HIDDEN, RANK))}, None))
    assert [(p.place.role, p.place.layer, p.place.part) for p in anatomy.placed] == [
        ("q_proj", 0, "lora_a"), ("q_proj", 0, "lora_b"),
    ]  # fmt: skip
    (delta,) = list_composites(anatomy)
    assert (delta.id, delta.rows, delta.cols, delta.rank) == ("delta:text.0.q_proj", HIDDEN, HIDDEN, RANK)


def test_kohyas_names_without_dots_have_deltas_by_their_modules() -> None:
    module = "lora_unet_down_blocks_0_attn1_to_q"
    tensors = {f"{module}.lora_down.weight": ("F16", (4, 16)), f"{module}.lora_up.weight": ("F16", (16, 4))}
    anatomy = place_tensors(checkpoint({**tensors, f"{module}.alpha": ("F16", ())}, None))
    assert [p.place.part for p in anatomy.placed] == ["lora_a", "lora_b", "adapter"]
    assert [p.place.layer for p in anatomy.placed] == [0, 0, 0]
    assert [delta.id for delta in list_composites(anatomy)] == [f"delta:{module}"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, 16 / RANK),
        ({"use_rslora": True}, 16 / 2),
        ({"alpha_pattern": {"q_proj": 3}}, 3 / RANK),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 3, "o_proj": 5}}, 16 / RANK),
        ({"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 3}}, 3 / RANK),
        ({"alpha_pattern": {"^layers.0.self_attn.q_proj": 3}}, 16 / RANK),
        ({"r": 64, "rank_pattern": {"q_proj": RANK}, "use_rslora": True}, 16 / 2),
        ({"rank_pattern": {"q_proj": 2}}, None),
        ({"alpha_pattern": {r".*\.(q|v)_proj": 3}}, None),
        ({"lora_alpha": None}, None),
        ({"r": 64}, None),
        ({"peft_type": "ADALORA"}, None),
        ({"r": 0}, None),
    ],
)
def test_a_delta_says_what_it_is_multiplied_by(more: Mapping[str, Any], expected: float | None) -> None:
    config = {"r": RANK, "lora_alpha": 16, **more}
    assert find_scaling(config, "model.layers.0.self_attn.q_proj", (HIDDEN, HIDDEN), RANK) == expected


def test_of_adalora_there_is_no_delta_and_a_reason() -> None:
    at = f"{BASE}.0.self_attn.q_proj"
    tensors = {f"{at}.lora_A": ("F32", (4, 32)), f"{at}.lora_B": ("F32", (32, 4)), f"{at}.lora_E": ("F32", (4, 1)),
               f"{at}.ranknum": ("F32", ())}  # fmt: skip
    anatomy = place_tensors(checkpoint(tensors, None))
    assert list(list_composites(anatomy)) == []
    assert ["of AdaLoRA, whose change is not B" in (p.reason or "") for p in anatomy.placed] == [
        True,
        True,
        False,
        False,
    ]
    assert [p.place.part for p in anatomy.placed] == ["lora_a", "lora_b", "adapter", "adapter"]


@pytest.mark.parametrize("magnitude", ["lora_magnitude_vector", "lora_magnitude_vector.default.weight", "dora_scale"])
def test_of_dora_there_is_no_delta_and_a_reason(magnitude: str) -> None:
    at = f"{BASE}.0.self_attn.q_proj"
    tensors = {f"{at}.lora_A.weight": ("F32", (4, 32)), f"{at}.lora_B.weight": ("F32", (32, 4)),
               f"{at}.{magnitude}": ("F32", (32,))}  # fmt: skip
    anatomy = place_tensors(checkpoint(tensors, None))
    assert list(list_composites(anatomy)) == []
    assert ["of DoRA, whose change is not B" in (p.reason or "") for p in anatomy.placed] == [True, True, False]
    assert [(p.place.role, p.place.layer, p.place.part) for p in anatomy.placed][2] == ("q_proj", 0, "adapter")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("LoHa", ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"]),
        ("LoKr", ["lokr_w1", "lokr_w2_a", "lokr_w2_b"]),
        ("IA3", ["ia3_l"]),
        ("VeRA", ["vera_lambda_b", "vera_lambda_d"]),
        ("OFT", ["oft_blocks"]),
        ("LoRA's bias", ["lora_B.bias"]),
    ],
)
def test_other_adapters_are_known_and_are_no_weights(kind: str, names: list[str]) -> None:
    tensors = {f"{BASE}.0.self_attn.q_proj.{name}": ("F32", (32, 4)) for name in names}
    anatomy = place_tensors(checkpoint(tensors, None))
    for p in anatomy.placed:
        assert (p.place.role, p.place.layer, p.place.part, p.matrices) == ("q_proj", 0, "adapter", ())
        assert p.reason == f"{kind}: a part of a change that is not computed"


def test_factors_of_experts_side_by_side_have_no_product_and_stay_apart() -> None:
    at = f"{BASE}.0.mlp.experts"
    tensors = {f"{at}.lora_A.weight": ("F32", (8, 32)), f"{at}.lora_B.weight": ("F32", (96, 8)),
               f"{at}.base_layer.lora_A.weight": ("F32", (8, 48)),
               f"{at}.base_layer.lora_B.weight": ("F32", (32, 8))}  # fmt: skip
    anatomy = place_tensors(checkpoint(tensors, None))
    assert list(list_composites(anatomy)) == []
    assert {p.reason for p in anatomy.placed} == {
        "factors of several experts side by side, of which there is no one product"
    }


def test_a_module_that_is_trained_whole_has_its_own_name() -> None:
    names = ["score.modules_to_save.default.weight", "model.layers.0.self_attn.q_proj.base_layer.weight"]
    anatomy = place_tensors(checkpoint({f"base_model.model.{name}": ("F32", (32, 32)) for name in names}, CONFIG))
    assert [(p.place.role, p.place.layer) for p in anatomy.placed] == [("classifier", None), ("q_proj", 0)]
