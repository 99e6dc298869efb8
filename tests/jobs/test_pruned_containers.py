"""One pruned Llama in three containers: safetensors, a state dict of PyTorch's, and a whole module that was pickled."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import shardscan
from made import pruning
from made.pruning import Cut, Weights
from made.torchfiles import (
    BUILD,
    EMPTY_DICT,
    EMPTY_TUPLE,
    NEWOBJ,
    archived,
    dict_of,
    name,
    pickled,
    records,
    storage,
    tensor,
)
from shardscan.cli import main
from shardscan.jobs.comparison.job import Difference, diff

Files = Callable[[Path, Weights], Path]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Cut]:
    """An original, what pruning left of it, and which of its rows and columns those are."""
    made = tmp_path_factory.mktemp("made")
    original = pruning.llama(made / "original", layers=4)
    return original, made / "pruned", pruning.llm_pruner(original, made / "pruned", layers=range(1, 3))


@pytest.fixture(scope="module")
def scanned(pair: tuple[Path, Path, Cut], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Difference]:
    """A store of both, read only, and what `diff` found in it."""
    store = tmp_path_factory.mktemp("scanned") / "scans"
    return store, diff(pair[0], pair[1], store)


def values(weights: Mapping[str, np.ndarray]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Every tensor as opcodes, and the storages that they are in."""
    data = {str(i): np.ascontiguousarray(w).tobytes() for i, w in enumerate(weights.values())}
    opcodes = {}
    for i, (key, w) in enumerate(weights.items()):
        strides = [int(np.prod(w.shape[axis + 1 :])) for axis in range(w.ndim)]
        opcodes[key] = tensor(storage(str(i), w.size, name("torch", "BFloat16Storage")), 0, w.shape, strides)
    return opcodes, data


def state_dict(folder: Path, weights: Weights) -> Path:
    """As `torch.save(model.state_dict(), …)` writes it."""
    opcodes, data = values(weights)
    folder.mkdir()
    path = folder / "pytorch_model.bin"
    path.write_bytes(archived(records(pickled(dict_of(**opcodes)), data)))
    return path


def module(folder: Path, weights: Weights) -> Path:
    """As LLM-Pruner saves it: `torch.save({"model": model, "tokenizer": tokenizer}, …)`."""
    opcodes, data = values(weights)
    tree: dict[str, Any] = {}
    for key, value in opcodes.items():
        *modules, last = key.split(".")
        at = tree
        for word in modules:
            at = at.setdefault(word, {})
        at[last] = value
    folder.mkdir()
    path = folder / "pytorch_model.bin"
    tokenizer = name("transformers", "LlamaTokenizer") + EMPTY_TUPLE + NEWOBJ
    whole = dict_of(model=object_of("transformers.models.llama.modeling_llama", "LlamaForCausalLM", tree))
    parts = whole[:-1] + b"X\x09\0\0\0tokenizer" + tokenizer + whole[-1:]
    path.write_bytes(archived(records(pickled(parts), data)))
    return path


def object_of(where: str, kind: str, tree: Mapping[str, Any]) -> bytes:
    """A module with its parameters and, under their names, its modules."""
    own = {key: value for key, value in tree.items() if isinstance(value, bytes)}
    inner = {key: object_of("torch.nn", "Module", v) for key, v in tree.items() if not isinstance(v, bytes)}
    state = dict_of(_parameters=dict_of(**own), _buffers=EMPTY_DICT, _modules=dict_of(**inner))
    return name(where, kind) + EMPTY_TUPLE + NEWOBJ + state + BUILD


def left(store: Path, b: str) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    with shardscan.connect(store) as connection:
        rows = connection.execute(
            "select weight_b, axis, channel_a from surviving_channels('original', $b) where status = 'kept' "
            "and method = 'fingerprint' order by channel_b",
            {"b": b},
        ).fetchall()
    for weight, axis, channel in rows:
        found.setdefault((weight, axis), []).append(channel)
    return found


@pytest.mark.parametrize("files", [state_dict, module])
def test_what_is_left_is_found_in_every_container(
    pair: tuple[Path, Path, Cut], scanned: tuple[Path, Difference], tmp_path: Path, files: Files
) -> None:
    (original, pruned, cut), (store, by_safetensors) = pair, scanned
    shutil.copytree(store, tmp_path / "scans")
    path = files(tmp_path / "torch", pruning.load(pruned))
    by_torch = diff(original, path, tmp_path / "scans", pickled_module=files is module, values=True)
    found = left(tmp_path / "scans", "torch")
    wanted = {(key, axis): channels.tolist()
              for key, kept in cut.items()
              for axis, channels in (("out", kept.rows), ("in", kept.cols)) if channels is not None}  # fmt: skip
    assert wanted and {key: found[key] for key in wanted} == wanted
    same = ("retention", "consistent", "untouched", "parameters_b", "equal", "pruned", "faults")
    assert [by_torch.summary[key] for key in same] == [by_safetensors.summary[key] for key in same]
    assert set(by_torch.modules["changed"].to_pylist()) == {0.0}


def test_a_pickled_module_is_refused_until_it_is_asked_for(pair: tuple[Path, Path, Cut], tmp_path: Path) -> None:
    original, pruned, _ = pair
    path = module(tmp_path / "whole", pruning.load(pruned))
    words = ["diff", str(original), str(path), "--store", str(tmp_path / "scans")]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 3 and "LlamaForCausalLM" in refused.stderr and "--pickled-module" in refused.stderr
    assert CliRunner().invoke(main, [*words, "--pickled-module"]).exit_code == 0
