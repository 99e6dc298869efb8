"""A checkpoint of Llama-3-8B's names, shapes and dtype, with facts planted in it: what the large rows are measured on.

    python -m bench.llama8b FOLDER [--layers N]

16.06 GB in 4 shards, 8,030,261,248 parameters, in about the time that the disk takes. The values are runs of one pool
of normal bfloat16 numbers, each tensor's from another start, so matrices have full rank and no two rows are equal but
those that are planted.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

HIDDEN, WIDTH, VOCAB, LAYERS, HEADS, KV_HEADS, DIM = 4096, 14336, 128256, 32, 32, 8, 128
SHARDS = 4
POOL = 67_108_859  # a prime: rows that wrap around begin elsewhere
STD = 0.02
CHUNK = 16 << 20  # values written at a time


@dataclass(frozen=True, slots=True)
class Size:
    """The numbers that shapes follow from; heads are DIM wide."""

    hidden: int
    width: int
    vocab: int
    heads: int
    kv_heads: int

    def config(self, layers: int) -> dict[str, object]:
        """What config.json says."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.width,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "num_hidden_layers": layers,
            "vocab_size": self.vocab,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


FULL = Size(HIDDEN, WIDTH, VOCAB, HEADS, KV_HEADS)
SMALL = Size(512, 1792, 4096, 4, 1)  # for tests: 35 MB with four layers


@dataclass(frozen=True, slots=True)
class Planted:
    """What the scan must find: where it is and in which rows or columns; in layers that smaller models have too."""

    loud_row: tuple[str, int] = ("model.layers.1.mlp.down_proj.weight", 788)
    dead_row: tuple[str, int] = ("model.layers.2.mlp.gate_proj.weight", 9001)
    low_rank_head: tuple[str, int, int] = ("model.layers.3.self_attn.q_proj.weight", 5, 8)  # head, rank
    nan: tuple[str, int, int] = ("model.layers.0.mlp.up_proj.weight", 4321, 17)


PLANTED = Planted()


def planted(size: Size = FULL) -> Planted:
    """What is planted in a model of this size: the same tensors, at numbers that they have."""
    loud, dead, low, nan = PLANTED.loud_row, PLANTED.dead_row, PLANTED.low_rank_head, PLANTED.nan
    return Planted(
        (loud[0], loud[1] % size.hidden),
        (dead[0], dead[1] % size.width),
        (low[0], low[1] % size.heads, low[2]),
        (nan[0], nan[1] % size.width, nan[2]),
    )


def shapes(layers: int = LAYERS, size: Size = FULL) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, in the order of the model."""
    yield "model.embed_tokens.weight", (size.vocab, size.hidden)
    for i in range(layers):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (size.hidden,)
        for role, rows in (("q", size.heads), ("k", size.kv_heads), ("v", size.kv_heads)):
            yield f"{layer}.self_attn.{role}_proj.weight", (rows * DIM, size.hidden)
        yield f"{layer}.self_attn.o_proj.weight", (size.hidden, size.heads * DIM)
        yield f"{layer}.post_attention_layernorm.weight", (size.hidden,)
        yield f"{layer}.mlp.gate_proj.weight", (size.width, size.hidden)
        yield f"{layer}.mlp.up_proj.weight", (size.width, size.hidden)
        yield f"{layer}.mlp.down_proj.weight", (size.hidden, size.width)
    yield "model.norm.weight", (size.hidden,)
    yield "lm_head.weight", (size.vocab, size.hidden)


def make(folder: Path, layers: int = LAYERS, size: Size = FULL) -> Path:
    """The checkpoint in `folder`, written if it is not there yet; `layers` of its 32 make a smaller one."""
    return write(folder, list(shapes(layers, size)), size.config(layers), planted(size))


def write(
    folder: Path, found: list[tuple[str, tuple[int, ...]]], config: dict[str, object], facts: Planted = PLANTED
) -> Path:
    """A checkpoint of these names and shapes, of values like every other's; config.json is written last."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(_nbytes(shape) for _, shape in found)
    pool = _pool(min(POOL, total // 2))
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    written = 0
    for name, shape in found:
        if written > total * len(shards) / SHARDS:
            shards.append([])
        shards[-1].append((name, shape))
        written += _nbytes(shape)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {name: file for name, _ in tensors}
        _write_shard(folder / file, tensors, pool, facts, number)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "ascii")
    (folder / "config.json").write_text(json.dumps(config), "ascii")
    return folder


def tuned(of: Path, folder: Path) -> Path:
    """A copy of a checkpoint in which one value in 97 has another last bit; made once."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(of.glob("*.safetensors*")):
        copyfile(path, folder / path.name)
        if path.suffix == ".safetensors":
            start = (8 + int.from_bytes(path.open("rb").read(8), "little")) // 2  # headers are padded to 8 bytes
            values = np.memmap(folder / path.name, np.uint16, "r+")
            for at in range(start, values.size, CHUNK):
                values[at : at + CHUNK : 97] ^= 1
            values.flush()
    copyfile(of / "config.json", folder / "config.json")
    return folder


def _write_shard(
    path: Path, tensors: list[tuple[str, tuple[int, ...]]], pool: np.ndarray, facts: Planted, seed: int
) -> None:
    header: dict[str, dict[str, Any]] = {}
    offset = 0
    for name, shape in tensors:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + _nbytes(shape)]}
        offset += _nbytes(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    starts = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        data = file.tell()
        for _, shape in tensors:
            _write_values(file, pool, int(starts.integers(pool.size)), int(np.prod(shape)))
        for name, shape in tensors:
            _plant(file, data + header[name]["data_offsets"][0], name, shape, facts)


def _write_values(file: BinaryIO, pool: np.ndarray, start: int, count: int) -> None:
    while count:
        run = pool[start : start + min(count, CHUNK)]
        file.write(run.data)
        count -= run.size
        start = (start + run.size) % pool.size


def _plant(file: BinaryIO, offset: int, name: str, shape: tuple[int, ...], facts: Planted) -> None:
    """Overwrite what `facts` say of this tensor, and make norms what norms are: near one."""
    rng = np.random.default_rng(0)
    if len(shape) == 1:
        _put(file, offset, rng.normal(1.0, 0.1, shape))
    if name == facts.loud_row[0]:
        _put(file, offset + 2 * facts.loud_row[1] * shape[1], rng.normal(0, 8 * STD, shape[1]))
    if name == facts.dead_row[0]:
        _put(file, offset + 2 * facts.dead_row[1] * shape[1], np.zeros(shape[1]))
    if name == facts.low_rank_head[0]:
        _, head, rank = facts.low_rank_head
        low = np.tile(rng.normal(0, STD, (rank, shape[1])), (DIM // rank, 1))  # copied rows: exact in any dtype
        _put(file, offset + 2 * head * DIM * shape[1], low)
    if name == facts.nan[0]:
        _, row, column = facts.nan
        _put(file, offset + 2 * (row * shape[1] + column), np.array([np.nan]))
    file.seek(0, 2)


def _put(file: BinaryIO, offset: int, values: np.ndarray) -> None:
    file.seek(offset)
    file.write(values.astype(ml_dtypes.bfloat16).tobytes())


def _pool(size: int) -> np.ndarray:
    rng = np.random.default_rng(8)
    parts = [rng.standard_normal(min(CHUNK, size - at), np.float32) for at in range(0, size, CHUNK)]
    return np.concatenate([(part * np.float32(STD)).astype(ml_dtypes.bfloat16).view(np.uint16) for part in parts])


def _nbytes(shape: tuple[int, ...]) -> int:
    return 2 * int(np.prod(shape))


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[3]) if sys.argv[2:3] == ["--layers"] else LAYERS)
