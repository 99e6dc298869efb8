"""NAME, its names: what a tensor's name says by itself, whatever the family: wrappers, module, part, adapter. Pure."""

from __future__ import annotations

import re

from shardscan.anatomy.adapters import ADAPTER, find_factor, find_other
from shardscan.anatomy.codes import Part
from shardscan.shards.address import Tensor
from shardscan.shards.dtypes import DTYPES

# words that wrappers put into names, before a module at any depth: DataParallel and DDP, torch.compile, FSDP and
# activation checkpointing, fairscale's FSDP, Lightning Fabric and its strategies
WRAPPERS = re.compile(
    r"(?<![^.])(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module|_forward_module)\.)+"
)
WRAPPING = ("module", "_orig_mod", "base_model")  # one is in every name that a wrapper or PEFT has changed
ADAPTED = re.compile(r"\A(?:base_model\.model\.)+")  # what PEFT puts before the names of a model that it adapts
# the last words of names that say what a tensor is, beside those of quantised weights
PARTS = {
    "weight": "weight", "bias": "bias",
    "inv_freq": "buffer", "position_ids": "buffer", "masked_bias": "buffer",
}  # fmt: skip
# PEFT's wrappers of a module that it adapts, and of one that it trains whole: neither is a name
ADAPTING = re.compile(r"\.base_layer$|\.modules_to_save(\.[^.]+)?$")


def canonical(name: str) -> str:
    """The name without the words that wrappers put into it, and without PEFT's prefix."""
    if not any(word in name for word in WRAPPING):  # as in few names: a checkpoint may have 200,000
        return name
    return ADAPTED.sub("", WRAPPERS.sub("", name))


def split(tensor: Tensor, quantised: Part | None) -> tuple[str, str]:
    """Module name and part: as a quantised module's, an adapter's, by the last word, else by what values look like."""
    if quantised:
        return _without_adapting(canonical(f"{quantised.module}.").removesuffix(".")), quantised.part
    name = canonical(tensor.name)
    if factor := find_factor(name):
        return factor.module, f"lora_{factor.factor.lower()}"
    if other := find_other(name):
        return other.module, ADAPTER
    module, _, last = name.rpartition(".")
    if module and last in PARTS:
        return _without_adapting(module), PARTS[last]
    return name, "weight" if DTYPES[tensor.dtype].kind in ("float", "complex") else "buffer"


def _without_adapting(module: str) -> str:
    """The module that PEFT's wrapper is around."""
    return ADAPTING.sub("", module) if "base_layer" in module or "modules_to_save" in module else module
