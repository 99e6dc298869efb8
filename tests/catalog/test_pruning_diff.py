"""What became of a model's weights, by weight, layer, module and in one row, for pairs whose pruning is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import duckdb
import ml_dtypes
import numpy as np
import pytest

import shardscan
from made import catalogs, golden, headers, pruning
from made.pruning import LAYER, load
from shardscan.anatomy.placement import place_tensors
from shardscan.catalog import sqlfiles
from shardscan.errors import QueryError

LAYERS, TOUCHED = 5, range(1, 4)
SWAPPED = ("model.layers.1.input_layernorm.weight", "model.layers.0.mlp.gate_proj.weight")
MACROS = ("pruning_diff", "pruning_layers", "pruning_modules", "pruning_summary", "shape_faults")
SURVIVORS = ("surviving_channels", "surviving_heads", "surviving_experts")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Originals of five layers and of two, and what became of them, each in a folder of its model's name."""
    made = tmp_path_factory.mktemp("checkpoints")
    original = pruning.llama(made / "original", layers=LAYERS)
    pruning.llm_pruner(original, made / "pruned", layers=TOUCHED)
    pruning.layers_dropped(original, made / "shallow", dropped=(1, 3))
    small = pruning.llama(made / "small", layers=2)
    pruning.masked(small, made / "masked", lambda name: "down_proj" in name)
    for name, change in (("swapped", swapped), ("widened", widened), ("uneven", uneven)):
        weights = load(small)
        change(weights)
        pruning.save(made / name, weights, pruning.config_of(small))
    return made


def swapped(weights: pruning.Weights) -> None:
    """Two values of a norm have changed places, and so have two rows of a matrix."""
    for name in SWAPPED:
        weights[name][[3, 8]] = weights[name][[8, 3]]


def widened(weights: pruning.Weights) -> None:
    """The vocabulary has 8 more rows, a norm 8 more values, and layer 0 a bias that was not there."""
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = np.random.default_rng(9).normal(0, 0.02, (8, 64)).astype(ml_dtypes.bfloat16)
        weights[name] = np.concatenate([weights[name], rows])
    weights["model.norm.weight"] = np.concatenate([weights["model.norm.weight"], np.ones(8, ml_dtypes.bfloat16)])
    weights["model.layers.0.self_attn.q_proj.bias"] = np.ones(64, ml_dtypes.bfloat16)


def uneven(weights: pruning.Weights) -> None:
    """The MLP of layer 0 has lost a quarter of its channels, that of layer 1 a half."""
    for layer, kept in ((0, 72), (1, 48)):
        for name in [name for name in weights if f".{layer}.mlp." in name]:
            w = weights[name]
            weights[name] = w[:, :kept] if "down" in name else w[:kept]


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pruning.scan_all(sorted(folder.iterdir()), tmp_path_factory.mktemp("scans"))


def ask(store: Path, macro: str, a: str, b: str, order: str = "all") -> list[Row]:
    with shardscan.connect(store) as db:
        found: list[Row] = db.sql(f"FROM {macro}('{a}', '{b}') ORDER BY {order}").to_arrow_table().to_pylist()
    assert all((row["model_a"], row["model_b"]) == (a, b) for row in found)
    return found


def by_weight(store: Path, a: str, b: str) -> dict[str, Row]:
    return {row["weight_a"] or row["weight_b"]: row for row in ask(store, "pruning_diff", a, b)}


def summary(store: Path, a: str, b: str) -> Row:
    (row,) = ask(store, "pruning_summary", a, b)
    return row


# ---- weight by weight


def test_every_weight_of_a_pruned_model_has_its_shapes_retention_and_status(folder: Path, store: Path) -> None:
    before, after = load(folder / "original"), load(folder / "pruned")
    found = by_weight(store, "original", "pruned")
    assert found.keys() == before.keys()
    for name, row in found.items():
        a, b = before[name], after[name]
        assert (row["weight_a"], row["weight_b"], row["part"]) == (name, name, "weight")
        assert (row["shape_a"], row["shape_b"]) == (list(a.shape), list(b.shape))
        assert (row["parameters_a"], row["parameters_b"]) == (a.size, b.size)
        assert row["retention"] == b.size / a.size
        assert row["structured_sparsity"] == pytest.approx(1 - b.size / a.size, abs=1e-15)
        assert row["status"] == ("equal" if a.shape == b.shape else "pruned")
        assert (row["dtype_a"], row["dtype_b"], row["zeros_a"], row["zeros_b"]) == ("BF16", "BF16", 0, 0)
        layer = LAYER.search(name)
        assert row["layer"] == (int(layer[0]) if layer else None)
    assert {name for name, row in found.items() if row["status"] == "pruned"} == {
        f"model.layers.{i}.{module}.weight"
        for i in TOUCHED
        for module in (*(f"self_attn.{r}_proj" for r in "qkvo"), *(f"mlp.{r}_proj" for r in ("gate", "up", "down")))
    }


def test_the_other_way_round_what_was_pruned_has_grown(store: Path) -> None:
    there, back = by_weight(store, "original", "pruned"), by_weight(store, "pruned", "original")
    turned = {"pruned": "grown", "equal": "equal"}
    assert {n: turned[row["status"]] for n, row in there.items()} == {n: row["status"] for n, row in back.items()}
    assert all(back[n]["retention"] == pytest.approx(1 / row["retention"]) for n, row in there.items())


def test_a_model_is_equal_to_itself(store: Path) -> None:
    assert {row["status"] for row in ask(store, "pruning_diff", "pruned", "pruned")} == {"equal"}
    row = summary(store, "pruned", "pruned")
    assert (row["retention"], row["touched_layers"], row["untouched"]) == (1, 0, list(range(LAYERS)))
    assert (row["equal"], row["faults"]) == (len(ask(store, "pruning_diff", "pruned", "pruned")), 0)


def test_masking_changes_values_and_zeros_but_no_shape(folder: Path, store: Path) -> None:
    after = load(folder / "masked")
    for name, row in by_weight(store, "small", "masked").items():
        assert row["status"] == ("changed" if "down_proj" in name else "equal")
        assert (row["retention"], row["structured_sparsity"]) == (1, 0)
        assert (row["zeros_a"], row["zeros_b"]) == (0, int((after[name] == 0).sum()))
        assert row["zeros_b"] == (after[name].size // 2 if "down_proj" in name else 0)
    row = summary(store, "small", "masked")
    assert row["sparsity_a"] == 0
    zeros, values = (
        sum(int(n) for n in some) for some in ([(w == 0).sum() for w in after.values()], map(np.size, after.values()))
    )
    assert row["sparsity_b"] == pytest.approx(zeros / values, rel=1e-12)


def test_a_weight_whose_values_or_rows_changed_places_is_not_equal(store: Path) -> None:
    changed = {n: row["status"] for n, row in by_weight(store, "small", "swapped").items() if row["status"] != "equal"}
    assert changed == dict.fromkeys(SWAPPED, "changed")


def test_new_rows_values_and_tensors_are_grown_and_added(store: Path) -> None:
    found = by_weight(store, "small", "widened")
    odd = {name: row["status"] for name, row in found.items() if row["status"] != "equal"}
    assert odd == {
        "model.embed_tokens.weight": "grown",
        "lm_head.weight": "grown",
        "model.norm.weight": "grown",
        "model.layers.0.self_attn.q_proj.bias": "added",
    }
    bias = found["model.layers.0.self_attn.q_proj.bias"]
    assert (bias["weight_a"], bias["part"], bias["shape_b"], bias["parameters_b"]) == (None, "bias", [64], 64)
    assert found["lm_head.weight"]["retention"] == 168 / 160
    back = by_weight(store, "widened", "small")["model.layers.0.self_attn.q_proj.bias"]
    assert (back["status"], back["weight_b"], back["retention"]) == ("removed", None, None)


def test_layers_that_were_dropped_are_removed_and_the_others_are_found_at_their_new_number(
    folder: Path, store: Path
) -> None:
    found, before = by_weight(store, "original", "shallow"), load(folder / "original")
    assert found.keys() == before.keys()
    for name, row in found.items():
        layer = int(number[0]) if (number := LAYER.search(name)) else None
        assert row["status"] == ("removed" if layer in (1, 3) else "equal"), name
        new = {0: "0", 2: "1", 4: "2"}.get(layer, "") if layer is not None else ""
        assert row["weight_b"] == (None if layer in (1, 3) else LAYER.sub(new, name))
    row = summary(store, "original", "shallow")
    gone = [w.size for name, w in before.items() if LAYER.search(name) and LAYER.search(name)[0] in "13"]  # type: ignore[index]
    assert (row["removed"], row["parameters_a"] - row["parameters_b"]) == (len(gone), sum(gone))
    assert (row["layers"], row["touched_layers"], row["untouched"]) == (5, 0, [0, 2, 4])
    assert (row["removed_layers"], row["added_layers"], row["consistent"]) == (2, 0, True)
    back = summary(store, "shallow", "original")
    assert (back["layers"], back["removed_layers"], back["added_layers"]) == (3, 0, 2)


# ---- layer by layer, module by module, in one row


def test_layers_have_their_parameters_and_say_whether_they_were_touched(folder: Path, store: Path) -> None:
    before, after = load(folder / "original"), load(folder / "pruned")

    def total(weights: pruning.Weights, layer: int | None) -> int:
        return sum(w.size for n, w in weights.items() if (int(x[0]) if (x := LAYER.search(n)) else None) == layer)

    found = {row["layer"]: row for row in ask(store, "pruning_layers", "original", "pruned")}
    assert found.keys() == {None, *range(LAYERS)}
    for layer, row in found.items():
        a, b = total(before, layer), total(after, layer)
        assert (row["component"], row["parameters_a"], row["parameters_b"]) == ("text", a, b)
        assert row["retention"] == b / a
        assert row["structured_sparsity"] == pytest.approx(1 - b / a, abs=1e-15)
        assert row["weights"] == (3 if layer is None else 9)
        assert row["touched"] is (layer in TOUCHED)
        assert (row["pruned"], row["added"], row["removed"]) == (7 if layer in TOUCHED else 0, 0, 0)
        assert row["faults"] == []


def test_modules_that_lost_the_same_everywhere_are_consistent(store: Path) -> None:
    found = {row["role"]: row for row in ask(store, "pruning_modules", "original", "pruned")}
    cut = {f"{r}_proj" for r in ("q", "k", "v", "o", "gate", "up", "down")}
    assert found.keys() == cut | {"input_norm", "post_attention_norm", "final_norm", "embed_tokens", "lm_head"}
    for role, row in found.items():
        if role in cut:
            assert (row["layers"], row["touched_layers"], row["consistent"]) == (LAYERS, len(TOUCHED), True)
            assert [row[f"{kind}_retention"] for kind in ("touched", "min", "max")] == [0.75] * 3
            assert row["retention"] == pytest.approx((2 + 3 * 0.75) / 5, rel=1e-12)
        else:
            assert (row["touched_layers"], row["retention"]) == (0, 1)
            assert [row[f"{kind}_retention"] for kind in ("touched", "min", "max")] == [None] * 3
            assert row["consistent"] is None


def test_modules_that_lost_more_in_one_layer_are_not_consistent(store: Path) -> None:
    found = {row["role"]: row for row in ask(store, "pruning_modules", "small", "uneven")}
    assert {role for role, row in found.items() if row["consistent"] is False} == {"gate_proj", "up_proj", "down_proj"}
    gate = found["gate_proj"]
    assert (gate["touched_layers"], gate["min_retention"], gate["max_retention"]) == (2, 0.5, 0.75)
    assert gate["touched_retention"] == (72 + 48) / (2 * 96)
    row = summary(store, "small", "uneven")
    assert (row["consistent"], sorted(row["inconsistent"]), row["faults"]) == (
        False,
        ["down_proj", "gate_proj", "up_proj"],
        0,
    )


def test_a_summary_is_one_row_of_sizes_and_counts(folder: Path, store: Path) -> None:
    row = summary(store, "original", "pruned")
    for side, name in (("a", "original"), ("b", "pruned")):
        weights = load(folder / name)
        assert row[f"parameters_{side}"] == sum(w.size for w in weights.values())
        assert row[f"bytes_{side}"] == sum(w.nbytes for w in weights.values())
        assert row[f"file_bytes_{side}"] == (folder / name / "model.safetensors").stat().st_size
        assert row[f"sparsity_{side}"] == 0
    assert row["retention"] == row["parameters_b"] / row["parameters_a"]
    assert row["structured_sparsity"] == pytest.approx(1 - row["retention"], abs=1e-15)
    assert (row["layers"], row["touched_layers"], row["untouched"]) == (LAYERS, 3, [0, 4])
    assert (row["equal"], row["pruned"]) == (3 + 2 * 9 + 3 * 2, 3 * 7)
    assert [row[word] for word in ("changed", "grown", "reshaped", "added", "removed", "faults")] == [0] * 6
    assert (row["consistent"], row["inconsistent"]) == (True, [])


@pytest.mark.parametrize("macro", [*MACROS, *SURVIVORS])
@pytest.mark.parametrize("models", [("original", "nobody"), ("nobody", "original")])
def test_a_model_that_is_not_there_is_an_error_that_names_it(store: Path, macro: str, models: tuple[str, str]) -> None:
    with pytest.raises((QueryError, duckdb.Error), match="nobody"):
        ask(store, macro, *models)


@pytest.mark.parametrize("macro", ["original_model", "pruned_model"])
def test_a_model_of_that_very_name_goes_before_those_that_its_name_is_a_pattern_of(macro: str) -> None:
    unsaid = dict.fromkeys(("source", "format", "channels", "identity", "scan", "state"), "")
    with duckdb.connect() as db:
        for script in (*sqlfiles.schema(), sqlfiles.views()[macro]):
            db.execute(script)
        for name, parameters in (("mX1", 9), ("m_1", 5), ("mY1", 1)):
            row = {**unsaid, "model": name, "parameters": parameters, "bytes": 0, "commits": 0}
            catalogs.insert(db, "models", [row])
        found = [db.sql(f"SELECT {macro}('{pattern}')").fetchall() for pattern in ("m_1", "m__", "%")]
    other = "mX1" if macro == "original_model" else "mY1"
    assert found == [[("m_1",)], [(other,)], [(other,)]]


@pytest.mark.parametrize("missing", ["norm_a", "norm_change", "max_change"])
def test_a_figure_that_one_weight_lacks_is_no_figure_of_its_module(missing: str) -> None:
    figures = {"changed": 1, "newly_zero": 0, "norm_a": 5.0, "norm_b": 4.0, "norm_change": 3.0, "cosine": 0.8}
    names = {"model_a": "a", "model_b": "b", "component": "text", "role": "q_proj", "part": "weight", "status": "ok"}
    rows = [
        {**names, **figures, "max_change": 2.0, "values": 8, "added": 0, "layer": i}
        | {"weight_a": f"{i}", "weight_b": f"{i}"}
        for i in range(2)
    ]
    whole = {"q": place_tensors(golden.checkpoint({"model.layers.0.self_attn.q_proj.weight": (4, 4)}, {}))}
    with duckdb.connect() as db:
        for script in (*sqlfiles.schema(), *sqlfiles.views().values()):
            db.execute(script)
        for name in "ab":
            headers.insert(db, name, whole)
        ((component, role),) = db.sql("SELECT component, role FROM tensors WHERE model = 'a'").fetchall()
        at = {"component": component, "role": role}
        catalogs.insert(db, "tensor_diffs", [row | at for row in rows])
        columns = "SELECT changed, relative_change, cosine, max_change FROM model_diff('a', 'b')"
        assert db.sql(columns).fetchall() == [pytest.approx((1 / 8, 0.6, 0.8, 2))]
        db.execute("DELETE FROM tensor_diffs")
        catalogs.insert(db, "tensor_diffs", [row | at | ({missing: None} if row["layer"] else {}) for row in rows])
        changed, relative, cosine, largest = db.sql(columns).fetchall()[0]
    assert changed == 1 / 8
    assert (relative is None, cosine is None, largest is None) == (
        missing != "max_change",
        missing == "norm_a",
        missing == "max_change",
    )


# ---- shapes that cannot be, by headers alone


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("headers")
    original = pruning.llama(made / "original", layers=2)
    folders = [original, *(pruning.impossible(original, made / what, what) for what in pruning.IMPOSSIBLE)]
    folders += [pruning.write_cut(original, made / what, cut, None) for what, cut in sane().items()]
    pruning.hidden_pruned(original, made / "narrow", channels=60)
    folders.append(made / "narrow")
    moe = pruning.mixtral(made / "moe", experts=4, layers=2)
    router = {"model.layers.1.block_sparse_moe.gate.weight": pruning.Kept(rows=np.arange(3))}
    folders += [moe, pruning.write_cut(moe, made / "router", router, pruning.config_of(moe))]
    return headers.scanned(tmp_path_factory.mktemp("scans"), folders)


def sane() -> dict[str, pruning.Cut]:
    """What looks odd and can run: fewer query heads for each KV head, and one KV head for all."""
    of, at = pruning.Sizes(), "model.layers.1.self_attn."
    even = np.flatnonzero(np.arange(of.heads * of.head_dim) // of.head_dim % 2 == 0)
    fewer = {f"{at}q_proj.weight": pruning.Kept(rows=even), f"{at}o_proj.weight": pruning.Kept(cols=even)}
    return {"fewer-queries": fewer, "one-group": pruning.heads_cut(of, 1, np.array([2]))}


@pytest.mark.parametrize("pruned", ["fewer-queries", "one-group", "narrow"])
def test_what_looks_odd_and_can_run_is_no_fault(shapes: Path, pruned: str) -> None:
    assert ask(shapes, "shape_faults", "original", pruned) == []


# two weights disagree: of which one it is told is a matter of taste
KINDS = {
    "head_dim": {"head_dim"},
    "kv_groups": {"kv_groups"},
    "o_proj": {"o_proj"},
    "v_proj": {"o_proj", "kv_groups"},
    "gate": {"mlp"},
    "down": {"mlp"},
    "residual": {"residual"},
}


@pytest.mark.parametrize("what", pruning.IMPOSSIBLE)
def test_an_impossible_shape_is_told_of_the_layer_that_has_it(shapes: Path, what: str) -> None:
    found = ask(shapes, "shape_faults", "original", what)
    assert {(row["component"], row["layer"]) for row in found} == {("text", 1)}
    assert KINDS[what] & {row["kind"] for row in found}
    assert all(row["detail"].strip() for row in found)
    layers = {row["layer"]: row["faults"] for row in ask(shapes, "pruning_layers", "original", what)}
    assert sorted(layers[1]) == sorted({row["detail"] for row in found})
    assert layers[0] == layers[None] == []
    assert summary(shapes, "original", what)["faults"] == len(layers[1])


def test_what_the_original_has_too_is_no_fault(shapes: Path) -> None:
    assert ask(shapes, "shape_faults", "gate", "gate") == ask(shapes, "shape_faults", "gate", "original") == []


def test_a_router_of_another_number_of_experts_is_told(shapes: Path) -> None:
    ((layer, kind),) = [(row["layer"], row["kind"]) for row in ask(shapes, "shape_faults", "moe", "router")]
    assert (layer, kind) == (1, "experts")


def test_no_architecture_is_called_impossible_when_it_is_pruned_with_care() -> None:
    files = {name.replace("-", "_"): golden.read(name) for name in golden.NAMES}
    whole = {name: place_tensors(golden.checkpoint(file.shapes, file.config)) for name, file in files.items()}
    half = {n: place_tensors(golden.checkpoint(headers.halved(whole[n]), file.config)) for n, file in files.items()}
    with duckdb.connect() as connection:
        for script in (*sqlfiles.schema(), *sqlfiles.views().values()):
            connection.execute(script)
        headers.insert(connection, "whole", whole)
        headers.insert(connection, "half", half)
        sizes = dict(connection.sql("SELECT model, parameters FROM models").fetchall())
        assert sizes["half"] < 0.8 * sizes["whole"]
        faults = connection.sql("SELECT component, layer, kind, detail FROM shape_faults('whole', 'half')").fetchall()
    assert faults == []


# ---- Llama-3-8B, 25 % of 27 layers

WHOLE, LEFT = 8_030_261_248, 6_558_060_544


@pytest.fixture(scope="module")
def llama3_8b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("llama3-8b")
    folders = [headers.llama3_8b(made / "Llama-3-8B"), headers.llama3_8b(made / "Llama-3-8B-pruned", pruned=True)]
    return headers.scanned(made / "scans", folders)


def test_llama_3_8b_pruned_by_a_quarter_has_the_parameters_that_a_hand_counts(llama3_8b: Path) -> None:
    attention, mlp = 2 * 4096 * 4096 + 2 * 1024 * 4096, 3 * 14336 * 4096
    assert 2 * 128256 * 4096 + 4096 + 32 * (attention + mlp + 2 * 4096) == WHOLE
    assert WHOLE - 27 * (attention + mlp) // 4 == LEFT
    row = summary(llama3_8b, "Llama-3-8B", "Llama-3-8B-pruned")
    assert (row["parameters_a"], row["parameters_b"]) == (WHOLE, LEFT)
    assert row["retention"] == LEFT / WHOLE
    assert (row["bytes_a"], row["bytes_b"]) == (2 * WHOLE, 2 * LEFT)
    assert 0 < row["file_bytes_a"] - row["bytes_a"] < 100_000
    assert (row["layers"], row["touched_layers"], row["untouched"]) == (32, 27, [0, 1, 2, 30, 31])
    assert (row["pruned"], row["consistent"], row["faults"]) == (27 * 7, True, 0)


def test_what_nobody_has_read_is_neither_equal_nor_changed(llama3_8b: Path) -> None:
    row = summary(llama3_8b, "Llama-3-8B", "Llama-3-8B-pruned")
    assert (row["equal"], row["changed"], row["sparsity_a"], row["sparsity_b"]) == (0, 0, None, None)
    assert (row["unread"], row["unread"] + row["pruned"]) == (3 + 32 * 9 - 27 * 7, 3 + 32 * 9)


def test_the_modules_of_llama_3_8b_keep_three_quarters_in_every_touched_layer(llama3_8b: Path) -> None:
    found = {row["role"]: row for row in ask(llama3_8b, "pruning_modules", "Llama-3-8B", "Llama-3-8B-pruned")}
    for role in (f"{r}_proj" for r in ("q", "k", "v", "o", "gate", "up", "down")):
        row = found[role]
        assert (row["layers"], row["touched_layers"], row["touched_retention"], row["consistent"]) == (
            32,
            27,
            0.75,
            True,
        )
    assert math.isclose(found["q_proj"]["retention"], (5 + 27 * 0.75) / 32, rel_tol=1e-12)
    layers = ask(llama3_8b, "pruning_layers", "Llama-3-8B", "Llama-3-8B-pruned")
    assert {row["layer"] for row in layers if row["touched"]} == set(headers.TOUCHED)
