"""NAME, its quantised weights: how each way to quantise calls a module's codes, and what lies beside them. Pure.

A quantised module has a tensor of codes and others that say what the codes mean. Their names are the formats' own;
those that would be anybody's (`scale`, `zero`, `shape`) count only beside codes.

Sources: compressed-tensors 0.20, AutoGPTQ 0.7, AutoAWQ, bitsandbytes' QuantState.as_dict, mlx.nn.quantize, torchao,
optimum-quanto, HQQ, AQLM, QuIP#, ExLlamaV2 and V3, VPTQ, EETQ, ModelOpt, ComfyUI's scaled fp8, OpenAI's MXFP4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WEIGHT, SCALE, ZERO, INDEX, BUFFER = "weight", "scale", "zero", "index", "buffer"


@dataclass(frozen=True, slots=True)
class Format:
    """One way to quantise: the last words of the names of a module's tensors.

    `codes` are those of the codes. `tells` are those without which codes mean nothing: codes have one of them beside
    them. `beside` are all others. Both have the part that they are. `per_byte` is how many weights one byte holds, None
    where shapes or the config must tell, 0 where nothing in a header can. `any_dtype` says that codes may be stored as
    whatever dtype.
    """

    title: str
    codes: tuple[str, ...]
    tells: Mapping[str, str]
    beside: Mapping[str, str] = field(default_factory=dict)
    per_byte: int | None = None
    any_dtype: bool = False


_FP8 = {
    "weight_scale": SCALE, "weight_scale_inv": SCALE, "scale_weight": SCALE, "weight_scales": SCALE, "scale": SCALE,
    "scale_inv": SCALE, "weight_scale_2": SCALE, "weight.scale": SCALE, "weight._scale": SCALE,
    "weight_global_scale": SCALE,
}  # fmt: skip
_ACTIVATIONS = {
    "input_scale": BUFFER, "scale_input": BUFFER, "input_scale_ub": BUFFER, "activation_scale": BUFFER,
    "output_scale": BUFFER, "input_global_scale": BUFFER, "input_zero_point": BUFFER, "output_zero_point": BUFFER,
    "pre_quant_scale": BUFFER, "smooth_scale": BUFFER,
}  # fmt: skip
FORMATS = (
    Format("GPTQ or AWQ", ("qweight",), {"scales": SCALE, "qzeros": ZERO}, {"g_idx": INDEX, "perm": INDEX}),
    Format(
        "compressed-tensors", ("weight_packed",),
        {"weight_scale": SCALE, "weight_global_scale": SCALE, "scale_packed": SCALE, "weight_zero_point": ZERO},
        {"weight_g_idx": INDEX, "weight_shape": BUFFER, "meta": INDEX, **_ACTIVATIONS},
    ),
    Format(
        "compressed-tensors sparse", ("weight.compressed", "compressed"),
        {"weight.bitmask": INDEX, "bitmask": INDEX}, {"weight.shape": BUFFER, "weight.row_offsets": INDEX},
        per_byte=0, any_dtype=True,
    ),
    Format(
        "bitsandbytes, 4 bits", ("weight",), {"weight.absmax": SCALE},
        {"weight.quant_map": BUFFER, "weight.nested_absmax": SCALE, "weight.nested_quant_map": BUFFER,
         "weight.quant_state.bitsandbytes__nf4": BUFFER, "weight.quant_state.bitsandbytes__fp4": BUFFER}, per_byte=2,
        any_dtype=True,
    ),
    Format("bitsandbytes, 8 bits", ("weight", "CB"), {"SCB": SCALE}, {"weight_format": BUFFER}, per_byte=1),
    Format("MLX", ("weight",), {"scales": SCALE}, {"biases": ZERO}),
    Format("scaled", ("weight",), _FP8, {"weight_zero_point": ZERO, **_ACTIVATIONS}),
    Format("quanto", ("weight._data", "weight._data._data"), {"weight._scale": SCALE}, {"weight._shift": ZERO}),
    Format("torchao", ("weight_qdata", "weight:_data"), {"weight_scale": SCALE, "weight:_scale": SCALE}, per_byte=1),
    Format(
        "HQQ", ("W_q",), {"scale": SCALE, "zero": ZERO},
        {"shape": BUFFER, "nbits": BUFFER, "group_size": BUFFER, "axis": BUFFER, "packing": BUFFER, "meta": BUFFER,
         "view_as_float": BUFFER, "unpack_view_dtype": BUFFER, "compute_dtype": BUFFER, "offload_meta": BUFFER,
         "channel_wise": BUFFER, "optimize": BUFFER, "round_zero": BUFFER, "quant_scale": BUFFER, "quant_zero": BUFFER,
         "encoded_state_dict": BUFFER, "stores_quant_config": BUFFER},
    ),
    Format("AQLM", ("codes",), {"codebooks": BUFFER, "scales": SCALE}, per_byte=0),
    Format("QuIP#", ("Qidxs",), {"SU": SCALE, "SV": SCALE}, {"Wscale": SCALE, "codebook_id": BUFFER}, per_byte=0),
    Format(
        "ExLlamaV2", ("q_weight",), {"q_scale": SCALE, "q_scale_max": SCALE},
        {"q_groups": INDEX, "q_invperm": INDEX, "q_perm": INDEX}, per_byte=0,
    ),
    Format(
        "ExLlamaV3", ("trellis",), {"suh": SCALE, "svh": SCALE, "su": SCALE, "sv": SCALE},
        {"mcg": BUFFER, "mul1": BUFFER}, per_byte=0,
    ),
    Format(
        "VPTQ", ("indices",), {"centroids.weight": BUFFER},
        {"res_centroids.weight": BUFFER, "outlier_centroids.weight": BUFFER, "weight_scale": SCALE, "weight_bias": ZERO,
         "perm": INDEX}, per_byte=0,
    ),
)  # fmt: skip
# what follows the name of the codes themselves, as of stacked experts, in the place of a word of the module's
JOINED = {
    "_scales": SCALE, "_scale": SCALE, "_scale_inv": SCALE, "_weight_scale": SCALE, "_weight_scale_inv": SCALE,
    "_scale_2": SCALE, "_weight_scale_2": SCALE, ".weight_scale": SCALE, ".weight_scale_inv": SCALE, ".scale": SCALE,
    ".scale_inv": SCALE, "_zero_point": ZERO, "_input_scale": BUFFER, ".input_scale": BUFFER,
}  # fmt: skip
BLOCKS, BLOCK_SCALES = "_blocks", "_scales"  # MXFP4's
# endings that nothing else has, so that they say what they are without codes beside them
ALWAYS = {
    "qweight": WEIGHT, "qzeros": ZERO, "g_idx": INDEX, "weight_packed": WEIGHT, "weight_scale": SCALE,
    "weight_scale_inv": SCALE, "scales": SCALE, "SCB": SCALE, "weight_zero_point": ZERO, "biases": ZERO,
    "weight_g_idx": INDEX, "weight_shape": BUFFER, "input_scale": BUFFER, "W_q": WEIGHT, "Qidxs": WEIGHT,
    "scaled_fp8": BUFFER,
}  # fmt: skip
# single numbers of a KV cache: an attention has them, and no weight of its own
CACHE = frozenset({"k_scale", "v_scale", "kv_scale", "q_scale", "prob_scale", "k_zero_point", "v_zero_point"})
CONFIGS = ("quantization_config", "compression_config", "quantization")  # where a config says how weights are quantised


def _list_endings() -> dict[str, tuple[tuple[Format, str], ...]]:
    """Every ending, with the formats that have it and the part that it is of them."""
    found: dict[str, tuple[tuple[Format, str], ...]] = {}
    for of in FORMATS:
        for ending, part in {**dict.fromkeys(of.codes, WEIGHT), **of.tells, **of.beside}.items():
            found[ending] = (*found.get(ending, ()), (of, part))
    return found


ENDINGS = _list_endings()
# what tells at a glance that a name, or codes of any dtype, are of no format: most tensors of most checkpoints
LAST_WORDS = {ending.rpartition(".")[2] for ending in (*ENDINGS, *ALWAYS, *CACHE)} - {WEIGHT}
LAST_LETTERS = (*JOINED, BLOCKS, *(ending for ending in ENDINGS if ending.endswith(f".{WEIGHT}")))
BESIDE_ANY_DTYPE = tuple(tell for of in FORMATS if of.any_dtype and WEIGHT in of.codes for tell in of.tells)
