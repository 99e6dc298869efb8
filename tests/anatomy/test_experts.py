"""Mixtures of experts at scale: rows for each expert, which of them the catalog has, and plans of headers alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import shardscan
from made import golden, tiny
from shardscan import errors
from shardscan.cli import main
from shardscan.jobs.scan.job import rebuild_catalog
from shardscan.jobs.scan.prepare import prepare
from shardscan.plan import scan as plan
from shardscan.plan.tasks import EXPERTS_PER_TASK

TABLES = ("models", "tensors", "matrices", "channels", "spectra", "singular_values", "distribution")


def model(folder: Path, name: str = "mixtral", seed: int = 0) -> Path:
    """The tensors of a golden file with random values."""
    file, rng = golden.read(name), np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {
        tensor: rng.standard_normal(shape).astype(np.float32) for tensor, shape in file.shapes.items()
    }
    return tiny.write(folder, tensors, file.config)


def query(store: Path, sql: str) -> list[tuple[Any, ...]]:
    with shardscan.connect(store) as db:
        return db.sql(sql).fetchall()


@pytest.mark.parametrize("name", ["mixtral", "mixtral-saved"])
def test_every_expert_has_a_matrix_and_channels_of_its_own(name: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "moe", name)
    shardscan.ingest(folder, tmp_path / "scans", spectra="full")
    sql = "select role, expert, rows, cols from matrices where layer = 0 and expert is not null order by role, expert"
    experts = golden.read("mixtral").settings["num_local_experts"]
    hidden, inner = (golden.read("mixtral").settings[key] for key in ("hidden_size", "intermediate_size"))
    shapes = {"down_proj": (hidden, inner), "gate_proj": (inner, hidden), "up_proj": (inner, hidden)}
    assert query(tmp_path / "scans", sql) == [(role, e, *shapes[role]) for role in shapes for e in range(experts)]
    sql = "select count(*), count(distinct matrix) from channels join matrices using (model, matrix) where expert = 1"
    assert query(tmp_path / "scans", sql) == [(2 * 3 * (hidden + inner), 2 * 3)]
    sql = "select count(*), min(self_check < 1e-12) from spectra join matrices using (model, matrix) where expert = 1"
    assert query(tmp_path / "scans", sql) == [(2 * 3, True)]


def test_a_stack_of_many_experts_is_committed_in_runs_and_its_tensor_is_one_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    experts, name = 20, "model.layers.0.mlp.experts.down_proj"
    w = rng.standard_normal((experts, 6, 10)).astype(np.float32)
    config = {"architectures": ["GptOssForCausalLM"], "num_local_experts": experts}
    folder = tiny.write(tmp_path / "moe", {name: w}, config)
    assert shardscan.ingest(folder, tmp_path / "scans").tasks == -(-experts // EXPERTS_PER_TASK)
    x = w.astype(np.float64).ravel()
    found = query(tmp_path / "scans", "select status, mean, std, min, max, zeros, parameters from tensors")[0]
    np.testing.assert_allclose(found[1:5], [x.mean(), x.std(), x.min(), x.max()], rtol=1e-9)
    assert (found[0], *found[5:]) == ("ok", 0, x.size)
    ((kurtosis,),) = query(tmp_path / "scans", "select kurtosis from tensors")
    assert kurtosis == pytest.approx(((x - x.mean()) ** 4).mean() / x.var() ** 2, rel=1e-9)
    assert query(tmp_path / "scans", "select sum(count) from distribution") == [(x.size,)]
    sql = "select mean from channels where axis = 'out' and matrix = '" + name + "[17]' order by channel"
    np.testing.assert_allclose([m for (m,) in query(tmp_path / "scans", sql)], w[17].mean(axis=0), atol=1e-7)
    # a run that is gone is the only one done again
    before = [query(tmp_path / "scans", f"select * from {table} order by all") for table in TABLES]
    next((tmp_path / "scans" / "commits").glob("*/*.1.stats-1.json")).unlink()
    assert query(shard := tmp_path / "scans", "select status from tensors") == [("ok",)]
    assert shardscan.ingest(folder, shard).tasks == 1
    assert [query(shard, f"select * from {table} order by all") for table in TABLES] == before


def test_a_stack_of_which_a_run_is_not_scanned_is_pending(tmp_path: Path) -> None:
    w = np.ones((20, 6, 10), np.float32)
    config = {"architectures": ["GptOssForCausalLM"], "num_local_experts": 20}
    folder = tiny.write(tmp_path / "moe", {"model.layers.0.mlp.experts.down_proj": w}, config)
    shardscan.ingest(folder, tmp_path / "scans")
    next((tmp_path / "scans" / "commits").glob("*/*.1.stats-1.json")).unlink()
    rebuild_catalog(tmp_path / "scans")
    assert query(tmp_path / "scans", "select status, mean from tensors") == [("pending", None)]
    found = query(tmp_path / "scans", "select distinct expert from channels join matrices using (model, matrix)")
    assert sorted(e for (e,) in found) == [e for e in range(20) if e // EXPERTS_PER_TASK != 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_tables_are_the_same_for_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    folder = model(tmp_path / "moe", "gpt_oss")
    shardscan.ingest(folder, tmp_path / "one", workers=1, memory_limit=None)
    shardscan.ingest(folder, tmp_path / "many", workers=workers, spectra="none")
    shardscan.ingest(folder, tmp_path / "many", workers=workers)
    for table in ("tensors", "matrices", "channels", "singular_values"):
        sql = f"select * from {table} order by all"
        assert query(tmp_path / "one", sql) == query(tmp_path / "many", sql)


# ---- which channels the catalog has


def counted(store: Path) -> tuple[str, int, int]:
    """What `models` says of them, rows of dense matrices, and rows of experts."""
    sql = "select count(*) filter (expert is null), count(*) filter (expert is not null) from channels"
    ((dense, experts),) = query(store, f"{sql} join matrices using (model, matrix)")
    ((choice,),) = query(store, "select channels from models")
    return choice, dense, experts


def test_channels_in_the_catalog_are_chosen_and_the_choice_stays(tmp_path: Path) -> None:
    folder, store = model(tmp_path / "moe"), tmp_path / "scans"
    shardscan.ingest(folder, store)
    choice, dense, experts = counted(store)
    assert choice == "all"
    assert dense > 0
    assert experts > 0
    for wanted, expected in (("dense", (dense, 0)), ("none", (0, 0)), ("all", (dense, experts)), ("dense", (dense, 0))):
        assert shardscan.ingest(folder, store, channels=wanted).tasks == 0
        assert counted(store) == (wanted, *expected)
    shardscan.ingest(folder, store, spectra="full")
    assert counted(store) == ("dense", dense, 0)
    rebuild_catalog(store)
    assert counted(store) == ("dense", dense, 0)


def test_the_choice_goes_over_to_a_scan_that_takes_the_place_of_another(tmp_path: Path) -> None:
    folder, store = model(tmp_path / "moe"), tmp_path / "scans"
    shardscan.ingest(folder, store, channels="none")
    config = json.loads((folder / "config.json").read_text()) | {"num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    command = ["ingest", str(folder), "--store", str(store), "--dry-run", "--format", "json"]
    assert json.loads(CliRunner().invoke(main, command).stdout)[0]["channels"] == "none"
    assert shardscan.ingest(folder, store).tasks > 0
    assert counted(store) == ("none", 0, 0)


def test_too_many_channels_unasked_are_those_of_dense_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, store = model(tmp_path / "moe"), tmp_path / "scans"
    monkeypatch.setattr(plan, "MOST_CHANNELS", 100)
    done = CliRunner().invoke(main, ["ingest", str(folder), "--store", str(store)])
    assert done.exit_code == 0, done.stderr
    choice, dense, experts = counted(store)
    assert (choice, experts) == ("dense", 0)
    total = prepare(folder).plan.channels
    sentence = f"the catalog has {dense:,} of {total:,} rows of channels (dense): --channels all brings the others."
    assert sentence in done.stderr
    asked = CliRunner().invoke(main, ["ingest", str(folder), "--store", str(store), "--channels", "all"])
    assert "rows of channels" not in asked.stderr
    assert sum(counted(store)[1:]) == total


def test_a_dry_run_counts_the_rows_that_the_catalog_will_have(tmp_path: Path) -> None:
    folder, store = model(tmp_path / "moe"), tmp_path / "scans"
    sizes = {}
    for choice in ("all", "dense", "none"):
        command = ["ingest", str(folder), "--store", str(store), "--dry-run", "--channels", choice, "--format", "json"]
        (sizes[choice],) = json.loads(CliRunner().invoke(main, command).stdout)
        shardscan.ingest(folder, store, channels=choice)
        assert sizes[choice]["channel_rows"] == query(store, "select count(*) from channels")[0][0]
    assert sizes["all"]["store_bytes"] > sizes["dense"]["store_bytes"] > sizes["none"]["store_bytes"]
    # and without saying so it stays as it was chosen
    command = ["ingest", str(folder), "--store", str(store), "--dry-run", "--format", "json"]
    assert json.loads(CliRunner().invoke(main, command).stdout)[0]["channels"] == "none"


def test_a_choice_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.OptionError, match="'most' is no choice of channels: take all, dense, none"):
        shardscan.ingest(model(tmp_path / "moe"), tmp_path / "scans", channels="most")


# ---- headers alone


def sparse(folder: Path, shapes: Mapping[str, tuple[int, ...]], config: dict[str, Any]) -> Path:
    """A shard that has a header and no bytes on disk."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape, dtype=object))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def deepseek(layers: int, experts: int) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Names and shapes of DeepSeek-V3, less most of its layers."""
    hidden, inner = 7168, 2048
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (129280, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.q_a_proj.weight": (1536, hidden),
            f"{prefix}.self_attn.q_b_proj.weight": (128 * 192, 1536),
            f"{prefix}.self_attn.kv_a_proj_with_mqa.weight": (576, hidden),
            f"{prefix}.self_attn.kv_b_proj.weight": (128 * 256, 512),
            f"{prefix}.self_attn.o_proj.weight": (hidden, 128 * 128),
            f"{prefix}.mlp.gate.weight": (experts, hidden),
        }
        for expert in range(experts):
            for role, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
                shapes[f"{prefix}.mlp.experts.{expert}.{role}_proj.weight"] = shape
    sizes = {"num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512, "n_routed_experts": experts}
    heads = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "hidden_size": hidden}
    return shapes, {"architectures": ["DeepseekV3ForCausalLM"], **sizes, **heads}


def test_a_header_of_256_experts_a_layer_is_named_and_planned(tmp_path: Path) -> None:
    layers, experts = 6, 256
    folder = sparse(tmp_path / "deepseek", *deepseek(layers, experts))
    prepared = prepare(folder)
    assert prepared.anatomy.family == "deepseek"
    assert [p.tensor.name for p in prepared.anatomy.placed if p.place.role == "other" or p.reason] == []
    kv_b = next(p for p in prepared.anatomy.placed if p.place.role == "kv_b_proj")
    assert [(m.role, m.rows, m.heads and m.heads.count) for m in kv_b.matrices] == [
        ("k_b_proj", 128 * 128, 128),
        ("v_b_proj", 128 * 128, 128),
    ]
    done = CliRunner().invoke(main, ["ingest", str(folder), "--dry-run", "--format", "json"])
    assert done.exit_code == 0, done.stderr
    (costs,) = json.loads(done.stdout)
    runs = -(-experts // EXPERTS_PER_TASK)
    assert costs["tasks"] == 1 + layers * (6 + 3 * runs)
    assert costs["bytes_to_read"] == prepared.checkpoint.nbytes
    assert (costs["channels"], costs["channel_rows"]) == ("dense", prepared.plan.dense_channels)
    assert prepared.plan.channels - prepared.plan.dense_channels == layers * experts * 3 * (7168 + 2048)


def test_mixtral_8x22b_is_named_and_planned(tmp_path: Path) -> None:
    hidden, inner, layers = 6144, 16384, 56
    experts = {
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight": shape
        for layer in range(layers)
        for expert in range(8)
        for name, shape in (("w1", (inner, hidden)), ("w2", (hidden, inner)), ("w3", (inner, hidden)))
    }
    config = {"architectures": ["MixtralForCausalLM"], "num_attention_heads": 48, "num_key_value_heads": 8}
    prepared = prepare(sparse(tmp_path / "mixtral", experts, {**config, "hidden_size": hidden}))
    assert prepared.anatomy.family == "mixtral"
    assert {(p.place.role, p.place.layer, p.place.expert) for p in prepared.anatomy.placed} == {
        (role, layer, expert)
        for role in ("gate_proj", "up_proj", "down_proj")
        for layer in range(layers)
        for expert in range(8)
    }
    assert len(prepared.plan.tasks) == layers * 3
    assert prepared.plan.bytes_to_read == layers * 8 * 3 * hidden * inner * 2
