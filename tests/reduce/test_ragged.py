"""Pruned models whose layers differ in width: heads follow the shapes, and every layer is stored and queried alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shardscan
from made import tiny
from oracles.reference import head_singular_values

HIDDEN, DIM = 16, 8
CONFIG = {
    "hidden_size": HIDDEN,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": DIM,
    "num_hidden_layers": 3,
}
# query heads, KV heads and MLP width of each layer; the last has lost queries and no keys
WIDTHS = [(4, 2, 24), (2, 1, 12), (2, 2, 20)]


def pruned(*, fused: bool) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A model of these widths as it is stored, and its separate matrices by layer and role."""
    rng = np.random.default_rng(0)
    stored: dict[str, np.ndarray] = {}
    separate: dict[str, np.ndarray] = {}
    for layer, (heads, kv_heads, inner) in enumerate(WIDTHS):
        prefix = f"model.layers.{layer}."
        shapes = {
            "q_proj": (heads * DIM, HIDDEN), "k_proj": (kv_heads * DIM, HIDDEN), "v_proj": (kv_heads * DIM, HIDDEN),
            "o_proj": (HIDDEN, heads * DIM), "gate_proj": (inner, HIDDEN), "up_proj": (inner, HIDDEN),
            "down_proj": (HIDDEN, inner),
        }  # fmt: skip
        w = {role: rng.standard_normal(shape).astype(np.float32) for role, shape in shapes.items()}
        separate |= {f"{layer}.{role}": x for role, x in w.items()}
        stored[f"{prefix}self_attn.o_proj.weight"] = w["o_proj"]
        stored[f"{prefix}mlp.down_proj.weight"] = w["down_proj"]
        if fused:
            stored[f"{prefix}self_attn.qkv_proj.weight"] = np.concatenate([w[f"{x}_proj"] for x in "qkv"])
            stored[f"{prefix}mlp.gate_up_proj.weight"] = np.concatenate([w["gate_proj"], w["up_proj"]])
        else:
            stored |= {f"{prefix}self_attn.{x}_proj.weight": w[f"{x}_proj"] for x in "qkv"}
            stored |= {f"{prefix}mlp.{x}_proj.weight": w[f"{x}_proj"] for x in ("gate", "up")}
    return stored, separate


def query(store: Path, sql: str) -> list[tuple[Any, ...]]:
    with shardscan.connect(store) as db:
        return db.sql(sql).fetchall()


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Phi3ForCausalLM"])
def test_every_layer_has_its_own_widths_and_heads(architecture: str, tmp_path: Path) -> None:
    stored, separate = pruned(fused=architecture == "Phi3ForCausalLM")
    model = tiny.write(tmp_path / "pruned", stored, {**CONFIG, "architectures": [architecture]})
    assert shardscan.ingest(model, tmp_path / "scans", spectra="heads,full,circuits").failures == {}
    sql = "select layer, role, rows, cols, heads, queries_per_head from matrices where kind in ('whole', 'part')"
    found = {(layer, role): rest for layer, role, *rest in query(tmp_path / "scans", sql)}
    for layer, (heads, kv_heads, _) in enumerate(WIDTHS):
        counts = {"q_proj": (heads, 1), "k_proj": (kv_heads, heads // kv_heads), "o_proj": (heads, 1)}
        for role in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
            shape = separate[f"{layer}.{role}"].shape
            division = counts.get(role) or (counts["k_proj"] if role == "v_proj" else (None, None))
            assert found[layer, role] == [*shape, *division]
    for layer in range(len(WIDTHS)):
        for role, layout in (("q_proj", "(heads d) m"), ("v_proj", "(heads d) m"), ("o_proj", "m (heads d)")):
            heads = found[layer, role][2]
            expected = head_singular_values(separate[f"{layer}.{role}"], heads, layout)
            sql = f"select sigma from singular_values where layer = {layer} and role = '{role}' and head is not null"
            sigma = np.array(query(tmp_path / "scans", f"{sql} order by head, i"))[:, 0].reshape(heads, -1)
            np.testing.assert_allclose(sigma, expected, rtol=1e-6)
    circuits = "select layer, role, count(*) from spectra where role in ('ov', 'qk') group by all order by all"
    assert query(tmp_path / "scans", circuits) == [
        (layer, role, heads) for layer, (heads, _, _) in enumerate(WIDTHS) for role in ("ov", "qk")
    ]


def test_the_reason_says_that_a_layer_has_fewer_heads(tmp_path: Path) -> None:
    stored, _ = pruned(fused=True)
    model = tiny.write(tmp_path / "pruned", stored, {**CONFIG, "architectures": ["Phi3ForCausalLM"]})
    shardscan.ingest(model, tmp_path / "scans")
    found = query(tmp_path / "scans", "select layer, reason from tensors where role = 'qkv_proj' order by layer")
    fewer = "2 heads where config.json says 4"
    assert found == [(0, None), (1, fewer), (2, fewer)]


def test_a_part_of_a_fused_tensor_has_the_fingerprints_of_the_matrix_alone(tmp_path: Path) -> None:
    for name, fused in (("alone", False), ("fused", True)):
        architecture = "Phi3ForCausalLM" if fused else "LlamaForCausalLM"
        model = tiny.write(tmp_path / name, pruned(fused=fused)[0], {**CONFIG, "architectures": [architecture]})
        shardscan.ingest(model, tmp_path / "scans", name=name)
    sql = """
        select count(*), count(*) filter (a.fingerprint = b.fingerprint and a.mean = b.mean)
        from channels a join channels b using (layer, role, axis, channel)
        where a.model = 'alone' and b.model = 'fused'
    """
    channels = sum(2 * HIDDEN + 2 * 8 * h + 2 * HIDDEN + 2 * 8 * k + 3 * (HIDDEN + i) for h, k, i in WIDTHS)
    ((rows, equal),) = query(tmp_path / "scans", sql)
    assert (rows, equal) == (channels, channels)


def test_a_width_that_parts_do_not_divide_keeps_the_tensor_whole_and_says_why(tmp_path: Path) -> None:
    stored, _ = pruned(fused=True)
    stored["model.layers.1.self_attn.qkv_proj.weight"] = np.ones((5 * DIM, HIDDEN), np.float32)
    model = tiny.write(tmp_path / "pruned", stored, {**CONFIG, "architectures": ["Phi3ForCausalLM"]})
    assert shardscan.ingest(model, tmp_path / "scans").failures == {}
    joined = "matrices m join tensors t using (tensor)"
    sql = f"select m.matrix, m.kind, t.reason from {joined} where t.layer = 1 and t.role = 'qkv_proj'"
    ((matrix, kind, reason),) = query(tmp_path / "scans", sql)
    assert (matrix, kind) == ("model.layers.1.self_attn.qkv_proj.weight", "whole")
    assert reason == (
        "40 rows, which in family llama are not the 64 that the parts have by config.json, nor 16 of q and equal others"
    )


def test_without_an_o_proj_a_pruned_fused_tensor_stays_whole(tmp_path: Path) -> None:
    stored, _ = pruned(fused=True)
    kept = {name: w for name, w in stored.items() if "o_proj" not in name}
    model = tiny.write(tmp_path / "pruned", kept, {**CONFIG, "architectures": ["Phi3ForCausalLM"]})
    shardscan.ingest(model, tmp_path / "scans")
    sql = "select t.layer, m.kind, count(*) from matrices m join tensors t using (tensor) where t.role = 'qkv_proj'"
    assert query(tmp_path / "scans", f"{sql} group by all order by all") == [
        (0, "part", 3),
        (1, "whole", 1),
        (2, "whole", 1),
    ]
