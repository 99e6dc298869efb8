"""NAME, evidence: a layer's own facts go before the model's, shapes before absent words, and nothing contradicts."""

from __future__ import annotations

from typing import Any

import pytest

from made.placing import CONFIG, Facts, checkpoint, placed
from shardscan.anatomy.placement import place_tensors
from shardscan.anatomy.places import Placed

HIDDEN = 64
OF_8 = CONFIG | {"hidden_size": HIDDEN, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8}
Told = tuple[int, int] | None


def layer(number: int, q: int, k: int, v: int | None, o: int, **norms: int) -> dict[str, Facts]:
    """The attention of a layer by how many rows q, k and v have, and columns o; and how long its norms are."""
    at = f"model.layers.{number}.self_attn."
    shapes = {"q_proj": (q, HIDDEN), "k_proj": (k, HIDDEN), "o_proj": (HIDDEN, o)} | (
        {"v_proj": (v, HIDDEN)} if v else {}
    )
    lengths: dict[str, tuple[int, ...]] = {name: (length,) for name, length in norms.items()}
    return {f"{at}{name}.weight": ("F32", shape) for name, shape in {**shapes, **lengths}.items()}


def heads(found: dict[str, Placed], number: int = 0) -> dict[str, Told]:
    """How many heads each projection of a layer has, and of what length."""
    of = {m.role: m.heads for p in found.values() if p.place.layer == number for m in p.matrices}
    return {role: (h.count, h.dim) if h else None for role, h in of.items()}


def reasons(found: dict[str, Placed]) -> set[str]:
    return {p.reason for p in found.values() if p.reason}


def test_norms_of_q_and_k_say_how_long_the_heads_of_their_layer_are() -> None:
    found = placed(
        {**layer(0, 64, 64, 64, 64, q_norm=8, k_norm=8), **layer(1, 128, 32, None, 128, q_norm=16, k_norm=16)}, OF_8
    )
    assert heads(found, 0) == dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (8, 8))
    assert heads(found, 1) == {"q_proj": (8, 16), "k_proj": (2, 16), "o_proj": (8, 16)}
    assert reasons(found) == {"2 heads where config.json says 8"}


@pytest.mark.parametrize(
    "norms", [{"q_norm": 64, "k_norm": 64}, {"q_norm": 16, "k_norm": 32}, {"q_norm": 24, "k_norm": 24}]
)
def test_norms_of_all_heads_and_those_that_disagree_say_nothing(norms: dict[str, int]) -> None:
    assert set(heads(placed(layer(0, 64, 64, 64, 64, **norms), OF_8)).values()) == {(8, 8)}


def test_a_size_may_be_a_list_by_layers() -> None:
    config = {k: v for k, v in OF_8.items() if k != "num_key_value_heads"} | {"num_key_value_heads_per_layer": [4, 2]}
    found = placed({**layer(0, 64, 32, 32, 64), **layer(1, 64, 16, 16, 64)}, config)
    assert [heads(found, n)["k_proj"] for n in (0, 1)] == [(4, 8), (2, 8)]
    assert [
        p.matrices[0].heads.queries for p in found.values() if p.place.role == "v_proj" and p.matrices[0].heads
    ] == [2, 4]
    assert reasons(found) == set()


def test_a_sentence_quotes_of_a_config_only_what_stands_in_it() -> None:
    config = {k: v for k, v in OF_8.items() if k != "num_key_value_heads"}
    fewer = placed(layer(0, 64, 16, 16, 64), config)
    assert heads(fewer)["k_proj"] == (2, 8) and reasons(fewer) == set()
    more = placed(layer(0, 64, 128, 128, 64), config)
    assert reasons(more) == {"128 rows, which are 16 heads of 8 where there should be 8"}


def test_a_pruned_layer_has_fewer_heads_where_all_of_it_agrees() -> None:
    found = placed(layer(0, 48, 48, 48, 48), OF_8)
    assert set(heads(found).values()) == {(6, 8)} and reasons(found) == {"6 heads where config.json says 8"}


@pytest.mark.parametrize(
    "tensors",
    [layer(0, 128, 32, None, 128), layer(0, 48, 64, 64, 64), layer(0, 64, 32, 16, 64), layer(0, 48, 40, 40, 48)],
    ids=["q has more than there are", "o has more than q", "k has more than v", "k does not serve q"],
)
def test_fewer_heads_that_others_contradict_are_none(tensors: dict[str, Facts]) -> None:
    found = placed(tensors, OF_8)
    told = [p for p in found.values() if p.reason and "do not agree" in p.reason]
    assert told and all(m.heads is None for p in told for m in p.matrices)


def test_what_is_odd_for_another_reason_keeps_its_heads() -> None:
    tensors = layer(0, 64, 64, 64, 48)
    name = "model.layers.0.self_attn.q_proj.weight"
    found = placed({**tensors, name: ("C64", (64, HIDDEN))}, OF_8)
    assert (found[name].reason, heads(found)["q_proj"]) == ("statistics are of the moduli", (8, 8))
    assert heads(found)["o_proj"] is None


def test_a_fused_weight_of_more_rows_than_the_config_has_is_no_pruned_one() -> None:
    """As where a key is absent that would say which of two layouts it is."""
    names = {"attn.c_attn": (96, 32), "attn.c_proj": (32, 32), "mlp.c_fc": (128, 32), "mlp.c_proj": (32, 128)}
    tensors: dict[str, Facts] = {f"transformer.h.0.{name}.weight": ("F32", shape) for name, shape in names.items()}
    config: dict[str, Any] = {"architectures": ["GPTBigCodeForCausalLM"], "n_head": 4, "n_embd": 32}
    fused = placed(tensors, config)["transformer.h.0.attn.c_attn.weight"]
    assert [(m.role, m.heads) for m in fused.matrices] == [("qkv_proj", None)]
    assert fused.reason == "96 rows, which in family gpt_bigcode are not the 48 that the parts have by config.json"


def test_one_norm_that_anybody_might_have_makes_no_tower() -> None:
    names = ("attn.qkv_proj", "attn.out_proj", "ffn.proj_1", "ffn.proj_2", "attn_norm", "ffn_norm")
    tensors: dict[str, Facts] = {
        f"transformer.layers.{n}.{name}.weight": ("F32", (32, 32)) for n in range(3) for name in names
    }
    anatomy = place_tensors(checkpoint(tensors, None))
    assert anatomy.family is None
    assert [(p.place.role, p.place.layer) for p in anatomy.placed[::6]] == [("other", n) for n in range(3)]
