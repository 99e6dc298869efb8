"""NAME, its codes: which tensors hold quantised codes instead of weights. Pure.

Statistics of codes would be statistics of something else than the weights.
"""

from __future__ import annotations

from shardscan.anatomy.names import BLOCK_SCALES, BLOCKS
from shardscan.errors import shown
from shardscan.shards.address import Checkpoint, Tensor
from shardscan.shards.dtypes import DTYPES

CODE_ENDINGS = ("qweight", "qzeros", "weight_packed", "weight_zero_point")
SCALES_OF_WEIGHT = ("weight_scale", "weight_scale_inv", "SCB", "scales")


def codes_of(tensor: Tensor, checkpoint: Checkpoint, part: str) -> str | None:
    """Why the values are quantised codes, or None; by the names beside it, by the config, by an integer dtype."""
    module, _, last = tensor.name.rpartition(".")
    dtype = DTYPES[tensor.dtype]
    if last in CODE_ENDINGS:
        return f"codes ({last}) until they can be dequantised"
    if tensor.name.endswith(BLOCKS) and tensor.name.removesuffix(BLOCKS) + BLOCK_SCALES in checkpoint:
        return "MXFP4 blocks with scales beside them"
    # a float of 16 bits or more is a weight; an integer of any width may be several codes in one
    if part != "weight" or dtype.kind == "bool" or (dtype.kind != "int" and dtype.bits > 8):
        return None
    scale = next((s for s in SCALES_OF_WEIGHT if f"{module}.{s}" in checkpoint), None)
    if scale:
        return f"{tensor.dtype} codes with {scale} beside them"
    quantisation = (checkpoint.config or {}).get("quantization_config")
    if isinstance(quantisation, dict):
        method = shown(str(quantisation.get("quant_method")))
        return f"{tensor.dtype} codes: config.json has a quantization_config, method {method}"
    return f"{tensor.dtype} integers in the place of a weight" if dtype.kind == "int" else None
