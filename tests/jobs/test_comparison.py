"""`shardscan diff`: two checkpoints scanned, matched and compared, and what SQL alone cannot tell of their channels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import shardscan
from made import pruning
from made.pruning import Cut
from made.torchfiles import dict_of, storage, tensor, zipped
from shardscan.cli import main
from shardscan.errors import CheckpointError, CheckpointNotFound, OptionError
from shardscan.jobs.comparison.job import Difference, diff

LAYERS = 3
EXACT, APPROXIMATE = "restricted fingerprint", "statistics (approximate)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    pruning.llama(folder / "original", layers=LAYERS)
    return folder


@pytest.fixture(scope="module")
def scanned(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the original alone, read only."""
    store = tmp_path_factory.mktemp("scanned") / "scans"
    shardscan.ingest(made / "original", store, spectra="none")
    return store


@pytest.fixture
def store(scanned: Path, tmp_path: Path) -> Path:
    """A copy of it, to be written to."""
    return shutil.copytree(scanned, tmp_path / "scans")


@pytest.fixture(scope="module")
def cuts(made: Path) -> dict[str, Cut]:
    """Checkpoints beside the original, and which rows and columns they have of it."""
    original = made / "original"
    pruned = pruning.llm_pruner(original, made / "pruned", layers=range(1, 3))
    narrow = pruning.hidden_pruned(original, made / "narrow", channels=60)
    pruning.fine_tuned(made / "pruned", made / "tuned")
    return {"pruned": pruned, "narrow": narrow, "tuned": pruned}


@pytest.fixture(scope="module")
def compared(made: Path, cuts: dict[str, Cut]) -> dict[str, Difference]:
    """Every one of them compared with the original, values too, in one store."""
    return {name: diff(made / "original", made / name, made / "scans", values=True) for name in cuts}


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def rows(store: Path, query: str) -> list[dict[str, Any]]:
    with shardscan.connect(store) as connection:
        found: list[dict[str, Any]] = connection.sql(query).to_arrow_table().to_pylist()
    return found


@pytest.mark.parametrize("name", ["pruned", "narrow", "tuned"])
def test_every_channel_that_is_left_is_found(
    made: Path, cuts: dict[str, Cut], compared: dict[str, Difference], name: str
) -> None:
    found = rows(
        made / "scans", f"from surviving_channels('original', '{name}') where status = 'kept' order by channel_b"
    )
    left: dict[tuple[str, str], list[int]] = {}
    for row in found:
        left.setdefault((row["weight_b"], row["axis"]), []).append(row["channel_a"])
    wanted = {(weight, axis): channels
              for weight, kept in cuts[name].items()
              for axis, channels in (("out", kept.rows), ("in", kept.cols))
              if channels is not None and "norm" not in weight}  # fmt: skip
    assert len(wanted) > 12
    assert {key: left[key] for key in wanted} == {key: channels.tolist() for key, channels in wanted.items()}


def test_how_it_was_found_is_said(made: Path, compared: dict[str, Difference]) -> None:
    methods = {name: set(found.aligned) for name, found in compared.items()}
    assert methods == {"pruned": set(), "narrow": {EXACT}, "tuned": {APPROXIMATE}}
    told = rows(made / "scans", "select distinct model_b, method from alignments order by all")
    assert [(row["model_b"], row["method"]) for row in told] == [("narrow", EXACT), ("tuned", APPROXIMATE)]


@pytest.mark.parametrize(("name", "change"), [("pruned", 0.0), ("narrow", 0.0), ("tuned", 0.03)])
def test_values_are_compared_on_what_is_left(
    made: Path, compared: dict[str, Difference], name: str, change: float
) -> None:
    found = rows(made / "scans", f"from tensor_diffs where model_b = '{name}'")
    weights = pruning.load(made / name)
    assert {row["weight_b"]: row["values"] for row in found} == {weight: w.size for weight, w in weights.items()}
    assert not compared[name].left and compared[name].compared == len(weights)
    for row in found:
        # bfloat16 keeps 3 % only roughly
        assert row["relative_change"] == pytest.approx(change, abs=change / 5)
        assert row["cosine"] == pytest.approx(1, abs=1e-3)


def test_what_cannot_be_aligned_is_unknown_and_says_why(made: Path, store: Path, tmp_path: Path) -> None:
    """Nothing of another model's weights is in this one, whatever its shapes are."""
    other = pruning.llama(tmp_path / "other", layers=LAYERS, seed=99)
    pruning.llm_pruner(other, tmp_path / "strange", layers=range(1, 3))
    found = diff(made / "original", tmp_path / "strange", store, values=True)
    assert found.unknown > 0 and found.left
    statuses = rows(
        store,
        "select distinct status, reason is not null as told from surviving_channels('original', 'strange') "
        "where layer = 1 and role = 'up_proj' and axis = 'out'",
    )
    assert statuses == [{"status": "unknown", "told": True}]
    again = diff(made / "original", tmp_path / "strange", store)
    assert again.unknown == found.unknown


def test_a_second_time_nothing_is_done_and_the_answer_is_the_same(made: Path, compared: dict[str, Difference]) -> None:
    phases: list[object] = []

    @contextmanager
    def noted(phase: str) -> Iterator[Callable[[int, int], None]]:
        phases.append(phase)
        yield lambda done, total: phases.append(done)

    again = diff(made / "original", made / "narrow", made / "scans", values=True, phase=noted)
    assert again.modules.equals(compared["narrow"].modules) and again.summary == compared["narrow"].summary
    assert phases == ["comparing"]


def test_models_are_named_by_path_or_by_their_name_in_the_store(made: Path, compared: dict[str, Difference]) -> None:
    by_name = diff("original", "pruned", made / "scans", values=True)
    assert by_name.modules.equals(compared["pruned"].modules)
    with pytest.raises(CheckpointNotFound, match=r"neither a checkpoint nor a model of the store .*'original'"):
        diff("original", "absent", made / "scans")


def test_two_checkpoints_of_one_name_need_names(made: Path, tmp_path: Path) -> None:
    twin = pruning.llama(tmp_path / "original", layers=1)
    with pytest.raises(OptionError, match="--names"):
        diff(made / "original", twin, tmp_path / "scans")
    found = diff(made / "original", twin, tmp_path / "scans", names=("long", "short"))
    assert (found.summary["model_a"], found.summary["model_b"]) == ("long", "short")


def test_values_of_a_model_whose_checkpoint_changed_are_not_compared(tmp_path: Path) -> None:
    original = pruning.llama(tmp_path / "original", layers=1)
    tuned = pruning.fine_tuned(original, tmp_path / "tuned")
    diff(original, tuned, tmp_path / "scans")
    pruning.fine_tuned(original, tuned, seed=5)
    with pytest.raises(CheckpointError, match="give its path instead of its name"):
        diff("original", "tuned", tmp_path / "scans", values=True)


def test_values_of_a_model_that_was_scanned_in_another_way_are_not_compared(made: Path, tmp_path: Path) -> None:
    """Of a file of two states each is a model of its own, and its name alone does not say which."""
    weights, data = pruning.load(made / "original"), {}
    held: dict[str, dict[str, bytes]] = {"model": {}, "ema": {}}
    for number, (name, w) in enumerate(weights.items()):
        for place, scale in (("model", 1), ("ema", 2)):
            key, values = f"{number}{place}", w.astype(np.float32) * scale
            strides = [s // values.itemsize for s in values.strides]
            held[place][name] = tensor(storage(key, values.size), 0, values.shape, strides)
            data[key] = values.tobytes()
    file, store = tmp_path / "last.ckpt", tmp_path / "scans"
    file.write_bytes(zipped(dict_of(**{place: dict_of(**of) for place, of in held.items()}), data=data))
    for place in held:
        shardscan.ingest(file, store, spectra="none", name=place, state=place)
    found = diff(file, "ema", store, names=("model", None), state="model")
    assert found.summary["changed"] == len(weights)
    with pytest.raises(CheckpointError, match="was scanned in another way"):
        diff(file, "ema", store, names=("model", None), state="model", values=True)


def test_a_merged_lora_is_told_by_its_rank(made: Path, store: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)

    def merged(name: str, w: np.ndarray) -> np.ndarray:
        if "q_proj" not in name:
            return w
        change = rng.normal(0, 0.2, (w.shape[0], 8)) @ rng.normal(0, 0.2, (8, w.shape[1]))
        return (w.astype(np.float64) + change).astype(w.dtype)

    pruning.rewritten(made / "original", tmp_path / "merged", merged)
    found = diff(made / "original", tmp_path / "merged", store, rank=True)
    ranks = {row["role"]: row["change_rank"] for row in found.modules.to_pylist()}
    assert ranks["q_proj"] == 8 and ranks["k_proj"] == 0 and ranks["up_proj"] == 0


def test_the_command_prints_a_row_for_each_module_and_says_the_rest(
    made: Path, compared: dict[str, Difference]
) -> None:
    result = run(
        "diff", str(made / "original"), str(made / "pruned"), "--store", str(made / "scans"), "--format", "json"
    )
    assert result.exit_code == 0
    modules = {row["role"]: row for row in json.loads(result.stdout)}
    assert modules["gate_proj"]["touched_layers"] == 2 and modules["gate_proj"]["consistent"]
    assert modules["input_norm"]["touched_layers"] == 0 and modules["input_norm"]["retention"] == 1
    assert "2 of 3 layers have other shapes; layer 0 does not." in result.stderr
    assert "Each module has one retention in all of these." in result.stderr


def test_an_impossible_model_is_told_in_sentences(made: Path, store: Path, tmp_path: Path) -> None:
    wrong = pruning.impossible(made / "original", tmp_path / "wrong", "head_dim")
    result = run("diff", made / "original", wrong, "--store", store)
    assert result.exit_code == 0
    assert "Impossible: layer 1: q_proj has" in result.stderr and "no multiple of the head length 8" in result.stderr


def test_a_weight_that_only_one_model_has_as_a_matrix_is_left(made: Path, store: Path, tmp_path: Path) -> None:
    def flattened(name: str, w: np.ndarray) -> np.ndarray:
        return w.reshape(-1) if "layers.0.mlp.up" in name else w

    pruning.rewritten(made / "original", tmp_path / "flat", flattened)
    found = diff(made / "original", tmp_path / "flat", store, values=True)
    assert found.left == {"model.layers.0.mlp.up_proj.weight": "it is a matrix in one model only"}


def test_without_values_nothing_is_said_of_them(made: Path, store: Path) -> None:
    found = diff(made / "original", made / "original", store)
    assert set(found.modules.column_names).isdisjoint(("changed", "cosine", "relative_change"))
    told = rows(store, "select distinct changed, cosine, max_change from model_diff('original', 'original')")
    assert told == [{"changed": None, "cosine": None, "max_change": None}]
    assert rows(store, "select count(*) as n from spectra") == [{"n": 0}]


VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.mark.parametrize("tuned", [(), (0, 5, 159), range(160)], ids=["no row tuned", "some", "all"])
def test_of_a_vocabulary_that_has_grown_the_tokens_that_both_have_are_compared(
    made: Path, store: Path, tmp_path: Path, tuned: Sequence[int]
) -> None:
    weights = pruning.load(made / "original")
    before = {name: weights[name] for name in VOCABULARY}
    for name in VOCABULARY:
        more = np.concatenate([weights[name], weights[name][:3] * 2, np.zeros_like(weights[name][:5])])  # padded
        more[list(tuned)] *= 1.5
        weights[name] = more
    weights["lm_head.bias"] = np.arange(168, dtype=np.float32)
    original = pruning.load(made / "original") | {"lm_head.bias": np.arange(160, dtype=np.float32)}
    base = pruning.save(tmp_path / "base", original, pruning.config_of(made / "original"))
    grown = pruning.save(tmp_path / "grown", weights, pruning.config_of(made / "original"))
    found = diff(base, grown, store, rank=True)
    assert (found.summary["grown"], found.compared, found.left) == (3, len(weights), {})
    for weight in rows(store, "from tensor_diffs where added > 0"):
        a = before.get(weight["weight_a"], original["lm_head.bias"]).astype(np.float64)
        b = weights[weight["weight_b"]][:160].astype(np.float64)
        assert (weight["values"], weight["added"]) == (a.size, 8 * a.size // 160)
        assert weight["changed"] == np.count_nonzero(a != b)
        assert weight["norm_change"] == pytest.approx(np.linalg.norm(b - a))
        if a.ndim == 2:
            assert weight["change_rank"] == min(len(tuned), a.shape[1])
    channels = rows(store, f"from channel_diffs where weight_b = '{VOCABULARY[0]}' and axis = 'out' order by channel_b")
    assert [row["channel_b"] for row in channels] == [row["channel_a"] for row in channels] == list(range(160))
    assert [row["channel_b"] for row in channels if row["changed"]] == list(tuned)
    added = rows(store, "from surviving_channels('base', 'grown') where status = 'added' and role = 'lm_head'")
    assert sorted(row["channel_b"] for row in added) == list(range(160, 168))
    told = {row["role"]: (row["axis"], row["n_a"], row["n_b"], row["found"]) for row in found.altered_axes}
    assert told["embed_tokens"] == ("out", 160, 168, 160 - len(tuned))


def test_a_vocabulary_that_has_grown_in_the_middle_is_not_compared_by_its_numbers(
    made: Path, store: Path, tmp_path: Path
) -> None:
    weights = pruning.load(made / "original")
    for name in VOCABULARY:
        weights[name] = np.concatenate([weights[name][:80], weights[name][:8] * 2, weights[name][80:]])
    pruning.save(tmp_path / "grown", weights, pruning.config_of(made / "original"))
    weights[VOCABULARY[0]][100] *= 2  # which one it was nobody can tell
    pruning.save(tmp_path / "tuned", weights, pruning.config_of(made / "original"))
    weights[VOCABULARY[1]] *= 2  # of which the embedding says that its tokens have moved
    pruning.save(tmp_path / "retrained", weights, pruning.config_of(made / "original"))
    found = diff(made / "original", tmp_path / "grown", store, values=True)
    assert found.left["lm_head.weight"] == "8 of its 168 rows are none of lm_head.weight, and not its last"
    found = diff(made / "original", tmp_path / "tuned", store, values=True)
    assert found.left["model.embed_tokens.weight"] == "nobody knows which rows of model.embed_tokens.weight are left"
    found = diff(made / "original", tmp_path / "retrained", store, values=True)
    assert found.left["lm_head.weight"] == "nobody knows which rows of lm_head.weight are left"


def test_rows_in_another_order_are_told_and_their_values_compared(made: Path, store: Path, tmp_path: Path) -> None:
    """As q and k of Meta's own checkpoints are, beside those that were converted for rotary halves."""

    def permuted(name: str, w: np.ndarray) -> np.ndarray:
        return w.reshape(-1, 2, 4, w.shape[1]).swapaxes(1, 2).reshape(w.shape) if ".q_proj." in name else w

    pruning.rewritten(made / "original", tmp_path / "native", permuted)
    result = run("diff", made / "original", tmp_path / "native", "--store", store, "--values")
    assert "q_proj (3 weights): the rows of original in another order." in result.stderr
    assert "changed" not in result.stderr
    assert rows(store, "select sum(changed) as n from tensor_diffs") == [{"n": 0}]


def test_weights_without_a_place_in_one_model_are_paired_by_content(made: Path, store: Path, tmp_path: Path) -> None:
    """One model has no family: names that nobody knows, and one weight tuned."""
    original, renamed = pruning.load(made / "original"), {}
    for number, (name, w) in enumerate(original.items()):
        tuned = name == "model.layers.1.mlp.up_proj.weight"
        renamed[f"net.w{number}"] = w * 2 if tuned else w
    pruning.save(tmp_path / "strange", renamed, None)
    result = run("diff", made / "original", tmp_path / "strange", "--store", store, "--values")
    assert f"{len(original) - 1} weights without a place in one of them paired by content" in result.stderr
    pairs = rows(store, "from pruning_diff('original', 'strange') where weight_a is not null and weight_b is not null")
    names = list(original)
    assert len(pairs) == len(original) - 1
    assert all(names[int(row["weight_b"].removeprefix("net.w"))] == row["weight_a"] for row in pairs)
    assert {(row["status"], row["paired_by"]) for row in pairs} == {("equal", "content")}
    assert rows(store, "select sum(changed) as n from tensor_diffs") == [{"n": 0}]


def test_weights_of_one_place_are_told_by_their_names(tmp_path: Path) -> None:
    """As the factors of LoHa are, and what lies beside bitsandbytes' codes."""
    rng, at = np.random.default_rng(5), "base_model.model.model.layers.{}.mlp.up_proj.hada_{}"
    factors = [(i, f"w{n}_{side}") for i in range(2) for n in (1, 2) for side in "ab"]
    weights = {at.format(i, name): rng.standard_normal((4, 4)).astype(np.float32) for i, name in factors}
    config = {"peft_type": "LOHA", "r": 4}
    a = pruning.save(tmp_path / "a", weights, config)
    b = pruning.save(tmp_path / "b", weights | {at.format(1, "w2_a"): np.ones((4, 4), np.float32)}, config)
    found = diff(a, b, tmp_path / "scans", values=True)
    assert (found.summary["layers"], found.summary["copied_layers"], found.compared) == (2, 0, 8)
    assert (found.summary["equal"], found.summary["changed"]) == (7, 1)


NAMES = {
    "no family": ("blocks.{}.{}.weight", "h.{}.other_{}.weight", ("aq", "ak")),
    "kohya": ("lora_te_text_model_encoder_layers_{}_mlp_fc1.lora_{}.weight",) * 2 + (("up", "down"),),
}


@pytest.mark.parametrize("names", NAMES)
def test_a_tuned_weight_without_a_place_follows_its_layer_to_its_new_number(names: str, tmp_path: Path) -> None:
    of_a, of_b, modules = NAMES[names]
    rng = np.random.default_rng(6)
    before = {(i, m): rng.standard_normal((8, 8)).astype(np.float32) for i in range(4) for m in modules}
    after = {(new, m): before[old, m] for new, old in enumerate((0, 2, 3)) for m in modules}
    after[1, modules[0]] = after[1, modules[0]] * 2
    a = pruning.save(tmp_path / "a", {of_a.format(*at): w for at, w in before.items()}, None)
    b = pruning.save(tmp_path / "b", {of_b.format(*at): w for at, w in after.items()}, None)
    diff(a, b, tmp_path / "scans")
    (changed,) = rows(tmp_path / "scans", "from pruning_diff('a', 'b') where status not in ('equal', 'removed')")
    assert (changed["weight_a"], changed["weight_b"]) == (of_a.format(2, modules[0]), of_b.format(1, modules[0]))
    removed = rows(tmp_path / "scans", "select weight_a from pruning_diff('a', 'b') where status = 'removed'")
    assert {row["weight_a"] for row in removed} == {of_a.format(1, m) for m in modules}


def test_what_was_tuned_follows_those_that_are_called_alike(made: Path, store: Path, tmp_path: Path) -> None:
    original = pruning.load(made / "original")
    tuned = "model.layers.1.self_attn.q_proj.weight"
    strange = {
        n.replace("model.layers.", "blocks.").replace("self_attn.q_proj", "wq"): w * 2 if n == tuned else w
        for n, w in original.items()
    }
    pruning.save(tmp_path / "strange", strange, None)
    assert not diff(made / "original", tmp_path / "strange", store, values=True).left
    diffs = rows(store, "from pruning_diff('original', 'strange')")
    assert all(row["weight_a"] and row["weight_b"] for row in diffs)
    (changed,) = (row for row in diffs if row["status"] != "equal")
    assert (changed["weight_a"], changed["weight_b"]) == (tuned, "blocks.1.wq.weight")
    assert (changed["status"], changed["paired_by"]) == ("changed", "pattern")


def test_what_was_found_roughly_is_found_exactly_once_the_checkpoint_is_there(
    made: Path, cuts: dict[str, Cut], tmp_path: Path
) -> None:
    store = tmp_path / "scans"
    original = pruning.rewritten(made / "original", tmp_path / "original", lambda _, w: w)
    for folder in (original, made / "narrow"):
        shardscan.ingest(folder, store, spectra="none")
    original.rename(tmp_path / "elsewhere")
    assert set(diff("original", "narrow", store).aligned) == {APPROXIMATE}
    (tmp_path / "elsewhere").rename(original)
    assert set(diff("original", "narrow", store).aligned) == {EXACT}
    assert diff("original", "narrow", store, values=True).modules["changed"].to_pylist() == [0.0] * 12
    original.rename(tmp_path / "elsewhere")
    again = diff("original", "narrow", store)
    assert set(again.aligned) == {EXACT} and again.modules["changed"].to_pylist() == [0.0] * 12


def test_a_bias_goes_with_the_rows_of_its_weight(made: Path, tmp_path: Path) -> None:
    """Rows in another order, and fewer of them: the values of their bias are looked for where they went."""
    rng = np.random.default_rng(8)
    original, name = pruning.load(made / "original"), "model.layers.0.self_attn.k_proj"
    original[f"{name}.bias"] = rng.normal(0, 1, len(original[f"{name}.weight"])).astype(
        original[f"{name}.weight"].dtype
    )
    pruning.save(tmp_path / "biased", original, pruning.config_of(made / "original"))
    for model, kept in (("turned", np.arange(32)[::-1]), ("fewer", np.arange(8, 32))):
        weights = dict(original)
        for part in ("weight", "bias"):
            weights[f"{name}.{part}"] = original[f"{name}.{part}"][kept]
        pruning.save(tmp_path / model, weights, pruning.config_of(made / "original"))
        found = diff(tmp_path / "biased", tmp_path / model, tmp_path / "scans", values=True)
        assert not found.left and found.compared == len(weights)
        changed = rows(tmp_path / "scans", f"from tensor_diffs where model_b = '{model}' and changed > 0")
        assert changed == []


def test_a_folder_without_a_checkpoint_does_not_hide_a_model_of_its_name(
    made: Path, compared: dict[str, Difference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "original").mkdir()
    monkeypatch.chdir(tmp_path)
    assert diff("original", "pruned", made / "scans").summary["model_a"] == "original"
