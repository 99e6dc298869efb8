"""NAME, its names: what a tensor's name says by itself, whatever the family: wrappers, module, part, adapter. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from shardscan.anatomy.codes import Part
from shardscan.shards.address import Tensor
from shardscan.shards.dtypes import DTYPES

# words that wrappers put into names, before a module at any depth: DataParallel and DDP, torch.compile, FSDP and
# activation checkpointing, fairscale's FSDP, Lightning Fabric and its strategies
WRAPPERS = re.compile(
    r"(?<![^.])(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module|_forward_module)\.)+"
)
ADAPTED = re.compile(r"\A(?:base_model\.model\.)+")  # what PEFT puts before the names of a model that it adapts
# the last words of names that say what a tensor is, beside those of quantised weights
PARTS = {
    "weight": "weight", "bias": "bias",
    "inv_freq": "buffer", "position_ids": "buffer", "masked_bias": "buffer",
}  # fmt: skip
# PEFT's: lora_A and lora_B of linear modules, lora_embedding_A and _B of embeddings, with the adapter's name or without
LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.(?P<adapter>(?!weight$)[^.]+))?(\.weight)?"
)


class LoraName(NamedTuple):
    """What the name of a LoRA factor says; `factor` is A or B."""

    module: str
    factor: str
    adapter: str | None
    embedding: bool


def canonical(name: str) -> str:
    """The name without the words that wrappers put into it, and without PEFT's prefix."""
    if "mod" not in name:  # as in every word of a wrapper, and in few other names: a checkpoint may have 200,000
        return name
    return ADAPTED.sub("", WRAPPERS.sub("", name))


def lora(name: str) -> LoraName | None:
    """The module that a LoRA factor adapts, and which factor it is; None of any other tensor."""
    if ".lora_" not in name:
        return None
    match = LORA.fullmatch(canonical(name))
    if not match:
        return None
    module = match["module"].removesuffix(".base_layer")
    return LoraName(module, match["factor"], match["adapter"], match["embedding"] is not None)


def split(tensor: Tensor, quantised: Part | None) -> tuple[str, str]:
    """Module name and part: as a quantised module's, by the name's last word, else by what the values look like."""
    if quantised:
        return canonical(f"{quantised.module}.").removesuffix(".").removesuffix(".base_layer"), quantised.part
    name = canonical(tensor.name)
    if factor := lora(name):
        return factor.module, f"lora_{factor.factor.lower()}"
    module, _, last = name.rpartition(".")
    if module and last in PARTS:
        return module.removesuffix(".base_layer"), PARTS[last]
    return name, "weight" if DTYPES[tensor.dtype].kind in ("float", "complex") else "buffer"
