"""Which channels, heads and experts of a model are in a pruned one, and where: to the last index, or 'unknown'."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from made.pruning import LAYER, Cut, Kept, Sizes
from oracles import survivors
from oracles.survivors import (
    ATTENTION,
    C_FC,
    C_PROJ,
    CHANGED,
    DOWN,
    LAYERS,
    PREFIXES,
    UP,
    Made,
    Row,
    by_axis,
    channels,
    kept_of,
    matched,
)

OF_HEADS = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return survivors.make(tmp_path_factory.mktemp("checkpoints"))


def methods(rows: Iterable[Row]) -> set[str]:
    return {row["method"] for row in rows}


def check_unknown(rows: list[Row]) -> None:
    """Nothing is claimed, and every row says why."""
    assert {row["status"] for row in rows} == {"unknown"}
    assert all(row["reason"] and row["method"] is None for row in rows)
    assert all(row["channel_a"] is None or row["channel_b"] is None for row in rows)


def role_of(weight: str) -> str:
    return weight.removesuffix(".weight").rpartition(".")[2].rpartition("#")[2]


# ---- LLM-Pruner: one axis of every weight, other channels in every layer


@pytest.mark.parametrize(("original", "pruned"), [("whole", "pruned"), ("shallow", "bare")])
def test_every_channel_that_llm_pruner_kept_is_found_with_and_without_a_config(
    made: Made, original: str, pruned: str
) -> None:
    rows = made.ask("surviving_channels", original, pruned)
    assert channels(rows) == made.expected(original, pruned)
    for (weight, axis), found in by_axis(rows).items():
        own = made.cuts[pruned].get(weight, Kept())
        is_cut = (own.rows if axis == "out" else own.cols) is not None
        assert methods(found) <= ({"fingerprint"} if is_cut else {"fingerprint", "position"})
        assert {row["role"] for row in found} == {role_of(weight)}
        layer = LAYER.search(weight)
        assert {row["layer"] for row in found} == {int(layer[0]) if layer else None}


@pytest.mark.parametrize(("original", "pruned"), [("whole", "pruned"), ("shallow", "bare")])
def test_channels_of_attention_have_their_head_in_both_models(made: Made, original: str, pruned: str) -> None:
    for (weight, axis), found in by_axis(made.ask("surviving_channels", original, pruned)).items():
        role = role_of(weight)
        divided = role in OF_HEADS and axis == ("in" if role == "o_proj" else "out")
        for row in found:
            for side in "ab":
                channel = row[f"channel_{side}"]
                assert row[f"head_{side}"] == (channel // 8 if divided and channel is not None else None)


@pytest.mark.parametrize(("original", "pruned"), [("whole", "pruned"), ("whole", "fused"), ("shallow", "bare")])
def test_heads_are_kept_or_dropped_whole(made: Made, original: str, pruned: str) -> None:
    rows = [row for row in made.ask("surviving_heads", original, pruned) if row["head_a"] is not None]
    found = {(row["weight_a"], row["head_a"]): row["head_b"] for row in rows}
    assert len(found) == len(rows)
    assert found == _heads(made.cuts[pruned], range(LAYERS if original == "whole" else 1))
    for row in rows:
        gone = row["head_b"] is None
        assert (row["status"], row["kept_channels"]) == (("dropped", 0) if gone else ("kept", 8))
        assert row["channels"] == 8


def _heads(cut: Cut, layers: Iterable[int]) -> dict[tuple[str, int], int | None]:
    """Where every head of the original is in the pruned model."""
    of, places = Sizes(), dict[tuple[str, int], int | None]()
    for layer in layers:
        for role in OF_HEADS:
            name = f"model.layers.{layer}.self_attn.{role}.weight"
            own = cut.get(name, Kept())
            kept = own.cols if role == "o_proj" else own.rows
            count = of.kv_heads if role in ("k_proj", "v_proj") else of.heads
            heads = [*range(count)] if kept is None else sorted({int(i) // of.head_dim for i in kept})
            places |= {(name, head): heads.index(head) if head in heads else None for head in range(count)}
    return places


def test_a_model_keeps_every_channel_and_head_of_itself(made: Made) -> None:
    for model in ("whole", "pruned", "stack"):
        found = made.channels(model, model)
        assert all(a == b and status == "kept" for of_axis in found.values() for a, b, status in of_axis)
        assert {row["status"] for row in made.ask("surviving_heads", model, model)} == {"kept"}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_pruned_model_in_float32_under_other_names_is_found_all_the_same(made: Made, prefix: str) -> None:
    rows = made.ask("surviving_channels", "shallow", f"{prefix}pruned")
    assert channels(rows) == made.expected("shallow", "shallow-pruned")
    assert {row["weight_b"] for row in rows} == {f"{prefix}{row['weight_a']}" for row in rows}
    diff = made.ask("pruning_diff", "shallow-pruned", f"{prefix}pruned")
    assert {(row["status"], row["dtype_a"], row["dtype_b"]) for row in diff} == {("equal", "BF16", "F32")}


def test_a_fused_model_is_found_part_by_part(made: Made) -> None:
    rows = made.ask("surviving_channels", "whole", "fused")
    assert channels(rows) == made.expected("whole", "fused")
    (gate,) = {row["weight_b"] for row in rows if row["weight_a"] == "model.layers.1.mlp.gate_proj.weight"}
    assert gate == "model.layers.1.mlp.gate_up_proj.weight#gate_proj"
    back = made.channels("fused", "pruned")
    assert {status for found in back.values() for _, _, status in found} == {"kept"}
    assert {row["status"] for row in made.ask("pruning_diff", "fused", "pruned")} == {"equal"}


def test_parts_of_fused_tensors_and_experts_of_stacks_have_their_own_zeros(made: Made) -> None:
    rows = made.ask("pruning_diff", "repeated", "repeated")
    assert next(row["zeros_a"] for row in rows if row["weight_a"] == UP) == int(
        (made.weights("repeated")[UP] == 0).sum()
    )
    for a, b in (("whole", "fused"), ("stack", "stack-pruned")):
        for row in made.ask("pruning_diff", a, b):
            assert (row["zeros_a"], row["zeros_b"]) == (
                None if row["weight_a"] is None else 0,
                None if row["weight_b"] is None else 0,
            )


def test_channels_of_weights_that_are_stored_the_other_way_round_are_found(made: Made) -> None:
    found, (width, inner) = made.channels("gpt2", "gpt2-pruned"), made.weights("gpt2")[C_FC].shape
    assert found[C_FC, "out"] == found[C_PROJ, "in"] == kept_of(inner, made.cuts["gpt2-pruned"][C_FC].cols)
    assert found[C_FC, "in"] == found[C_PROJ, "out"] == kept_of(width, None)


# ---- channels that are equal, new, or changed


def test_equal_channels_are_matched_copy_by_copy(made: Made) -> None:
    found = made.channels("repeated", "repeated-pruned")[UP, "out"]
    assert found == matched(made.weights("repeated")[UP], made.weights("repeated-pruned")[UP])
    # one of the zeros at 3, 10, 50 and 51 is gone, and which cannot be told: the last is missing
    assert {i for i, _, status in found if status == "dropped"} == {2, 20, 51, 90}


def test_new_rows_are_added_and_no_old_one_is_lost(made: Made) -> None:
    found = made.channels("shallow", "odd")["lm_head.weight", "out"]
    assert found == matched(*(made.weights(model)["lm_head.weight"] for model in ("shallow", "odd")))
    assert [j for _, j, status in found if status == "added"] == [100, 101]


def test_channels_in_another_order_are_found_where_they_are(made: Made) -> None:
    before, after = (made.weights(model)[DOWN] for model in ("shallow", "odd"))
    found = made.channels("shallow", "odd")
    assert found[DOWN, "in"] == matched(before.T, after.T) == [(i, 95 - i, "kept") for i in range(96)]
    assert found[DOWN, "out"] == kept_of(len(before), None)


def test_a_channel_that_was_changed_after_pruning_is_not_called_dropped(made: Made) -> None:
    found, truth = made.channels("shallow", "touched")[UP, "out"], made.expected("shallow", "shallow-pruned")[UP, "out"]
    (was,) = [i for i, j, _ in truth if j == CHANGED]
    assert [row for row in found if row[2] == "kept"] == [row for row in truth if row[2] == "kept" and row[0] != was]
    assert (was, None, "unknown") in found


def test_a_head_that_lost_some_channels_is_broken(made: Made) -> None:
    # as 3432 of 4096 rows: channels went without regard to heads
    found = made.ask("surviving_heads", "shallow", "odd")
    for role in ("q_proj", "o_proj"):
        name = f"{ATTENTION}{role}.weight"
        heads = {row["head_a"]: row for row in found if row["weight_a"] == name and row["head_a"] is not None}
        assert [heads[head]["kept_channels"] for head in range(8)] == [8, 5, 8, 8, 8, 0, 8, 8]
        assert [heads[head]["status"] for head in (0, 1, 5)] == ["kept", "broken", "dropped"]
    assert "head_dim" in {row["kind"] for row in made.ask("shape_faults", "shallow", "odd")}


# ---- where fingerprints are not enough


def test_a_narrower_residual_stream_is_found(made: Made) -> None:
    rows = made.ask("surviving_channels", "shallow", "narrow")
    assert channels(rows) == made.expected("shallow", "narrow")
    assert methods(rows) <= {"fingerprint", "position", "residual"}


def test_where_both_axes_were_cut_the_embedding_tells_the_residual_and_the_other_is_unknown(made: Made) -> None:
    truth, found = made.expected("tied", "narrower"), by_axis(made.ask("surviving_channels", "tied", "narrower"))
    assert found.keys() == truth.keys()
    for (weight, axis), rows in found.items():
        own = made.cuts["narrower"][weight]
        both = own.rows is not None and own.cols is not None
        if both and axis == ("in" if "down_proj" in weight else "out"):
            check_unknown(rows)
            assert {row["reason"] for row in rows} == {"both axes changed"}
            assert [row["channel_a"] for row in rows if row["channel_a"] is not None] == list(range(96))
        else:
            assert channels(rows)[weight, axis] == truth[weight, axis]
            assert not both or methods(rows) == {"residual"}


@pytest.mark.parametrize(("original", "pruned"), [("shallow", "shallow-pruned"), ("tied", "narrower")])
def test_after_fine_tuning_no_channel_of_a_cut_axis_is_called_dropped(made: Made, original: str, pruned: str) -> None:
    for (weight, axis), found in by_axis(made.ask("surviving_channels", original, f"{pruned}-tuned")).items():
        own = made.cuts[pruned].get(weight, Kept())
        if (own.rows if axis == "out" else own.cols) is None:
            assert {(row["status"], row["method"]) for row in found} == {("kept", "position")}
            assert all(row["channel_a"] == row["channel_b"] for row in found)
        else:
            check_unknown(found)
    heads = {row["status"] for row in made.ask("surviving_heads", original, f"{pruned}-tuned")}
    assert heads == ({"unknown"} if pruned == "shallow-pruned" else {"kept"})
    statuses = {row["status"] for row in made.ask("pruning_diff", original, f"{pruned}-tuned")}
    assert statuses == ({"changed", "pruned"} if pruned == "shallow-pruned" else {"pruned"})


# ---- experts


@pytest.mark.parametrize("name", ["moe", "stack"])
def test_experts_that_were_renumbered_are_found(made: Made, name: str) -> None:
    rows, router = made.ask("surviving_experts", name, f"{name}-pruned"), made.channels(name, f"{name}-pruned")
    for layer, stay in made.experts[f"{name}-pruned"].items():
        truth = kept_of(8, np.array(stay))
        found = {(row["expert_a"], row["expert_b"], row["status"]) for row in rows if row["layer"] == layer}
        assert found == set(truth)
        gate = f"model.layers.{layer}.{'mlp' if name == 'stack' else 'block_sparse_moe'}.gate.weight"
        assert router[gate, "out"] == truth


def test_every_expert_of_a_mixture_is_in_itself(made: Made) -> None:
    for name in ("moe", "stack"):
        rows = made.ask("surviving_experts", name, name)
        assert len(rows) == 2 * 8
        assert all((row["expert_a"], row["status"]) == (row["expert_b"], "kept") for row in rows)


def test_after_fine_tuning_no_expert_is_called_kept_or_dropped(made: Made) -> None:
    rows = [row for row in made.ask("surviving_experts", "moe", "moe-tuned") if row["expert_a"] is not None]
    assert len(rows) == 2 * 8
    assert {row["status"] for row in rows} == {"unknown"}
