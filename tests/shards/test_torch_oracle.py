"""PyTorch as the oracle of our reader of its files: what it saves comes back equal bit for bit, whatever its form."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import shardscan
from shardscan.cli import main
from shardscan.errors import HeaderError
from shardscan.shards.address import Checkpoint
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.shards.formats.container import FileOptions

torch = pytest.importorskip("torch")

SPELT = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2", "torch.float8_e4m3fnuz": "F8_E4M3FNUZ",
    "torch.float8_e5m2fnuz": "F8_E5M2FNUZ", "torch.uint8": "U8", "torch.int8": "I8", "torch.int16": "I16",
    "torch.int32": "I32", "torch.int64": "I64", "torch.uint16": "U16", "torch.uint32": "U32", "torch.uint64": "U64",
    "torch.bool": "BOOL", "torch.complex64": "C64", "torch.complex128": "C128",
}  # fmt: skip
FORMS = pytest.mark.parametrize(
    "form", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}], ids=str
)
READ = pytest.mark.parametrize("io", ["mmap", "read"])
Save = Callable[..., Path]


@pytest.fixture(name="save")
def _save(tmp_path: Path) -> Save:
    def save(value: Any, **form: Any) -> Path:
        path = tmp_path / "pytorch_model.bin"
        torch.save(value, path, **form)
        return path

    return save


def stored(tensor: Any) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def assert_equal(checkpoint: Checkpoint, expected: dict[str, Any]) -> None:
    assert list(checkpoint) == list(expected)
    for name, tensor in expected.items():
        ours = checkpoint[name]
        assert (ours.shape, ours.dtype) == (tuple(tensor.shape), SPELT[str(tensor.dtype)]), name
        assert ours.window().raw().tobytes() == stored(tensor), name


def values(dtype: Any, *shape: int) -> Any:
    raw = torch.randint(0, 256, (*shape, torch.empty(0, dtype=dtype).element_size()), dtype=torch.uint8)
    return (raw & 1).bool().reshape(shape) if dtype == torch.bool else raw.reshape(-1).view(dtype).reshape(shape)


@FORMS
@READ
def test_every_dtype(save: Save, form: dict[str, Any], io: str) -> None:
    dtypes = [getattr(torch, name.removeprefix("torch.")) for name in SPELT]
    state = {str(dtype): values(dtype, 3, 5) for dtype in dtypes}
    assert_equal(open_checkpoint(save(state, **form), io=io), state)


VIEWS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda t: t.T,
    "a run of rows": lambda t: t[100:200],
    "a run of columns": lambda t: t[:, 3:100],
    "every other row": lambda t: t[::2],
    "every third column of the transpose": lambda t: t.T[:, ::3],
    "permuted": lambda t: t.reshape(20, 25, 700).permute(2, 0, 1),
    "permuted otherwise": lambda t: t.reshape(20, 25, 700).permute(1, 2, 0),
    "expanded": lambda t: t[:1].expand(7, 700),
    "expanded inside": lambda t: t[:, :1].expand(500, 9),
    "a diagonal": lambda t: t.diagonal(),
    "windows that overlap": lambda t: t.reshape(-1).unfold(0, 64, 1)[:1000],
    "one value": lambda t: t[3, 4],
    "one value as a matrix": lambda t: t[3:4, 4:5],
    "a channels-last convolution": lambda t: t.reshape(50, 10, 28, 25).contiguous(memory_format=torch.channels_last),
    "nothing": lambda t: t[:, 5:5],
    "one column": lambda t: t[:, 7],
    "64 dimensions": lambda t: t[0, :1].reshape((1,) * 64),
}


@FORMS
@READ
@pytest.mark.parametrize("view", VIEWS)
def test_every_view(save: Save, form: dict[str, Any], io: str, view: str) -> None:
    base = values(torch.int16, 500, 700)
    state = {"base": base, "view": VIEWS[view](base)}
    assert_equal(open_checkpoint(save(state, **form), io=io), state)


@pytest.mark.parametrize("view", VIEWS)
def test_rows_of_a_view_are_rows_of_its_values(save: Save, view: str) -> None:
    tensor = VIEWS[view](values(torch.float32, 500, 700))
    ours = open_checkpoint(save({"view": tensor}))["view"]
    flat = stored(tensor)
    count = tensor.numel()
    rows = tensor.shape[0] if count and tensor.ndim else 1
    cols = count // rows
    for cuts in ([0, rows], [0, rows // 3, rows // 2, rows]):
        found = [ours.rows(a, b, cols).raw().tobytes() for a, b in pairwise(cuts)]
        assert b"".join(found) == flat
    starts = sorted({0, count // 7, (count + 2) // 3, count})
    runs = [ours.run(a, (b - a,)).raw().tobytes() for a, b in pairwise(starts)]
    assert b"".join(runs) == flat
    if tensor.ndim:
        assert b"".join(ours.window(i, i + 1).raw().tobytes() for i in range(tensor.shape[0])) == flat


def test_an_array_of_a_view_has_its_values(save: Save) -> None:
    base = torch.randn(300, 200)
    path = save({"a": base, "b": base.T, "c": base[:, ::2], "d": base.reshape(200, 300)})
    arrays = shardscan.open(path)
    for name, tensor in {"a": base, "b": base.T, "c": base[:, ::2], "d": base.reshape(200, 300)}.items():
        np.testing.assert_array_equal(np.asarray(arrays[name]), tensor.numpy())


@FORMS
def test_parameters_ordered_dicts_with_metadata_and_tied_tensors(save: Save, form: dict[str, Any]) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 4))
    module[2].weight = torch.nn.Parameter(module[0].weight.detach().T)
    state = module.state_dict()
    assert state._metadata
    parameters = OrderedDict((name, torch.nn.Parameter(t) if t.is_floating_point() else t) for name, t in state.items())
    parameters["tied"] = parameters["0.weight"]
    parameters["0.bias"].of_whom = "somebody"
    found = open_checkpoint(save(parameters, **form))
    assert_equal(found, dict(parameters))
    assert any("'tied' has the very bytes of another: '0.weight'" in note for note in found.notes)


def test_a_file_without_checksums(save: Save) -> None:
    state = {"a": torch.randn(3, 4)}
    torch.serialization.set_crc32_options(False)
    try:
        found = open_checkpoint(save(state))
    finally:
        torch.serialization.set_crc32_options(True)
    assert_equal(found, state)
    assert any("without a checksum" in note for note in found.notes)


@FORMS
def test_what_training_leaves_around_a_state_dict(save: Save, form: dict[str, Any]) -> None:
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    plain = {"epoch": 3, "size": model.weight.shape, "dtype": torch.bfloat16, "device": torch.device("cuda:1")}
    training = {
        **plain,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    found = open_checkpoint(save(training, **form))
    assert_equal(found, model.state_dict())
    assert any("'state_dict'" in note for note in found.notes)


def test_lazy_conjugates_and_negatives_are_refused_since_their_values_are_not_those_stored(save: Save) -> None:
    complex_ = torch.randn(3, dtype=torch.complex64)
    for tensor in (complex_.conj(), complex_.conj().imag):
        with pytest.raises(HeaderError, match="resolve_conj"):
            open_checkpoint(save({"a": tensor}))


# ---- models


def models() -> dict[str, Callable[[], Any]]:
    """A model of a few thousand parameters for each architecture."""
    transformers = pytest.importorskip("transformers")
    shared = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 40,
    }

    def made(config: str, model: str, **sizes: Any) -> Callable[[], Any]:
        return lambda: getattr(transformers, model)(getattr(transformers, config)(**sizes))

    return {
        "Llama": made("LlamaConfig", "LlamaForCausalLM", **shared, num_key_value_heads=2, tie_word_embeddings=True),
        "GPT-2": made("GPT2Config", "GPT2LMHeadModel", n_embd=16, n_layer=2, n_head=4, vocab_size=40, n_positions=32),
        "GPT-NeoX": made("GPTNeoXConfig", "GPTNeoXForCausalLM", **shared),
        "BERT": made("BertConfig", "BertForMaskedLM", **shared, max_position_embeddings=32),
        "Mixtral": made("MixtralConfig", "MixtralForCausalLM", **shared, num_key_value_heads=2, num_local_experts=3),
    }


@pytest.mark.parametrize("architecture", ["Llama", "GPT-2", "GPT-NeoX", "BERT", "Mixtral"])
@pytest.mark.parametrize("form", [{}, {"_use_new_zipfile_serialization": False}], ids=str)
def test_a_model_as_a_state_dict_and_as_a_pickled_module(save: Save, form: dict[str, Any], architecture: str) -> None:
    model = models()[architecture]().to(torch.bfloat16)
    state = dict(model.state_dict())
    assert_equal(open_checkpoint(save(state, **form)), state)
    path = save(model, **form)
    with pytest.raises(HeaderError, match="--pickled-module"):
        open_checkpoint(path)
    assert_equal(open_checkpoint(path, options=FileOptions(pickled_module=True)), state)


class Tokenizer:
    def __init__(self) -> None:
        self.merges = {("a", "b"): 0}
        self.special = {frozenset({"x"}), ("y",)}
        self.call = len
        self.pattern = np.arange(3)


def pruned_llama() -> Any:
    """As LLM-Pruner leaves one: linear layers replaced by narrower ones, differently in each layer."""
    model = models()["Llama"]()
    for i, layer in enumerate(model.model.layers):
        narrow = 24 - 4 * (i + 1)
        layer.mlp.gate_proj = torch.nn.Linear(16, narrow, bias=False)
        layer.mlp.up_proj = torch.nn.Linear(16, narrow, bias=False)
        layer.mlp.down_proj = torch.nn.Linear(narrow, 16, bias=False)
    return model


@pytest.mark.parametrize("form", [{}, {"_use_new_zipfile_serialization": False}], ids=str)
def test_a_pruned_module_beside_its_tokenizer(save: Save, form: dict[str, Any]) -> None:
    model = pruned_llama()
    path = save({"model": model, "tokenizer": Tokenizer()}, **form)
    found = open_checkpoint(path, options=FileOptions(pickled_module=True))
    assert_equal(found, model.state_dict())
    assert any("'tokenizer' was not read" in note for note in found.notes)
    done = CliRunner().invoke(main, ["ls", str(path), "--pickled-module", "--format", "jsonl"])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(main, ["verify", str(path), "--pickled-module"]).exit_code == 0
    refused = CliRunner().invoke(main, ["verify", str(path)])
    assert refused.exit_code == 10
    assert "--pickled-module" in refused.output


# ---- the whole line

FACTS = (
    "select * exclude (file, alias_of, shared_with, model) from tensors order by tensor",
    "select * exclude (model) from channels order by matrix, axis, channel",
    "select * exclude (model) from spectra order by spectrum",
    "select * exclude (model) from distribution order by tensor, bin",
    "select tensor, alias_of from tensors order by tensor",
)


def test_a_scan_of_the_same_weights_is_the_same_from_either_format(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from safetensors.torch import save_file

    model = models()["Llama"]().to(torch.bfloat16)
    state = model.state_dict()
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    torched = {
        **state,
        "model.layers.0.mlp.up_proj.weight": state["model.layers.0.mlp.up_proj.weight"].T.contiguous().T,
    }
    for name in ("safe", "torched", "module"):
        (tmp_path / name).mkdir()
        model.config.save_pretrained(tmp_path / name)
    save_file({name: t.clone() for name, t in state.items()}, tmp_path / "safe" / "model.safetensors")
    torch.save(torched, tmp_path / "torched" / "pytorch_model.bin")
    torch.save({"model": model}, tmp_path / "module" / "pytorch_model.bin")
    assert open_checkpoint(tmp_path / "torched")["model.layers.0.mlp.up_proj.weight"].strides == (1, 24)
    for name in ("safe", "torched", "module"):
        done = shardscan.ingest(
            tmp_path / name, tmp_path / "scans", spectra="heads,full,circuits", pickled_module=name == "module"
        )
        assert not done.failures
    with shardscan.connect(tmp_path / "scans") as db:
        formats = dict(db.sql("select model, format from models").fetchall())
        for sql in FACTS:
            safe, *others = (
                db.sql(sql.replace(" order by", f" where model = '{name}' order by")).fetchall() for name in formats
            )
            assert safe
            assert all(other == safe for other in others)
    assert formats == {"safe": "safetensors", "torched": "pytorch", "module": "pytorch"}
    assert shardscan.ingest(tmp_path / "torched", tmp_path / "scans", spectra="heads,full,circuits").tasks == 0
