"""A small checkpoint with planted facts, scanned, and each fact beside the SQL that finds it.

Llama-shaped, bfloat16, grouped-query attention, two shards: 51 MB. Where the facts are planted comes from a seed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shardscan.errors import StoreError, shown
from shardscan.store.lock import reporting_unwritable

if TYPE_CHECKING:
    import pyarrow as pa

LAYERS, HIDDEN, INNER, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 6, 512, 1408, 8192, 8, 2, 64
STORE = "scans"
LOW_RANK = 8
OUTLIER = 8.0
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """What was planted, the SQL that looks for it, the rows that it must give and, once asked, those it gave."""

    planted: str
    sql: str
    expected: list[tuple[Any, ...]]
    rows: pa.Table | None = None

    @property
    def found(self) -> bool:
        return self.values == self.expected

    @property
    def values(self) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in self.rows.to_pylist()] if self.rows else []


@dataclass(frozen=True, slots=True)
class Plants:
    """Where facts are: outliers as (layer, role, channel), the low-rank head as (layer, head), dead rows of a layer."""

    outliers: tuple[tuple[int, str, int], ...]
    low_rank: tuple[int, int]
    dead: tuple[int, tuple[int, ...]]


def run_demo(folder: Path, seed: int, progress: Callable[[int, int], None] | None = None) -> tuple[list[Fact], Path]:
    """Make the checkpoint under `folder`, scan it, look for every fact; the facts and the store.

    StoreError where `folder` holds something else.
    """
    from shardscan.answers.connection import run_sql
    from shardscan.jobs.scan.job import ingest

    checkpoint, store = folder / f"demo-{seed}", folder / STORE
    with reporting_unwritable(folder):
        _refuse_foreign(folder)
        if not (checkpoint / "config.json").exists():
            write_checkpoint(checkpoint, seed)
    ingest(checkpoint, store, progress=progress)
    facts = list_facts(choose_plants(seed), checkpoint.name)
    return [dataclasses.replace(fact, rows=run_sql(store, fact.sql)) for fact in facts], store


def _refuse_foreign(folder: Path) -> None:
    """A demo may leave a checkpoint half written or a store half filled; whatever else is there is not a demo's."""
    inside = {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.exists() else set()
    own = {name for name in inside if re.fullmatch(r"demo-\d+", name)}
    foreign = sorted(inside - own - {STORE} if own else inside)
    if foreign:
        raise StoreError(
            f"{shown(str(folder), 400)} holds something else, such as {shown(foreign[0])}: name a folder that is new "
            "or empty."
        )


def choose_plants(seed: int) -> Plants:
    """The places that a seed chooses."""
    rng = np.random.default_rng(seed)
    layers = rng.choice(LAYERS, 3, replace=False)
    outliers = sorted((int(layer), "up_proj", int(rng.integers(HIDDEN))) for layer in layers)
    low_rank = int(rng.integers(LAYERS)), int(rng.integers(HEADS))
    dead = int(rng.integers(LAYERS)), tuple(sorted(int(r) for r in rng.choice(INNER, 3, replace=False)))
    return Plants(tuple(outliers), low_rank, dead)


def list_facts(planted: Plants, model: str) -> list[Fact]:
    """What to look for, and how."""
    where = f"where model = '{model}'"
    layer, head = planted.low_rank
    dead_layer, dead_rows = planted.dead
    return [
        Fact(
            f"{len(planted.outliers)} input channels of up_proj, {OUTLIER:g} times as large as the others",
            f"select layer, role, channel\nfrom outlier_channels(sigma := 6)\n{where}\norder by layer, channel",
            list(planted.outliers),
        ),
        Fact(
            f"a query head of rank {LOW_RANK} among heads of rank {HEAD_DIM}",
            f"select layer, role, head, numerical_rank\nfrom ranks\n{where} and numerical_rank < design_rank",
            [(layer, "q_proj", head, LOW_RANK)],
        ),
        Fact(
            f"{len(dead_rows)} dead rows of gate_proj",
            f"select layer, role, channel\nfrom channels\n{where} and axis = 'out' and absmax = 0\n"
            "order by layer, channel",
            [(dead_layer, "gate_proj", row) for row in dead_rows],
        ),
        Fact(
            f"{HEADS} query heads share {KV_HEADS} key and value heads, stored once",
            "select role, count(*) as heads, min(queries_per_head) as queries_per_head\n"
            f"from spectra join matrices using (model, matrix, role)\n{where} and head is not null\n"
            "group by role\norder by role",
            [
                ("k_proj", LAYERS * KV_HEADS, HEADS // KV_HEADS),
                ("o_proj", LAYERS * HEADS, 1),
                ("q_proj", LAYERS * HEADS, 1),
                ("v_proj", LAYERS * KV_HEADS, HEADS // KV_HEADS),
            ],
        ),
    ]


def write_checkpoint(folder: Path, seed: int) -> None:
    """Write the checkpoint: two shards with an index, config.json last."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = _make_tensors(seed, choose_plants(seed))
    names = list(tensors)
    half = len(names) // 2
    weight_map: dict[str, str] = {}
    for i, part in enumerate((names[:half], names[half:]), 1):
        file = f"model-{i:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(w.nbytes for w in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), "utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1), "utf-8")


def _make_tensors(seed: int, planted: Plants) -> dict[str, np.ndarray]:
    from ml_dtypes import bfloat16

    rng = np.random.default_rng([seed, 1])

    def weight(rows: int, cols: int) -> np.ndarray:
        return rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(0.02)

    tensors = {"model.embed_tokens.weight": weight(VOCAB, HIDDEN)}
    shapes = {
        "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors |= {f"{prefix}{module}.weight": weight(*shape) for module, shape in shapes.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{norm}.weight"] = np.ones(HIDDEN, np.float32)
    tensors |= {"model.norm.weight": np.ones(HIDDEN, np.float32), "lm_head.weight": weight(VOCAB, HIDDEN)}
    _plant(tensors, planted)
    return {name: w.astype(bfloat16) for name, w in tensors.items()}


def _plant(tensors: dict[str, np.ndarray], planted: Plants) -> None:
    for layer, role, channel in planted.outliers:
        tensors[f"model.layers.{layer}.mlp.{role}.weight"][:, channel] *= OUTLIER
    layer, head = planted.low_rank
    rows = tensors[f"model.layers.{layer}.self_attn.q_proj.weight"][head * HEAD_DIM : (head + 1) * HEAD_DIM]
    # copies and powers of two keep the rank exact in bfloat16, where a product of factors would not
    rows[:] = np.concatenate([rows[:LOW_RANK] * np.float32(2.0**-i) for i in range(HEAD_DIM // LOW_RANK)])
    dead_layer, dead_rows = planted.dead
    tensors[f"model.layers.{dead_layer}.mlp.gate_proj.weight"][list(dead_rows)] = 0
