"""Which layer and expert is which where some were dropped or copied and others tuned, and what is told of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import shardscan
from made import pruning
from made.pruning import LAYER, Weights, load
from shardscan.answers.connection import ask as shardscan_ask

LAYERS = 6
GIVEN = 9 + 4  # weights of a layer: a Llama's, and two modules with biases that no family knows
AT = "model.layers.{}."
Row = dict[str, Any]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers, mixtures of experts, and what became of either."""
    made = tmp_path_factory.mktemp("checkpoints")
    _six(made)
    _experts(made)
    return pruning.scan_all(sorted(made.iterdir()), tmp_path_factory.mktemp("scans"))


def _llama(folder: Path) -> Path:
    return pruning.llama(folder, layers=LAYERS, hidden=16, heads=2, kv_heads=1, intermediate=24, vocab=20)


def _six(made: Path) -> None:
    six, rng = _llama(made / "six"), np.random.default_rng(6)
    weights = load(six)
    for i in range(LAYERS):
        for module in ("odd", "even"):
            weights[f"{AT.format(i)}{module}.weight"] = rng.normal(0, 0.1, (8, 16)).astype(ml_dtypes.bfloat16)
            weights[f"{AT.format(i)}{module}.bias"] = rng.normal(0, 0.1, 8).astype(ml_dtypes.bfloat16)
    pruning.save(six, weights, pruning.config_of(six))

    _repeated(six)
    pruning.fine_tuned(six, made / "tuned")
    tuned = load(made / "tuned")
    # layer 3 is gone, 1 and 4 were frozen, the others tuned
    mixed = {n: weights[n] if n.startswith((AT.format(1), AT.format(4))) else tuned[n] for n in weights}
    _made_of(six, "frozen", [0, 1, 2, 4, 5], mixed)
    # layer 4 is gone, and the MLPs of layers 1 and 2 have lost a quarter
    of, cut = np.random.default_rng(1), pruning.Cut()
    for layer in (1, 2):
        cut |= pruning.channels_cut(layer, pruning.some(of, 24, 18))
    pruning.write_cut(six, made / "narrowed", cut, pruning.config_of(six))
    thin = _made_of(six, "thin", [0, 1, 2, 3, 5], load(made / "narrowed"))
    # and in what was layer 5 there is a new bias, and one is gone; in layer 0 a module is narrower
    last, first = AT.format(4), AT.format(0)
    thin[f"{last}self_attn.q_proj.bias"] = np.ones(16, ml_dtypes.bfloat16)
    del thin[f"{last}even.bias"]
    for part in ("weight", "bias"):
        thin[f"{first}odd.{part}"] = thin[f"{first}odd.{part}"][:6]
    pruning.save(made / "torn", thin, pruning.config_of(six))
    pruning.save(made / "unfit", thin | {f"{first}odd.bias": thin[f"{first}odd.bias"][:5]}, pruning.config_of(six))
    # norms of ones in two layers of one and in one of another, whose weights are all different
    same = {n: np.ones_like(w) if n.startswith((AT.format(4), AT.format(5))) and w.ndim == 1 else w
            for n, w in weights.items()}  # fmt: skip
    pruning.save(made / "ones", same, pruning.config_of(six))
    ones = {n: np.ones_like(w) if n.startswith(first) and w.ndim == 1 else w for n, w in tuned.items()}
    _made_of(six, "ones-tuned", [0, 1, 2, 3, 4], ones)


def _made_of(six: Path, name: str, layers: list[int], weights: Weights) -> Weights:
    """A model of some of these layers, in this order, beside it."""
    found = {n: w for n, w in weights.items() if not LAYER.search(n)}
    for new, old in enumerate(layers):
        at = AT.format(old)
        found |= {n.replace(at, AT.format(new)): w for n, w in weights.items() if n.startswith(at)}
    pruning.save(six.with_name(name), found, pruning.config_of(six) | {"num_hidden_layers": len(layers)})
    return found


def _repeated(six: Path) -> None:
    """Two layers twice: as they are, trained for a few of their weights as after a self-merge, and without a head."""
    weights = load(six)
    doubled = _made_of(six, "doubled", [0, 1, 2, 3, 2, 3, 4, 5], weights)
    tuned = tuple(f"{AT.format(i)}self_attn.o_proj" for i in (4, 5))
    healed = {n: w * 2 if n.startswith(tuned) else w for n, w in doubled.items()}
    healed["model.layers.5.mlp.up_proj.weight"] = healed["model.layers.5.mlp.up_proj.weight"][:18]
    pruning.save(six.with_name("healed"), healed, pruning.config_of(six.with_name("doubled")))
    weights[f"{AT.format(2)}self_attn.q_proj.weight"] = weights[f"{AT.format(2)}self_attn.q_proj.weight"][8:]
    _made_of(six, "beheaded", [0, 1, 2, 3, 2, 3, 4, 5], weights)


def _experts(made: Path) -> None:
    moe = pruning.mixtral(made / "moe", experts=4)
    weights = load(moe)
    at = "model.layers.{}.block_sparse_moe.experts.{}.w1.bias"
    weights |= {at.format(i, e): np.zeros(24, ml_dtypes.bfloat16) for i in range(2) for e in range(4)}
    pruning.save(moe, weights, pruning.config_of(moe))
    pruning.experts_pruned(moe, made / "moe-pruned", kept=3)
    pruning.fine_tuned(made / "moe-pruned", made / "moe-tuned")
    torn = load(made / "moe-pruned")
    del torn["model.layers.1.block_sparse_moe.experts.1.w2.weight"]
    pruning.save(made / "moe-torn", torn, pruning.config_of(made / "moe-pruned"))
    pruning.layers_dropped(moe, made / "moe-shallow", dropped=(0,))


def ask(store: Path, sql: str) -> list[Row]:
    with shardscan.connect(store) as db:
        found: list[Row] = db.sql(sql).to_arrow_table().to_pylist()
    return found


def layers(store: Path, a: str, b: str) -> dict[int, int]:
    rows = ask(store, f"FROM layer_map('{a}', '{b}') WHERE component = 'text' AND NOT is_copy")
    found = {row["layer_a"]: row["layer_b"] for row in rows}
    assert len(found) == len(set(found.values())) == len(rows)
    return found


def counted(rows: Iterable[Row]) -> Counter[tuple[int | None, int | None]]:
    return Counter((row["layer"], row["layer_b"]) for row in rows)


# ---- layers


def test_between_layers_that_are_known_the_others_follow_where_they_are_as_many(store: Path) -> None:
    assert layers(store, "six", "frozen") == {0: 0, 1: 1, 4: 3, 5: 4}
    assert layers(store, "frozen", "six") == {0: 0, 1: 1, 3: 4, 4: 5}


def test_layers_of_which_nothing_is_known_are_removed_and_added_and_stay_apart(store: Path) -> None:
    diff = ask(store, "FROM pruning_diff('six', 'frozen')")
    assert counted(row for row in diff if row["status"] == "removed") == {(2, None): GIVEN, (3, None): GIVEN}
    assert counted(row for row in diff if row["status"] == "added") == {(None, 2): GIVEN}
    rows = ask(store, "FROM pruning_layers('six', 'frozen') WHERE component = 'text'")
    found = {(row["layer"], row["layer_b"]): row for row in rows}
    assert len(found) == len(rows) == 8
    assert found.keys() == {(None, None), (0, 0), (1, 1), (2, None), (3, None), (None, 2), (4, 3), (5, 4)}
    assert {key for key, row in found.items() if row["touched"] is None} == {(2, None), (3, None), (None, 2)}
    assert not any(row["touched"] for row in rows)
    assert (found[2, None]["retention"], found[None, 2]["retention"]) == (0, None)


def copies(store: Path, a: str, b: str) -> dict[int, int]:
    rows = ask(store, f"FROM layer_map('{a}', '{b}') WHERE is_copy")
    return {row["layer_b"]: row["layer_a"] for row in rows}


def test_of_copies_of_a_layer_one_is_the_original_and_the_others_are_copies_of_it(store: Path) -> None:
    assert layers(store, "six", "doubled") == {0: 0, 1: 1, 2: 2, 3: 3, 4: 6, 5: 7}
    assert copies(store, "six", "doubled") == {4: 2, 5: 3}
    assert layers(store, "doubled", "six") == {0: 0, 1: 1, 2: 2, 3: 3, 6: 4, 7: 5}
    assert copies(store, "doubled", "six") == {}
    diff = ask(store, "FROM pruning_diff('six', 'doubled')")
    assert Counter(row["status"] for row in diff) == {"equal": 3 + 8 * GIVEN}
    assert counted(row for row in diff if row["is_copy"]) == {(2, 4): GIVEN, (3, 5): GIVEN}


def test_copies_count_for_what_they_are_and_their_original_once(store: Path) -> None:
    (row,) = ask(store, "FROM pruning_summary('six', 'doubled')")
    components = 2  # what no family knows is one of its own, whose layers are counted too
    assert (row["layers"], row["copied_layers"]) == (6 * components, 2 * components)
    assert (row["touched_layers"], row["removed_layers"], row["added_layers"]) == (0, 0, 0)
    assert (row["equal"], row["consistent"]) == (3 + 8 * GIVEN, True)
    found = {row["role"]: row for row in ask(store, "FROM pruning_modules('six', 'doubled')")}
    q = found["q_proj"]
    assert (q["layers"], q["copied_layers"], q["added_layers"], q["retention"]) == (6, 2, 0, 8 / 6)
    assert (q["parameters_a"], q["parameters_b"], q["consistent"]) == (6 * 16 * 16, 8 * 16 * 16, None)
    totals = ask(store, "SELECT sum(parameters_a) AS a, sum(parameters_b) AS b FROM pruning_modules('six', 'doubled')")
    models = ask(store, "SELECT model, parameters FROM models WHERE model IN ('six', 'doubled') ORDER BY model")
    assert [totals[0]["b"], totals[0]["a"]] == [row["parameters"] for row in models]


def test_layers_that_were_repeated_and_trained_are_copies_by_most_of_their_weights(store: Path) -> None:
    assert copies(store, "six", "healed") == {4: 2, 5: 3}
    diff = ask(store, "FROM pruning_diff('six', 'healed') WHERE is_copy AND status <> 'equal'")
    assert sorted((row["layer"], row["layer_b"], row["role"], row["status"]) for row in diff) == [
        (2, 4, "o_proj", "changed"), (3, 5, "o_proj", "changed"), (3, 5, "up_proj", "pruned"),
    ]  # fmt: skip
    faults = ask(store, "FROM shape_faults('six', 'healed')")
    assert {(row["layer"], row["layer_b"], row["kind"]) for row in faults} == {(3, 5, "mlp")}


def test_heads_of_a_layer_that_was_repeated_count_in_each_of_its_copies(store: Path) -> None:
    rows = question(store, "survivors", {"a": "six", "b": "beheaded"})
    heads = [(row["layer"], row["heads"], row["heads_kept"]) for row in rows if row["role"] == "q_proj"]
    assert heads == [(2, 2, 1), (2, 2, 1)]


def test_what_layers_have_alike_that_are_no_copies_tells_nothing(store: Path) -> None:
    assert layers(store, "ones", "ones-tuned") == {i: i for i in range(5)}


def test_a_weight_that_came_or_went_is_in_the_layer_of_its_neighbours(store: Path) -> None:
    rows = ask(store, "FROM pruning_diff('six', 'torn') WHERE status IN ('added', 'removed') AND layer_b IS NOT NULL")
    found = {row["status"]: (row["weight_a"] or row["weight_b"], row["layer"], row["layer_b"]) for row in rows}
    assert found == {
        "added": ("model.layers.4.self_attn.q_proj.bias", 5, 4),
        "removed": ("model.layers.5.even.bias", 5, 4),
    }


def test_weights_without_a_role_follow_their_layer_to_its_new_number(store: Path) -> None:
    rows = ask(store, "FROM pruning_diff('six', 'thin') WHERE role = 'other'")
    assert len(rows) == LAYERS * 4
    for row in rows:
        new = {4: None, 5: 4}.get(row["layer"], row["layer"])
        assert (row["layer_b"], row["status"]) == (new, "removed" if new is None else "equal")
        assert row["weight_b"] == (None if new is None else LAYER.sub(str(new), row["weight_a"]))


def test_a_layer_that_is_gone_does_not_make_the_others_inconsistent(store: Path) -> None:
    found = {row["role"]: row for row in ask(store, "FROM pruning_modules('six', 'thin')")}
    for role in ("gate_proj", "up_proj", "down_proj"):
        row = found[role]
        assert (row["layers"], row["touched_layers"], row["removed_layers"], row["added_layers"]) == (6, 2, 1, 0)
        assert (row["min_retention"], row["max_retention"], row["touched_retention"]) == (0.75, 0.75, 0.75)
        assert row["consistent"] is True and row["retention"] == pytest.approx((3 + 2 * 0.75) / 6)
    assert (found["q_proj"]["touched_layers"], found["q_proj"]["consistent"]) == (0, None)
    assert (found["embed_tokens"]["layers"], found["embed_tokens"]["removed_layers"]) == (1, 0)
    (row,) = ask(store, "SELECT consistent, inconsistent FROM pruning_summary('six', 'thin')")
    assert (row["consistent"], row["inconsistent"]) == (True, [])


def test_a_module_that_only_one_has_is_added_or_removed_and_not_inconsistent(store: Path) -> None:
    lines = {row["role"]: row["consistency"] for row in question(store, "pruning-modules", {"a": "six", "b": "thin"})}
    assert (lines["q_proj"], lines["gate_proj"]) == ("untouched", "consistent: 0.7500 in 2 of 6 layers")
    there, back = (
        {row["role"]: row["consistency"] for row in question(store, "pruning-modules", {"a": a, "b": b})}
        for a, b in (("moe", "moe-torn"), ("six", "moe"))
    )
    assert there["gate_proj"].startswith("consistent") and there["down_proj"].startswith("INCONSISTENT")
    assert back["router"] == "added"
    gone = {row["role"]: row["consistency"] for row in question(store, "pruning-modules", {"a": "moe", "b": "six"})}
    assert gone["router"] == "removed"


def question(store: Path, name: str, parameters: dict[str, str]) -> list[Row]:
    found: list[Row] = shardscan_ask(store, name, parameters).to_pylist()
    return found


def test_a_bias_is_held_against_its_own_weight(store: Path) -> None:
    assert ask(store, "FROM shape_faults('six', 'torn')") == []
    (fault,) = ask(store, "FROM shape_faults('six', 'unfit')")
    assert (fault["layer"], fault["kind"]) == (0, "bias")
    assert fault["detail"] == "model.layers.0.odd.weight has 6 rows and a bias of 5"


# ---- experts


def experts(store: Path, b: str) -> list[tuple[Any, ...]]:
    rows = ask(store, f"FROM surviving_experts('moe', '{b}') ORDER BY ALL")
    return [(row["layer"], row["layer_b"], row["expert_a"], row["expert_b"], row["status"]) for row in rows]


def test_zero_biases_tell_of_no_expert_that_it_was_kept(store: Path) -> None:
    assert ask(store, "FROM expert_map('moe', 'moe-tuned')") == []
    found = experts(store, "moe-tuned")
    assert {row[4] for row in found} == {"unknown"}
    assert len(found) == 2 * (4 + 3)


def test_an_expert_is_one_row_also_where_one_of_its_tensors_is_gone(store: Path) -> None:
    found = experts(store, "moe-torn")
    assert found == experts(store, "moe-pruned")
    assert len(found) == 2 * 4
    assert Counter(row[4] for row in found) == {"kept": 2 * 3, "dropped": 2}


def test_experts_of_a_layer_that_is_gone_are_dropped(store: Path) -> None:
    found = experts(store, "moe-shallow")
    assert found == [(0, None, e, None, "dropped") for e in range(4)] + [(1, 0, e, e, "kept") for e in range(4)]
