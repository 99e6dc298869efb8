"""NAME, its names: what a tensor's name says by itself, whatever the family: wrappers, module, part, adapter. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from shardscan.shards.address import Tensor
from shardscan.shards.dtypes import DTYPES

# words that wrappers put into names, before a module at any depth: DataParallel and DDP, torch.compile, FSDP and
# activation checkpointing, fairscale's FSDP, Lightning Fabric and its strategies
WRAPPERS = re.compile(
    r"(?<![^.])(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module|_forward_module)\.)+"
)
ADAPTED = re.compile(r"\A(?:base_model\.model\.)+")  # what PEFT puts before the names of a model that it adapts
# input_scale scales activations: as a second scale of one module it would be a rival of weight_scale
PARTS = {
    "weight": "weight", "bias": "bias", "qweight": "weight", "weight_packed": "weight",
    "weight_scale": "scale", "weight_scale_inv": "scale", "scales": "scale", "SCB": "scale",
    "qzeros": "zero", "weight_zero_point": "zero", "biases": "zero", "g_idx": "index", "weight_g_idx": "index",
    "inv_freq": "buffer", "position_ids": "buffer", "masked_bias": "buffer", "input_scale": "buffer",
    "weight_shape": "buffer",
}  # fmt: skip
# PEFT's: lora_A and lora_B of linear modules, lora_embedding_A and _B of embeddings, with the adapter's name or without
LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.(?P<adapter>(?!weight$)[^.]+))?(\.weight)?"
)
BLOCKS, BLOCK_SCALES = "_blocks", "_scales"  # MXFP4's


class LoraName(NamedTuple):
    """What the name of a LoRA factor says; `factor` is A or B."""

    module: str
    factor: str
    adapter: str | None
    embedding: bool


def canonical(name: str) -> str:
    """The name without the words that wrappers put into it, and without PEFT's prefix."""
    return ADAPTED.sub("", WRAPPERS.sub("", name))


def lora(name: str) -> LoraName | None:
    """The module that a LoRA factor adapts, and which factor it is; None of any other tensor."""
    match = LORA.fullmatch(canonical(name))
    if not match:
        return None
    module = match["module"].removesuffix(".base_layer")
    return LoraName(module, match["factor"], match["adapter"], match["embedding"] is not None)


def split(tensor: Tensor) -> tuple[str, str]:
    """Module name and part: the last word of the name if it is a part's, else what the values look like."""
    name = canonical(tensor.name)
    if factor := lora(name):
        return factor.module, f"lora_{factor.factor.lower()}"
    module, _, last = name.rpartition(".")
    if module and last in PARTS:
        return module.removesuffix(".base_layer"), PARTS[last]
    for ending, part in ((BLOCKS, "weight"), (BLOCK_SCALES, "scale")):
        if name.endswith(ending):
            return name.removesuffix(ending), part
    return name, "weight" if DTYPES[tensor.dtype].kind in ("float", "complex") else "buffer"
