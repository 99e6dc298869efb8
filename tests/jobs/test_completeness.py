"""VERIFY, the whole: files may be sound and half the model gone, or the config somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from made import golden, tiny
from made.placing import Facts, checkpoint
from shardscan.cli import main
from shardscan.jobs.verification.completeness import judge
from shardscan.jobs.verification.job import verify

LAYERS, HIDDEN, VOCAB = 4, 32, 96
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "num_attention_heads": 4, "vocab_size": VOCAB,
    "num_hidden_layers": LAYERS,
}  # fmt: skip
SHAPES = {
    "input_layernorm": (HIDDEN,), "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.up_proj": (48, HIDDEN),
    "mlp.down_proj": (HIDDEN, 48),
}  # fmt: skip


def llama(layers: int = LAYERS, **outside: tuple[int, ...]) -> dict[str, Facts]:
    found: dict[str, Facts] = {
        "model.embed_tokens.weight": ("F32", (VOCAB, HIDDEN)),
        "model.norm.weight": ("F32", (HIDDEN,)),
    }
    for layer in range(layers):
        found |= {f"model.layers.{layer}.{name}.weight": ("F32", shape) for name, shape in SHAPES.items()}
    return found


def told(tensors: dict[str, Facts], config: dict[str, Any] | None = CONFIG) -> list[tuple[str, str]]:
    return [(f.severity, f.detail) for f in judge(checkpoint(tensors, None).tensors, config or {})]


@pytest.mark.parametrize("name", golden.NAMES)
def test_nothing_is_missing_of_what_an_implementation_creates(name: str) -> None:
    file = golden.read(name)
    tensors = golden.checkpoint(file.shapes, None).tensors
    assert [*judge(tensors, file.config), *judge(tensors, {})] == []


def test_weights_without_values_are_a_problem() -> None:
    tensors = llama()
    for name in [name for name, (_, shape) in tensors.items() if len(shape) == 2][:5]:
        tensors[name] = ("F32", (0,))
    ((severity, detail),) = told(tensors)
    assert severity == "problem" and detail.startswith(f"5 of {len(tensors)} tensors have no values, as where one rank")


@pytest.mark.parametrize(
    ("word", "value", "said"),
    [
        ("hidden_size", 64, "24 weights have 32 channels of the residual stream where the config's hidden_size is 64."),
        ("vocab_size", 97, "1 weight has 96 rows for tokens where the config's vocab_size is 97."),
        ("num_hidden_layers", 6, "text lacks 2 layers of the 6 that the config has: 4, 5."),
    ],
)
def test_a_config_of_another_size_is_a_problem(word: str, value: int, said: str) -> None:
    assert told(llama(), CONFIG | {word: value}) == [("problem", said)]


def test_a_vocabulary_may_be_padded() -> None:
    assert told(llama(), CONFIG | {"vocab_size": 90}) == []


def test_layers_that_are_missing_are_a_problem_by_the_config_and_a_note_without_one() -> None:
    tensors = {name: facts for name, facts in llama().items() if ".layers.1." not in name}
    assert told(tensors) == [("problem", "text lacks 1 layer of the 4 that the config has: 1.")]
    assert told(tensors, None) == [("note", "text lacks 1 layer below its last: 1.")]
    assert told({"v_head.summary.weight": ("F32", (1, HIDDEN))}) == [
        ("problem", "There are no layers, of which the config has 4.")
    ]


def test_a_role_that_one_layer_lacks_is_a_note() -> None:
    tensors = llama()
    del tensors["model.layers.2.self_attn.o_proj.weight"]
    said = ("note", "Layer 2 of text has no o_proj, which layers like it have.")
    assert told(tensors) == [said]
    kinds = ["full", "full", "sliding", "sliding"]
    assert told(tensors, CONFIG | {"layer_types": kinds}) == [said]
    assert told(tensors, CONFIG | {"layer_types": ["full", "full", "linear", "full"]}) == []  # the only one of its kind


def test_layers_that_are_alike_in_what_they_lack_are_meant_so() -> None:
    tensors = llama()
    for layer in (2, 3):  # as where the last layers share keys and values
        for name in ("k_proj", "v_proj"):
            del tensors[f"model.layers.{layer}.self_attn.{name}.weight"]
    assert told(tensors) == []


def test_a_dense_layer_before_experts_is_none_that_lacks_them() -> None:
    moe, config = llama(), CONFIG | {"architectures": ["MixtralForCausalLM"], "num_local_experts": 2}
    for layer in range(1, LAYERS):
        for name in ("up_proj", "down_proj"):
            del moe[f"model.layers.{layer}.mlp.{name}.weight"]
        at = f"model.layers.{layer}.block_sparse_moe"
        moe |= {f"{at}.gate.weight": ("F32", (2, HIDDEN))}
        moe |= {f"{at}.experts.{e}.{w}.weight": ("F32", (HIDDEN, 48) if w == "w2" else (48, HIDDEN))
                for e in range(2) for w in ("w1", "w2", "w3")}  # fmt: skip
    assert told(moe, config) == []


def test_one_shard_of_several_need_not_have_all_layers() -> None:
    tensors = checkpoint(llama(layers=2), None).tensors
    assert list(judge(tensors, CONFIG, is_part=True)) == []


def test_what_is_not_whole_is_not_clean(tmp_path: Path) -> None:
    weights = {name: np.ones(shape, np.float32) for name, (_, shape) in llama(layers=3).items()}
    folder = tiny.write(tmp_path / "model", weights, CONFIG)
    done = CliRunner().invoke(main, ["verify", str(folder), "--format", "json"])
    assert done.exit_code == 10
    (found,) = (row for row in json.loads(done.stdout) if row["check"] == "whole")
    assert (found["severity"], found["detail"]) == ("problem", "text lacks 1 layer of the 4 that the config has: 3.")


def test_a_file_far_larger_than_what_was_read_may_be_the_model(tmp_path: Path) -> None:
    head = {"v_head.summary.weight": np.ones((1, 32), np.float32), "v_head.summary.bias": np.zeros(1, np.float32)}
    folder = tiny.write(tmp_path / "model", head)
    (folder / "pytorch_model.bin").write_bytes(bytes(2_000_000))
    assert "times as large: give its path" in CliRunner().invoke(main, ["ls", str(folder)]).stderr
    problems = [f for f in verify(folder).findings if f.severity == "problem"]
    assert [(f.file, "times as large" in f.detail) for f in problems] == [("pytorch_model.bin", True)]


def test_folders_with_weights_of_their_own_are_named(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "sentence", {"a.weight": np.ones(4, np.float32)})
    tiny.write(folder / "2_Dense", {"linear.weight": np.ones(4, np.float32)})
    assert (
        "'2_Dense' left out: a folder with weights of its own" in CliRunner().invoke(main, ["ls", str(folder)]).stderr
    )
    for name in ("unet", "vae"):
        tiny.write(tmp_path / "pipeline" / name, {"conv.weight": np.ones(4, np.float32)})
    refused = CliRunner().invoke(main, ["ls", str(tmp_path / "pipeline")])
    assert refused.exit_code != 0 and "2 of its folders have, like 'unet', 'vae': give one of them" in refused.stderr
