"""The usual script for a per-head table: for each head, rebuild its layer from the shards and call svd.

    python bench/peers/per_head_table.py CHECKPOINT HEADS

Does so for HEADS heads, spread over the layers and roles, and prints JSON: the seconds of one head, and how many heads
there are. Nothing is kept between heads, as where a notebook's cell loads what it needs.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # type: ignore[import-not-found,import-untyped,unused-ignore]
from safetensors.torch import load_file
from transformers.models.llama import modeling_llama  # type: ignore[import-not-found,import-untyped,unused-ignore]

ROLES = ("q_proj", "k_proj", "v_proj", "o_proj")


def rebuild(folder: Path, config: Any, layer: int) -> Any:
    weights = {name: w for shard in sorted(folder.glob("*.safetensors")) for name, w in load_file(shard).items()}
    prefix = f"model.layers.{layer}."
    module = modeling_llama.LlamaDecoderLayer(config, layer)
    module.load_state_dict({k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)})
    return module


def row(folder: Path, config: Any, layer: int, role: str, head: int) -> dict[str, object]:
    """One row of the table, from nothing."""
    weight = getattr(rebuild(folder, config, layer).self_attn, role).weight.detach().float()
    weight = weight.T if role == "o_proj" else weight
    dim = config.head_dim
    _, sigma, _ = np.linalg.svd(weight[head * dim : (head + 1) * dim].numpy())
    share = sigma / sigma.sum()
    rank = float(np.exp(-(share * np.log(share)).sum()))
    return {"layer": layer, "role": role, "head": head, "top10": float(sigma[:10].sum()), "effective_rank": rank}


def main(folder: Path, heads: int) -> None:
    config: Any = transformers.LlamaConfig.from_pretrained(folder)
    count = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count |= {"v_proj": count["k_proj"], "o_proj": count["q_proj"]}
    every = [(n, r, h) for n in range(config.num_hidden_layers) for r in ROLES for h in range(count[r])]
    with torch.no_grad():
        row(folder, config, *every[0])
        started = time.perf_counter()
        table = [row(folder, config, *every[i * len(every) // heads]) for i in range(heads)]
        seconds = (time.perf_counter() - started) / heads
    print(json.dumps({"seconds": seconds, "measured": len(table), "heads": len(every)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
