"""NAME, codes: by what lies beside them, in every format's names, and how many weights they are when unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import shardscan
from made import tiny
from made.placing import CONFIG, Facts, Q, checkpoint, placed
from shardscan.anatomy.placement import place_tensors

S = "F32"
# of a q_proj of 32 x 64 weights: what lies in its module, the part that each tensor is, whether its values are codes,
# and what the config says of quantisation
FORMATS: dict[str, tuple[dict[str, tuple[str, tuple[int, ...], str, bool]], dict[str, Any]]] = {
    "GPTQ": (
        {
            "qweight": ("I32", (8, 32), "weight", True),
            "qzeros": ("I32", (2, 4), "zero", True),
            "scales": ("F16", (2, 32), "scale", False),
            "g_idx": ("I32", (64,), "index", False),
            "bias": ("F16", (32,), "bias", False),
        },
        {},
    ),
    "GPTQ in 3 bits": (
        {
            "qweight": ("I32", (6, 32), "weight", True),
            "qzeros": ("I32", (2, 3), "zero", True),
            "scales": ("F16", (2, 32), "scale", False),
        },
        {},
    ),
    "GPTQ without zeros": (
        {"qweight": ("I32", (8, 32), "weight", True), "scales": ("F16", (2, 32), "scale", False)},
        {"quant_method": "gptq", "bits": 4},
    ),
    "AWQ": (
        {
            "qweight": ("I32", (64, 4), "weight", True),
            "qzeros": ("I32", (1, 4), "zero", True),
            "scales": ("F16", (1, 32), "scale", False),
        },
        {},
    ),
    "compressed-tensors in 4 bits": (
        {
            "weight_packed": ("I32", (32, 8), "weight", True),
            "weight_scale": ("BF16", (32, 1), "scale", False),
            "weight_zero_point": ("I32", (4, 1), "zero", True),
            "weight_shape": ("I64", (2,), "buffer", False),
        },
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}},
    ),
    "NVFP4": (
        {
            "weight_packed": ("U8", (32, 32), "weight", True),
            "weight_scale": ("F8_E4M3", (32, 4), "scale", False),
            "weight_global_scale": (S, (1,), "scale", False),
            "input_global_scale": (S, (1,), "buffer", False),
        },
        {},
    ),
    "NVFP4 of ModelOpt": (
        {
            "weight": ("U8", (32, 32), "weight", True),
            "weight_scale": ("F8_E4M3", (32, 4), "scale", False),
            "weight_scale_2": (S, (), "scale", False),
            "input_scale": (S, (), "buffer", False),
        },
        {},
    ),
    "fp8 by blocks": (
        {"weight": ("F8_E4M3", (32, 64), "weight", True), "weight_scale_inv": (S, (1, 1), "scale", False)},
        {},
    ),
    "fp8 with static activations": (
        {
            "weight": ("F8_E4M3", (32, 64), "weight", True),
            "weight_scale": (S, (1,), "scale", False),
            "input_scale": (S, (1,), "buffer", False),
        },
        {},
    ),
    "fp8 of ComfyUI": (
        {
            "weight": ("F8_E4M3", (32, 64), "weight", True),
            "scale_weight": (S, (), "scale", False),
            "scale_input": (S, (), "buffer", False),
        },
        {},
    ),
    "fp8 of DeepSeek's own files": (
        {"weight": ("F8_E4M3", (32, 64), "weight", True), "scale": (S, (1, 1), "scale", False)},
        {},
    ),
    "bitsandbytes in 4 bits": (
        {
            "weight": ("U8", (1024, 1), "weight", True),
            "weight.absmax": ("U8", (32,), "scale", True),
            "weight.quant_map": (S, (16,), "buffer", False),
            "weight.nested_absmax": (S, (1,), "scale", False),
            "weight.nested_quant_map": (S, (256,), "buffer", False),
            "weight.quant_state.bitsandbytes__nf4": ("U8", (90,), "buffer", False),
        },
        {},
    ),
    "bitsandbytes in 4 bits, stored as bfloat16": (
        {
            "weight": ("BF16", (512, 1), "weight", True),
            "weight.absmax": (S, (32,), "scale", False),
            "weight.quant_map": (S, (16,), "buffer", False),
            "weight.quant_state.bitsandbytes__fp4": ("U8", (90,), "buffer", False),
        },
        {},
    ),
    "bitsandbytes in 8 bits": (
        {
            "weight": ("I8", (32, 64), "weight", True),
            "SCB": (S, (32,), "scale", False),
            "weight_format": ("U8", (), "buffer", False),
        },
        {},
    ),
    "MLX": (
        {
            "weight": ("U32", (32, 8), "weight", True),
            "scales": ("F16", (32, 1), "scale", False),
            "biases": ("F16", (32, 1), "zero", False),
        },
        {"group_size": 64, "bits": 4},
    ),
    "quanto": (
        {"weight._data": ("I8", (32, 64), "weight", True), "weight._scale": ("BF16", (32, 1), "scale", False)},
        {"quant_method": "quanto", "bits": 8},
    ),
    "torchao": (
        {"weight_qdata": ("I8", (32, 64), "weight", True), "weight_scale": ("BF16", (32, 1), "scale", False)},
        {},
    ),
    "HQQ": (
        {
            "W_q": ("U8", (16, 64), "weight", True),
            "scale": ("BF16", (32, 1), "scale", False),
            "zero": ("BF16", (32, 1), "zero", False),
            "shape": ("I64", (2,), "buffer", False),
            "nbits": ("I32", (), "buffer", False),
        },
        {"quant_method": "hqq", "quant_config": {}, "bits": 4},
    ),
    "a scale for the whole, of any name": (
        {"weight": ("F8_E4M3", (32, 64), "weight", True), "amax": (S, (), "weight", False)},
        {},
    ),
}  # fmt: skip
UNCOUNTED: dict[str, dict[str, tuple[str, tuple[int, ...], str, bool]]] = {
    "compressed-tensors, sparse": {
        "weight.compressed": ("BF16", (1024,), "weight", True),
        "weight.bitmask": ("U8", (32, 8), "index", False),
        "weight.shape": ("I64", (2,), "buffer", False),
        "weight.row_offsets": ("I64", (32, 1), "index", False),
    },
    "AQLM": {
        "codes": ("I16", (32, 8, 1), "weight", True),
        "codebooks": ("F16", (1, 65536, 1, 8), "buffer", False),
        "scales": ("F16", (32, 1, 1, 1), "scale", False),
    },
    "QuIP#": {
        "Qidxs": ("I16", (32, 8), "weight", True),
        "SU": ("F16", (64,), "scale", False),
        "SV": ("F16", (32,), "scale", False),
        "codebook_id": ("I64", (), "buffer", False),
    },
    "ExLlamaV2": {
        "q_weight": ("I32", (8, 32), "weight", True),
        "q_scale": ("I32", (2, 4), "scale", True),
        "q_scale_max": ("F16", (2,), "scale", False),
        "q_groups": ("I16", (4,), "index", False),
        "q_invperm": ("I32", (64,), "index", False),
    },
    "MLX without a config": {
        "weight": ("U32", (32, 8), "weight", True),
        "scales": ("F16", (32, 1), "scale", False),
        "biases": ("F16", (32, 1), "zero", False),
    },
}


def module(tensors: dict[str, tuple[str, tuple[int, ...], str, bool]]) -> dict[str, Facts]:
    return {f"{Q}.{name}": (dtype, shape) for name, (dtype, shape, _, _) in tensors.items()}


@pytest.mark.parametrize(
    "tensors", [*(t for t, _ in FORMATS.values()), *UNCOUNTED.values()], ids=[*FORMATS, *UNCOUNTED]
)
def test_codes_are_told_by_what_lies_beside_them(tensors: dict[str, tuple[str, tuple[int, ...], str, bool]]) -> None:
    found = placed(module(tensors))
    told = {name.removeprefix(f"{Q}."): (p.place.part, p.codes is not None) for name, p in found.items()}
    assert told == {name: (part, codes) for name, (_, _, part, codes) in tensors.items()}
    for name, p in found.items():
        if tensors[name.removeprefix(f"{Q}.")][2] != "weight" or p.codes:
            assert (p.place.role, p.place.layer, p.matrices) == ("q_proj", 0, ())


@pytest.mark.parametrize("name", FORMATS)
def test_the_parameters_of_codes_are_the_weights_that_they_are(name: str) -> None:
    tensors, quantisation = FORMATS[name]
    key = "quantization" if name == "MLX" else "quantization_config"
    anatomy = place_tensors(checkpoint(module(tensors), {**CONFIG, **({key: quantisation} if quantisation else {})}))
    beside = sum(p.tensor.parameters for p in anatomy.placed if p.place.part in ("bias", "weight") and not p.codes)
    assert anatomy.parameters - beside == 32 * 64


@pytest.mark.parametrize("name", UNCOUNTED)
def test_where_nothing_tells_how_many_weights_codes_are_none_are_said(name: str) -> None:
    found = placed(module(UNCOUNTED[name]))
    (codes,) = (p for p in found.values() if p.place.part == "weight")
    assert codes.parameters is None and codes.counted == codes.tensor.parameters


def test_modules_that_mlx_gives_other_bits_are_counted_by_their_own() -> None:
    tensors = {f"{Q}.weight": ("U32", (32, 16)), f"{Q}.scales": ("F16", (32, 1))}
    config = {**CONFIG, "quantization": {"group_size": 64, "bits": 4, Q: {"group_size": 64, "bits": 8}}}
    assert placed(tensors, config)[f"{Q}.weight"].parameters == 32 * 64


@pytest.mark.parametrize("beside", [("BF16", ()), ("F32", (1,)), ("F16", (32,)), ("F32", (32, 1)), ("F32", (2, 4))])
def test_whatever_is_shaped_like_scales_makes_eight_bits_codes(beside: Facts) -> None:
    found = placed({f"{Q}.weight": ("F8_E4M3", (32, 64)), f"{Q}.s": beside})
    assert found[f"{Q}.weight"].codes == "F8_E4M3 codes with s beside them"


@pytest.mark.parametrize("beside", [("F8_E4M3", (32,)), ("F32", (7,)), ("F32", (64, 32)), ("F32", (32, 64))])
def test_what_is_not_shaped_like_scales_leaves_them_weights(beside: Facts) -> None:
    assert placed({f"{Q}.weight": ("F8_E4M3", (32, 64)), f"{Q}.s": beside})[f"{Q}.weight"].codes is None


def test_a_plain_cast_to_fp8_with_biases_is_weights() -> None:
    norm = "model.layers.0.input_layernorm"
    found = placed({
        f"{Q}.weight": ("F8_E4M3", (32, 64)), f"{Q}.bias": ("F32", (32,)),
        f"{norm}.weight": ("F8_E4M3", (64,)), f"{norm}.bias": ("F32", (64,)), "logit_scale": ("F32", ()),
    })  # fmt: skip
    assert [p.codes for p in found.values()] == [None] * 5


@pytest.mark.parametrize("scale", ["_scale", "_scale_inv", "_weight_scale", ".weight_scale"])
def test_stacked_experts_have_their_scales_under_their_own_name(scale: str) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    found = placed({name: ("F8_E4M3", (4, 64, 32)), f"{name}{scale}": ("F32", (4, 1, 1))}, None)
    assert "beside them" in (found[name].codes or "") and found[name].parameters == 4 * 64 * 32
    assert found[f"{name}{scale}"].place.part == "scale" and found[f"{name}{scale}"].parameters == 0


def test_scales_of_a_kv_cache_are_no_weights() -> None:
    name = "model.layers.0.self_attn"
    found = placed(
        {f"{Q}.weight": ("BF16", (32, 64)), f"{name}.k_scale": ("F32", ()), f"{name}.v_scale": ("F32", (1,))}
    )
    assert [p.place.part for p in found.values()] == ["weight", "buffer", "buffer"]


def test_a_parameter_called_scale_is_what_it_is_where_there_are_no_codes() -> None:
    found = placed({"blocks.0.norm.scale": ("BF16", (32,)), "blocks.0.zero": ("BF16", (32,))})
    assert [(p.place.part, p.codes) for p in found.values()] == [("weight", None)] * 2


def test_mxfp4_blocks_and_the_scales_beside_them_are_codes() -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    found = placed({f"{name}_blocks": ("U8", (2, 4, 1, 16)), f"{name}_scales": ("U8", (2, 4, 1))})
    assert [(p.place.part, p.place.layer, p.codes, p.parameters) for p in found.values()] == [
        ("weight", 0, "MXFP4 blocks with scales beside them", 2 * 4 * 32),
        ("scale", 0, "U8 codes of a scale", 0),
    ]


@pytest.mark.parametrize(("dtype", "codes"), [("I8", True), ("I32", True), ("F8_E4M3", False), ("BOOL", False)])
def test_an_integer_weight_is_codes_and_a_bare_float8_is_a_weight(dtype: str, codes: bool) -> None:
    assert (placed({f"{Q}.weight": (dtype, (32, 32))})[f"{Q}.weight"].codes is not None) is codes


@pytest.mark.parametrize("sections", [(), ("text_config",), ("thinker_config", "text_config")])
def test_what_any_section_of_a_config_says_of_quantisation_makes_small_floats_codes(sections: tuple[str, ...]) -> None:
    stated: dict[str, Any] = {"quantization_config": {"quant_method": "fp8"}}
    for section in reversed(sections):
        stated = {section: stated}
    found = placed({f"{Q}.weight": ("F8_E4M3", (32, 32)), "lm_head.weight": ("BF16", (32, 32))}, CONFIG | stated)
    why = "F8_E4M3 codes: the config says that weights are quantised, method 'fp8'"
    assert [p.codes for p in found.values()] == [why, None]


def test_what_describes_codes_does_not_count_against_a_family() -> None:
    tensors: dict[str, Facts] = {"model.embed_tokens.weight": ("BF16", (96, 32))}
    for layer in range(2):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            at = f"model.layers.{layer}.self_attn.{name}"
            tensors |= {f"{at}.weight": ("U8", (512, 1)), f"{at}.weight.absmax": ("U8", (16,))}
            tensors |= {f"{at}.weight.quant_map": ("F32", (16,)), f"{at}.weight.nested_absmax": ("F32", (1,))}
    assert place_tensors(checkpoint(tensors, None)).family == "llama"


def test_codes_are_never_ok_and_the_catalog_counts_weights(tmp_path: Path) -> None:
    rng, codes = np.random.default_rng(0), ml_dtypes.float8_e4m3fn
    tensors = {"model.embed_tokens.weight": rng.normal(size=(96, 32)).astype(np.float32)}
    for name, rows in (("q_proj", 32), ("k_proj", 16)):
        at = f"model.layers.0.self_attn.{name}"
        tensors |= {
            f"{at}.weight": rng.normal(0, 60, (rows, 32)).astype(codes),
            f"{at}.scale_weight": np.array(2e-3, np.float32),
        }
    at = "model.layers.0.mlp.up_proj.weight"
    tensors |= {at: rng.integers(0, 256, (24 * 32 // 2, 1), np.uint8), f"{at}.absmax": np.ones(12, np.float32)}
    shardscan.ingest(tiny.write(tmp_path / "model", tensors, CONFIG), tmp_path / "scans")
    with shardscan.connect(tmp_path / "scans") as db:
        told = db.execute("SELECT role, status, parameters FROM tensors WHERE part = 'weight' ORDER BY role").fetchall()
        total = db.execute("SELECT parameters FROM models").fetchall()
        sized = db.execute("SELECT parameters FROM size_report('%') WHERE level = 'model'").fetchall()
        spectra = db.execute("SELECT count(*) FROM spectra").fetchall()
    count = 96 * 32 + 48 * 32 + 24 * 32
    assert told == [("embed_tokens", "ok", 96 * 32), ("k_proj", "codes", 16 * 32), ("q_proj", "codes", 32 * 32),
                    ("up_proj", "codes", 24 * 32)]  # fmt: skip
    assert (total, sized, spectra) == ([(count,)], [(count,)], [(0,)])
