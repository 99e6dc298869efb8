"""A Llama-shaped checkpoint of a few kB, and a store with it: what the store's and the catalog's tests look at."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 16, 24, 4, 2, 8, 40
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCAB,
}


def llama(folder: Path, *, seed: int = 0, inner: tuple[int, ...] = (INNER, INNER)) -> Path:
    """Write a checkpoint of one layer for each entry of `inner`, which is the width of that layer's MLP."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)

    tensors = {"model.embed_tokens.weight": weight(VOCAB, HIDDEN), "model.norm.weight": weight(HIDDEN)}
    for layer, width in enumerate(inner):
        prefix = f"model.layers.{layer}."
        tensors |= {
            f"{prefix}self_attn.q_proj.weight": weight(HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.k_proj.weight": weight(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.v_proj.weight": weight(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.o_proj.weight": weight(HIDDEN, HEADS * HEAD_DIM),
            f"{prefix}mlp.up_proj.weight": weight(width, HIDDEN),
            f"{prefix}mlp.down_proj.weight": weight(HIDDEN, width),
            f"{prefix}input_layernorm.weight": weight(HIDDEN),
        }
    return write(folder, tensors, CONFIG | {"num_hidden_layers": len(inner)})


def write(folder: Path, tensors: dict[str, np.ndarray], config: dict[str, object] | None = None) -> Path:
    """Write any tensors as one shard, with a config.json if there is one to write."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
