"""NAME: golden places of the families' tensors, heads, and what is odd."""

from __future__ import annotations

from typing import Any

import pytest

from made.placing import CONFIG, DIM, HEADS, HIDDEN, KV_HEADS, Facts, Q, checkpoint, placed
from shardscan.anatomy.axes import Heads
from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.placement import place_tensors
from shardscan.anatomy.places import Anatomy, Place, Placed


def the_only(p: Placed) -> Matrix | None:
    assert len(p.matrices) < 2
    return p.matrices[0] if p.matrices else None


def weights(**shapes: tuple[int, ...]) -> dict[str, Facts]:
    return {f"model.layers.0.self_attn.{name}.weight": ("BF16", shape) for name, shape in shapes.items()}


def test_llama_names_have_their_places() -> None:
    layer = {
        "input_layernorm": "input_norm",
        "self_attn.q_proj": "q_proj",
        "self_attn.k_proj": "k_proj",
        "self_attn.v_proj": "v_proj",
        "self_attn.o_proj": "o_proj",
        "post_attention_layernorm": "post_attention_norm",
        "mlp.gate_proj": "gate_proj",
        "mlp.up_proj": "up_proj",
        "mlp.down_proj": "down_proj",
        # Qwen3 and Gemma3
        "self_attn.q_norm": "q_norm",
        "self_attn.k_norm": "k_norm",
        # Gemma2
        "pre_feedforward_layernorm": "pre_feedforward_norm",
        "post_feedforward_layernorm": "post_feedforward_norm",
    }
    outside = {"model.embed_tokens": "embed_tokens", "model.norm": "final_norm", "lm_head": "lm_head"}
    found = placed(
        {f"model.layers.{n}.{module}.weight": ("BF16", (DIM,)) for n in (0, 17) for module in layer}
        | {f"{module}.weight": ("BF16", (DIM,)) for module in outside}
    )
    expected = {
        f"model.layers.{n}.{module}.weight": Place("text", n, role, None, "weight")
        for n in (0, 17)
        for module, role in layer.items()
    } | {f"{module}.weight": Place("text", None, role, None, "weight") for module, role in outside.items()}
    assert {name: p.place for name, p in found.items()} == expected


def test_biases_and_buffers_are_parts_of_their_module() -> None:
    found = placed({
        f"{Q}.weight": ("BF16", (HIDDEN, HIDDEN)),
        f"{Q}.bias": ("BF16", (HIDDEN,)),
        "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (4,)),
    })  # fmt: skip
    assert found[f"{Q}.bias"].place == Place("text", 0, "q_proj", None, "bias")
    assert the_only(found[f"{Q}.bias"]) is None
    assert found["model.layers.0.self_attn.rotary_emb.inv_freq"].place == Place("text", 0, "rotary", None, "buffer")


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_bert_names_have_their_places_with_and_without_prefix(prefix: str) -> None:
    expected = {
        "embeddings.word_embeddings.weight": Place("encoder", None, "embed_tokens", None, "weight"),
        "embeddings.position_embeddings.weight": Place("encoder", None, "embed_positions", None, "weight"),
        "embeddings.token_type_embeddings.weight": Place("encoder", None, "embed_token_types", None, "weight"),
        "embeddings.LayerNorm.bias": Place("encoder", None, "embed_norm", None, "bias"),
        "embeddings.position_ids": Place("encoder", None, "position_ids", None, "buffer"),
        "encoder.layer.0.attention.self.query.weight": Place("encoder", 0, "q_proj", None, "weight"),
        "encoder.layer.0.attention.self.key.bias": Place("encoder", 0, "k_proj", None, "bias"),
        "encoder.layer.5.attention.self.value.weight": Place("encoder", 5, "v_proj", None, "weight"),
        "encoder.layer.5.attention.output.dense.weight": Place("encoder", 5, "o_proj", None, "weight"),
        "encoder.layer.5.attention.output.LayerNorm.weight": Place("encoder", 5, "post_attention_norm", None, "weight"),
        "encoder.layer.5.intermediate.dense.weight": Place("encoder", 5, "up_proj", None, "weight"),
        "encoder.layer.5.output.dense.weight": Place("encoder", 5, "down_proj", None, "weight"),
        "encoder.layer.5.output.LayerNorm.weight": Place("encoder", 5, "post_mlp_norm", None, "weight"),
        "pooler.dense.weight": Place("encoder", None, "pooler", None, "weight"),
    }
    tensors: dict[str, Facts] = {prefix + name: ("F32", (HIDDEN,)) for name in expected}
    tensors[f"{prefix}embeddings.position_ids"] = ("I64", (HIDDEN,))
    found = placed(tensors, {"architectures": ["BertModel"], "hidden_size": HIDDEN, "num_attention_heads": HEADS})
    assert {name.removeprefix(prefix): p.place for name, p in found.items()} == expected


def test_without_a_config_the_names_choose_the_family() -> None:
    bert = place_tensors(checkpoint({"encoder.layer.0.attention.self.query.weight": ("F32", (HIDDEN, HIDDEN))}, None))
    llama = place_tensors(checkpoint({f"{Q}.weight": ("F32", (HIDDEN, HIDDEN))}, None))
    nobody = place_tensors(checkpoint({"blocks.0.mixer.weight": ("F32", (HIDDEN, HIDDEN))}, None))
    assert (bert.family, llama.family, nobody.family) == ("bert", "llama", None)


def test_kv_heads_count_once_and_know_how_many_queries_they_serve() -> None:
    found = placed(weights(q_proj=(32, 32), k_proj=(16, 32), v_proj=(16, 32), o_proj=(32, 32)))
    heads = {p.place.role: m.heads for p in found.values() if (m := the_only(p))}
    assert heads == {
        "q_proj": Heads("out", 4, 8, 1),
        "k_proj": Heads("out", 2, 8, 2),
        "v_proj": Heads("out", 2, 8, 2),
        "o_proj": Heads("in", 4, 8, 1),
    }
    assert all(p.reason is None for p in found.values())


def test_head_dim_of_the_config_goes_before_hidden_size_by_heads() -> None:
    found = placed(weights(q_proj=(64, 32), o_proj=(32, 64)), CONFIG | {"head_dim": 16})
    assert [(m := the_only(p)) and m.heads for p in found.values()] == [Heads("out", 4, 16, 1), Heads("in", 4, 16, 1)]


def test_sizes_are_read_from_a_nested_text_config() -> None:
    nested = {"architectures": ["LlamaForCausalLM"], "text_config": CONFIG}
    sizes = place_tensors(checkpoint(weights(q_proj=(32, 32)), nested)).sizes
    assert (sizes["heads"], sizes["kv_heads"], sizes["head_dim"]) == (HEADS, KV_HEADS, DIM)


@pytest.mark.parametrize("wrong", [True, 0, -4, 2**31, 1e3, "4", None, [4]])
def test_a_size_that_is_no_size_is_none(wrong: object) -> None:
    anatomy = place_tensors(checkpoint(weights(q_proj=(32, 32)), CONFIG | {"num_attention_heads": wrong}))
    assert anatomy.sizes["heads"] is None


@pytest.mark.parametrize("architectures", [None, "LlamaForCausalLM", [["LlamaForCausalLM"]], [{}], 3])
def test_architectures_of_another_kind_are_as_good_as_none(architectures: object) -> None:
    assert (
        place_tensors(checkpoint(weights(q_proj=(32, 32)), CONFIG | {"architectures": architectures})).family == "llama"
    )


def test_without_a_config_heads_are_unknown_and_the_reason_says_why() -> None:
    p = placed(weights(q_proj=(32, 32)), None)[f"{Q}.weight"]
    assert p.place.role == "q_proj"
    matrix = the_only(p)
    assert matrix
    assert matrix.heads is None
    assert p.reason == "heads unknown: no config.json says how large they are"


def test_a_pruned_layer_has_the_heads_of_its_shape() -> None:
    found = placed(weights(q_proj=(24, 32), k_proj=(8, 32), o_proj=(32, 24)))
    assert {p.place.role: ((m := the_only(p)) and m.heads, p.reason) for p in found.values()} == {
        "q_proj": (Heads("out", 3, 8, 1), "3 heads where config.json says 4"),
        "k_proj": (Heads("out", 1, 8, 3), "1 head where config.json says 2"),
        "o_proj": (Heads("in", 3, 8, 1), "3 heads where config.json says 4"),
    }


def test_a_weight_without_values_is_no_matrix() -> None:
    p = placed(weights(q_proj=(0, 32)))[f"{Q}.weight"]
    assert (p.place.role, the_only(p)) == ("q_proj", None)


def test_a_shape_that_heads_do_not_divide_has_no_heads_and_the_reason_says_why() -> None:
    found = placed(weights(q_proj=(30, 32), k_proj=(16, 32), o_proj=(32, 30)))
    assert {p.place.role: ((m := the_only(p)) and m.heads, p.reason) for p in found.values()} == {
        "q_proj": (None, "30 rows, which family llama cannot split into heads of 8"),
        "k_proj": (Heads("out", 2, 8, None), None),
        "o_proj": (None, "30 columns, which family llama cannot split into heads of 8"),
    }
    assert all(the_only(p) for p in found.values())


RIVAL: dict[str, Facts] = {f"language_model.{Q}.weight": ("BF16", (32, 32))}
PACKED: dict[str, Facts] = {f"{Q}.qweight": ("I32", (4, 32))}


@pytest.mark.parametrize(
    ("queries", "config", "expected"),
    [
        ({}, {}, 2),
        (RIVAL | weights(q_proj=(32, 32)), {}, 2),
        (PACKED, {}, 2),
        ({}, {"num_key_value_heads": None}, 1),
        ({}, {"num_attention_heads": 5, "head_dim": DIM}, None),
        ({}, {"num_attention_heads": None, "head_dim": DIM}, None),
        (weights(q_proj=(48, 32)), {"num_attention_heads": 6, "head_dim": DIM}, 3),
        (weights(q_proj=(48, 32)), {}, None),
        (weights(q_proj=(24, 32)), {}, None),
    ],
)
def test_a_layer_without_its_q_proj_takes_the_queries_of_a_kv_head_from_the_config(
    queries: dict[str, Facts], config: dict[str, Any], expected: int | None
) -> None:
    kv_heads = 4 if "num_key_value_heads" in config else 2
    name = "model.layers.0.self_attn.k_proj.weight"
    p = placed(queries | weights(k_proj=(kv_heads * DIM, 32)), CONFIG | config)[name]
    matrix = the_only(p)
    assert matrix
    assert matrix.heads == Heads("out", kv_heads, DIM, expected)


def test_complex_values_say_that_statistics_are_of_their_moduli() -> None:
    found = placed({f"{Q}.weight": ("C64", (32, 32)), "freqs": ("C64", (4,)), "lm_head.weight": ("F32", (32, 32))})
    assert [p.reason for p in found.values()] == ["statistics are of the moduli"] * 2 + [None]
    pruned = placed({f"{Q}.weight": ("C64", (30, 32))})
    assert pruned[f"{Q}.weight"].reason == "30 rows, which family llama cannot split into heads of 8"


@pytest.mark.parametrize(
    "name",
    [
        f"module.{Q}.weight",
        f"_orig_mod.{Q}.weight",
        f"module._orig_mod.{Q}.weight",
        f"base_model.model.{Q}.weight",
        "_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn.q_proj.weight",
        "model.layers.0._orig_mod.self_attn.q_proj.weight",
        "_forward_module.model.layers.0.self_attn.q_proj._orig_mod.weight",
    ],
)
def test_words_of_wrappers_do_not_count_anywhere(name: str) -> None:
    p = placed({name: ("F32", (32, 32))})[name]
    assert p.canonical_name == f"{Q}.weight"
    assert p.place == Place("text", 0, "q_proj", None, "weight")


def test_a_word_that_tells_two_names_apart_is_no_wrapper() -> None:
    found = placed({"blocks.0.module.weight": ("F32", (4, 4)), "blocks.0.weight": ("F32", (4, 4))})
    assert [p.canonical_name for p in found.values()] == ["blocks.0.module.weight", "blocks.0.weight"]


# ---- what stands before the names of a model that is part of a larger one

OUTSIDE = ("model.embed_tokens", "model.norm", "lm_head")
MODULES = ("input_layernorm", "self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def llama(prefix: str, layers: int = 2) -> dict[str, Facts]:
    names = [*OUTSIDE, *(f"model.layers.{n}.{module}" for n in range(layers) for module in MODULES)]
    return {f"{prefix}{name}.weight": ("F32", (32,) if "norm" in name else (32, 32)) for name in names}


@pytest.mark.parametrize("config", [CONFIG, None], ids=["LlamaForCausalLM", "no config"])
@pytest.mark.parametrize("prefix", ["policy.model.", "llm.", "pretrained_model.", "a.b.c.d."])
def test_a_known_model_under_a_prefix_of_somebodys_own_is_placed(prefix: str, config: dict[str, Any] | None) -> None:
    plain = placed(llama(""), config)
    assert {name.removeprefix(prefix): p.place for name, p in placed(llama(prefix), config).items()} == {
        name: p.place for name, p in plain.items()
    }


def test_what_a_family_places_without_a_prefix_keeps_other_prefixes_out() -> None:
    found = placed({**llama(""), **llama("draft.", layers=9)})
    assert {name: p.place.role for name, p in found.items() if p.place.role != "other"}.keys() == llama("").keys()


def test_of_two_models_under_prefixes_neither_is_the_one() -> None:
    found = placed({**llama("policy."), **llama("reference.")})
    assert {p.place.role for p in found.values()} == {"other"}


def test_the_larger_of_two_models_under_prefixes_is_the_one() -> None:
    found = placed({**llama("thinker.", layers=4), **llama("talker.")})
    assert {name for name, p in found.items() if p.place.role != "other"} == llama("thinker.", layers=4).keys()


def test_a_tower_under_a_prefix_of_somebodys_own_is_placed_beside_the_model() -> None:
    of_layer = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
    tower = {f"encoder.layers.{n}.{module}.weight": ("F32", (16, 16)) for n in range(3) for module in of_layer}
    plain = placed({f"vision_tower.vision_model.{name}": facts for name, facts in tower.items()} | llama(""))
    found = placed({f"eyes.of.ours.{name}": facts for name, facts in tower.items()} | llama(""))
    own = {name.removeprefix("eyes.of.ours."): p.place for name, p in found.items()}
    assert own == {name.removeprefix("vision_tower.vision_model."): p.place for name, p in plain.items()}
    assert {place.component for place in own.values()} == {"text", "vision"}


def test_a_family_that_the_config_names_and_names_know_nothing_of_gives_way_to_one_that_fits() -> None:
    names = [f"model.decoder.layers.{n}.{m}" for n in range(2) for m in ("self_attn.q_proj", "fc1", "fc2")]
    anatomy = place_tensors(checkpoint({f"{name}.weight": ("F32", (32, 32)) for name in names}, CONFIG))
    assert anatomy.family == "opt" and all(p.place.role != "other" for p in anatomy.placed)


def test_lora_factors_are_parts_of_the_module_they_adapt() -> None:
    module = f"base_model.model.{Q}"
    found = placed({
        f"{module}.base_layer.weight": ("BF16", (32, 32)),
        f"{module}.lora_A.weight": ("F32", (4, 32)),
        f"{module}.lora_B.default.weight": ("F32", (32, 4)),
    })  # fmt: skip
    assert [p.place for p in found.values()] == [
        Place("text", 0, "q_proj", None, part) for part in ("weight", "lora_a", "lora_b")
    ]
    assert [the_only(p) is not None for p in found.values()] == [True, False, False]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("blocks.0.mixer.weight", 0),
        ("transformer.h.11.mlp.experts.3.w1", 11),
        ("mixer.weight", None),
        ("blocks.v2.weight", None),
        ("blocks.1234567.weight", None),
        ("blocks.٣.weight", None),
        (f"layers.{'9' * 5000}.self_attn.q_proj.weight", None),
    ],
)
def test_what_nobody_names_is_other_and_keeps_its_layer(name: str, layer: int | None) -> None:
    p = placed({name: ("F32", (32, 32))})[name]
    assert p.place == Place("other", layer, "other", None, "weight")
    matrix = the_only(p)
    assert matrix
    assert (matrix.kind, matrix.heads) == ("whole", None)


def test_two_tensors_that_claim_one_place_are_both_other() -> None:
    found = placed({
        "model.norm.weight": ("F32", (32,)),
        "norm.weight": ("F32", (32,)),
        f"{Q}.weight": ("F32", (32, 32)),
        f"language_model.{Q}.weight": ("F32", (32, 32)),
        "lm_head.weight": ("F32", (32, 32)),
    })  # fmt: skip
    assert [(p.place.component, p.place.layer, p.place.role, p.reason) for p in found.values()] == [
        ("text", None, "other", "2 tensors claim to be the weight of final_norm"),
        ("text", None, "other", "2 tensors claim to be the weight of final_norm"),
        ("text", 0, "other", "2 tensors claim to be the weight of q_proj of layer 0"),
        ("text", 0, "other", "2 tensors claim to be the weight of q_proj of layer 0"),
        ("text", None, "lm_head", None),
    ]


def test_a_tensor_of_more_than_two_dimensions_is_folded_and_has_no_heads() -> None:
    p = placed({f"{Q}.weight": ("F32", (32, 8, 4))})[f"{Q}.weight"]
    matrix = the_only(p)
    assert matrix
    assert (matrix.kind, matrix.rows, matrix.cols, matrix.heads) == ("folded", 32, 32, None)


def test_every_tensor_is_placed_once_and_in_the_order_of_the_header() -> None:
    names = ["b.weight", "a.weight", f"{Q}.weight", "0.weight", "weight"]
    anatomy: Anatomy = place_tensors(checkpoint(dict.fromkeys(names, ("F32", (32, 32))), CONFIG))
    assert [p.tensor.name for p in anatomy.placed] == names


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_rules_for_a_name_the_one_whose_shape_fits_counts(turned: bool) -> None:
    """Qwen3-VL's stacks are stored either way round under one name."""
    hidden, inner = 32, 24
    name = "model.language_model.layers.0.mlp.experts"
    shapes = {"gate_up_proj": (4, 2 * inner, hidden), "down_proj": (4, hidden, inner)}
    stored = {key: (e, b, a) if turned else (e, a, b) for key, (e, a, b) in shapes.items()}
    config: dict[str, Any] = {
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "text_config": {"hidden_size": hidden},
    }
    config |= {"model_type": "qwen3_vl_moe", "moe_intermediate_size": inner}
    found = placed({f"{name}.{key}": ("BF16", shape) for key, shape in stored.items()}, config)
    matrices = [m for p in found.values() for m in p.matrices if m.expert == 3]
    assert {(m.role, m.rows, m.cols, m.turned) for m in matrices} == {
        ("gate_proj", inner, hidden, turned),
        ("up_proj", inner, hidden, turned),
        ("down_proj", hidden, inner, turned),
    }


@pytest.mark.parametrize("shape", [(1 << 20, 1, 1), (3, 2, 2, 2)])
def test_what_is_no_stack_of_experts_is_folded_and_says_so(shape: tuple[int, ...]) -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    p = placed({name: ("BF16", shape)}, {"architectures": ["GptOssForCausalLM"]})[name]
    assert [m.kind for m in p.matrices] == ["folded"]
    assert p.reason == "no stack of experts, which family gpt_oss takes it for"


def test_a_shape_that_fits_both_ways_tells_nothing() -> None:
    name = "model.language_model.layers.0.mlp.experts.gate_up_proj"
    config = {"architectures": ["Qwen3VLMoeForConditionalGeneration"], "model_type": "qwen3_vl_moe"}
    p = placed({name: ("BF16", (4, 64, 64))}, {**config, "hidden_size": 64, "moe_intermediate_size": 32})[name]
    assert [m.kind for m in p.matrices] == ["folded"]
    assert p.reason == "its shape does not tell how it is stored"


@pytest.mark.parametrize("head_dim", [None, "16", 16.0, 0, True])
def test_heads_are_not_guessed_where_their_length_is_not_what_the_config_would_make_it(head_dim: object) -> None:
    """Qwen3 with heads of 16 where hidden_size / heads is 8."""
    config = CONFIG | {"architectures": ["Qwen3ForCausalLM"], "head_dim": head_dim}
    p = placed(weights(q_proj=(HEADS * 16, HIDDEN)), config)[f"{Q}.weight"]
    assert p.matrices[0].heads is None
    assert p.reason in (
        "64 rows, which are 8 heads of 8 where config.json says 4",
        "heads unknown: no config.json says how large they are",
    )


def test_a_decoder_has_heads_of_its_own() -> None:
    config = {"architectures": ["BartModel"], "d_model": 16, "encoder_attention_heads": 4, "decoder_attention_heads": 2}
    names = [
        f"{side}.layers.0.self_attn.{role}.weight" for side in ("encoder", "decoder") for role in ("q_proj", "out_proj")
    ]
    found = placed(dict.fromkeys(names, ("F32", (16, 16))), config)
    assert [p.matrices[0].heads for p in found.values()] == [
        Heads("out", 4, 4, 1),
        Heads("in", 4, 4, 1),
        Heads("out", 2, 8, 1),
        Heads("in", 2, 8, 1),
    ]


@pytest.mark.parametrize(("vision", "heads"), [({}, None), ({"hidden_size": 32}, None), (None, None)])
def test_a_tower_has_no_sizes_of_the_language_model(vision: dict[str, int] | None, heads: None) -> None:
    config = {"architectures": ["LlavaForConditionalGeneration"], "num_attention_heads": 4, "hidden_size": 64}
    name = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    p = placed({name: ("F32", (32, 32))}, config if vision is None else {**config, "vision_config": vision})[name]
    assert (p.place.component, p.place.role, p.matrices[0].heads) == ("vision", "q_proj", heads)
    assert p.reason == "heads unknown: no config.json says how large they are"


def test_what_a_section_leaves_out_is_what_its_model_type_has() -> None:
    """google/gemma-3-4b-it says neither heads nor head_dim."""
    text = {"hidden_size": 2560, "model_type": "gemma3_text", "num_hidden_layers": 34}
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    names = {"q_proj": 8 * 256, "k_proj": 4 * 256}
    found = placed(
        {f"language_model.model.layers.0.self_attn.{n}.weight": ("BF16", (rows, 2560)) for n, rows in names.items()},
        config,
    )
    assert [p.matrices[0].heads for p in found.values()] == [Heads("out", 8, 256, 1), Heads("out", 4, 256, 2)]


def test_a_tensor_named_like_a_rule_is_other() -> None:
    name = "model.layers.{layer}.self_attn.q_proj.weight"
    assert placed({name: ("F32", (32, 32))})[name].place.role == "other"


def test_a_stack_that_is_stored_the_other_way_round_than_its_family_has_it_is_not_divided() -> None:
    """Qwen3-VL's stacks as its hub files have them, without the config that tells."""
    layer = "model.language_model.layers.0"
    tensors: dict[str, Facts] = {
        "model.language_model.embed_tokens.weight": ("BF16", (128, 64)),
        f"{layer}.mlp.gate.weight": ("BF16", (4, 64)),
        f"{layer}.mlp.experts.gate_up_proj": ("BF16", (4, 64, 48)),
        f"{layer}.mlp.experts.down_proj": ("BF16", (4, 24, 64)),
    }
    found = placed(tensors, None)
    for name in ("gate_up_proj", "down_proj"):
        p = found[f"{layer}.mlp.experts.{name}"]
        assert [m.kind for m in p.matrices] == ["folded"]
        assert p.reason is not None
        assert p.reason.startswith("stored the other way round than family")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"model_type": "mistral", "hidden_size": 6144, "num_attention_heads": 48}, (48, 8, 128)),
        (
            {"model_type": "mistral", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": None},
            (4, 4, 16),
        ),
        ({"model_type": "llama"}, (32, 32, 128)),
        ({"model_type": "llama", "hidden_size": 5120, "num_attention_heads": 40}, (40, 40, 128)),
        (
            {"model_type": "gemma2", "hidden_size": 2304, "num_attention_heads": 8, "num_key_value_heads": 4},
            (8, 4, 256),
        ),
        ({"model_type": "qwen3", "head_dim": None, "hidden_size": 64, "num_attention_heads": 4}, (4, 32, 16)),
    ],
)
def test_defaults_of_a_model_type_fill_what_is_not_said(
    section: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    config = {"architectures": ["LlavaForConditionalGeneration"], "text_config": section}
    sizes = place_tensors(checkpoint({f"{Q}.weight": ("F32", (32, 32))}, config)).sizes
    assert (sizes["heads"], sizes["kv_heads"], sizes["head_dim"]) == expected


def test_a_model_whose_embedding_is_narrower_is_not_taken_for_turned() -> None:
    """OPT-350M, pruned to as many columns as its embedding has."""
    config = {"architectures": ["OPTForCausalLM"], "hidden_size": 64, "num_attention_heads": 8}
    layer = "model.decoder.layers.0.self_attn"
    found = placed(
        {
            "model.decoder.embed_tokens.weight": ("F32", (100, 32)),
            f"{layer}.q_proj.weight": ("F32", (32, 64)),
            f"{layer}.out_proj.weight": ("F32", (64, 32)),
        },
        config,
    )
    fewer = "4 heads where config.json says 8"
    assert [(m.heads and m.heads.count, p.reason) for p in found.values() for m in p.matrices] == [
        (None, None),
        (4, fewer),
        (4, fewer),
    ]
