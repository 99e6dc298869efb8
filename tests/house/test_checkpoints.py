"""The real checkpoints are whole, and their making is atomic."""

import json
import math
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from made import checkpoints


def shapes(folder: Path) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """Name → file, dtype and shape, as safetensors itself reads the headers."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "numpy") as shard:
            for name in shard.keys():  # noqa: SIM118  (safe_open is no mapping)
                part = shard.get_slice(name)
                found[name] = (file.name, part.get_dtype(), tuple(part.get_shape()))
    return found


@pytest.mark.real
def test_smollm2_has_every_tensor_of_its_index_in_five_shards(smollm2: Path) -> None:
    found = shapes(smollm2)
    index = json.loads((smollm2 / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file for name, (file, _, _) in found.items()}
    assert len(set(index["weight_map"].values())) == 5
    assert len(found) == 272
    assert sum(math.prod(shape) for _, _, shape in found.values()) == 134_515_008
    assert index["metadata"]["total_size"] == 2 * 134_515_008
    assert {dtype for _, dtype, _ in found.values()} == {"BF16"}
    assert found["model.layers.29.self_attn.k_proj.weight"][2] == (192, 576)


@pytest.mark.real
def test_minilm_has_104_tensors_and_its_config_fits_them(minilm: Path) -> None:
    found = shapes(minilm)
    config = json.loads((minilm / "config.json").read_text())
    assert len(found) == 104
    assert sum(math.prod(shape) for _, _, shape in found.values()) == 22_713_728
    assert found["embeddings.word_embeddings.weight"][2] == (config["vocab_size"], config["hidden_size"])
    assert f"encoder.layer.{config['num_hidden_layers'] - 1}.output.dense.weight" in found


def test_a_making_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path, scratch: Path) -> None:
        (folder / "model.safetensors").touch()
        raise checkpoints.Unavailable("no package index")

    with pytest.raises(checkpoints.Unavailable):
        checkpoints._once(tmp_path / "model", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_makers_wins_and_the_second_is_content(tmp_path: Path) -> None:
    out = tmp_path / "model"

    def second(folder: Path, scratch: Path) -> None:
        (folder / "config.json").write_text("second")
        out.mkdir()
        (out / "config.json").write_text("first")

    checkpoints._once(out, second)
    checkpoints._once(out, second)
    assert [path.read_text() for path in tmp_path.rglob("config.json")] == ["first"]
    assert list(tmp_path.iterdir()) == [out]


def test_a_python_without_pip_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(checkpoints.Unavailable, match="No module named pip"):
        checkpoints.minilm(tmp_path / "model")
