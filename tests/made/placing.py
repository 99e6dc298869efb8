"""Headers without any file, and where their tensors belong: a tensor is its dtype and its shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from shardscan.anatomy.placement import place_tensors
from shardscan.anatomy.places import Placed
from shardscan.shards.address import Checkpoint, Tensor
from shardscan.shards.dtypes import DTYPES

Facts = tuple[str, tuple[int, ...]]
HIDDEN, HEADS, KV_HEADS, DIM = 32, 4, 2, 8
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
}
Q = "model.layers.0.self_attn.q_proj"


def checkpoint(tensors: Mapping[str, Facts], config: dict[str, Any] | None) -> Checkpoint:
    made = {}
    for name, (dtype, shape) in tensors.items():
        nbytes = DTYPES[dtype].nbytes(math.prod(shape))
        made[name] = Tensor(name, dtype, shape, "model.safetensors", "/nowhere/model.safetensors", 0, nbytes)
    return Checkpoint("/nowhere", "model", "safetensors", (), made, config)


def placed(tensors: Mapping[str, Facts], config: dict[str, Any] | None = CONFIG) -> dict[str, Placed]:
    return {p.tensor.name: p for p in place_tensors(checkpoint(tensors, config)).placed}
