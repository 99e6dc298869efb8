"""The questions that ship: their headers, and the answers that were planted in the catalog of `catalogs`."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from made.catalogs import DIM, HEADS, HIDDEN, KV_HEADS, Catalog, place
from oracles.reference import spectrum_fits
from shardscan.answers.connection import ask
from shardscan.answers.questions import Question, parse_question, read_questions
from shardscan.errors import QueryError

QUESTIONS = read_questions()


def answer(catalog: Catalog, name: str, **parameters: str) -> list[dict[str, Any]]:
    return ask(catalog.path, name, parameters).to_pylist()  # type: ignore[no-any-return]


def test_at_least_twelve_questions_ship() -> None:
    assert len(QUESTIONS) >= 12


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_a_header_declares_exactly_the_parameters_of_its_one_select(question: Question) -> None:
    (statement,) = duckdb.extract_statements(question.sql)
    assert statement.type == duckdb.StatementType.SELECT
    assert {parameter.name for parameter in question.parameters} == statement.named_parameters
    assert question.example.startswith(f"shardscan ask {question.name} ") and "ORDER BY" in question.sql


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_a_title_is_a_heading_and_why_is_one_sentence(question: Question) -> None:
    assert len(question.title) <= 80 and not question.title.endswith(".")
    assert question.why.endswith(".") and ". " not in question.why


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_has_rows_with_its_defaults_and_the_same_ones_twice(catalog: Catalog, name: str) -> None:
    table = ask(catalog.path, name, {})
    assert table.num_rows > 0
    again = ask(catalog.path, name, {})
    for column in table.column_names:
        first, second = table[column].to_pylist(), again[column].to_pylist()
        if pa.types.is_floating(table.schema.field(column).type):
            # threads add floats in any order, so the last bits may differ
            assert [x is None for x in first] == [x is None for x in second]
            first, second = ([x for x in xs if x is not None] for xs in (first, second))
            assert second == pytest.approx(first, rel=1e-12)
        else:
            assert first == second
    assert not any(str(kind).startswith("decimal") for kind in table.schema.types)


def test_the_planted_outlier_is_first_in_every_layer(catalog: Catalog) -> None:
    found = answer(catalog, "outliers", top="3", model="alpha")
    assert {(row["role"], row["axis"], row["channel"]) for row in found[:2]} == {("q_proj", "in", 5)}
    assert answer(catalog, "outliers", sigma="1000") == []


def test_the_planted_outlier_is_shared_by_all_layers(catalog: Catalog) -> None:
    (row,) = answer(catalog, "shared-outliers", share="0.9", model="alpha")
    assert (row["role"], row["axis"], row["channel"]) == ("q_proj", "in", 5)
    assert (row["layers"], row["of_layers"], row["first_layer"], row["last_layer"]) == (3, 3, 0, 2)


def test_the_head_of_rank_one_is_the_most_low_rank_one_of_layer_0(catalog: Catalog) -> None:
    first = next(row for row in answer(catalog, "low-rank-heads", role="q_proj", model="alpha") if row["layer"] == 0)
    assert (first["low_head"], first["heads"], first["design_rank"]) == (1, 4, 12)
    assert first["low_rank"] == pytest.approx(1)
    assert first["high_rank"] > 6 and first["high_head"] != 1


def test_the_circuit_of_a_head_of_rank_one_is_the_lowest_of_its_layer(catalog: Catalog) -> None:
    found = answer(catalog, "circuits", role="qk")
    assert [(row["model"], row["role"]) for row in found] == [("alpha", "qk")] * 3
    assert (found[0]["layer"], found[0]["head"], found[0]["design_rank"]) == (0, 1, DIM)
    assert (found[0]["effective_rank"], found[0]["energy_rank_90"]) == (pytest.approx(1), 1)
    assert len(answer(catalog, "circuits", role="ov", per_layer="9")) == 3 * HEADS - HEADS // KV_HEADS  # two are zero
    assert len(answer(catalog, "circuits", top="2")) == 2


@pytest.mark.parametrize("name", ["low-rank-heads", "spikes", "snr-ranking", "training-quality", "shared-outliers"])
def test_circuits_are_not_among_heads_and_matrices(catalog: Catalog, name: str) -> None:
    assert {"ov", "qk"} & {row["role"] for row in answer(catalog, name)} == set()


def test_kv_heads_are_counted_once(catalog: Catalog) -> None:
    assert {row["heads"] for row in answer(catalog, "low-rank-heads", role="k_proj")} == {2}
    assert len(answer(catalog, "rank-ratios", role="k_proj")) == 3 * 2


def test_q_and_k_are_lower_in_rank_where_a_q_head_has_rank_one(catalog: Catalog) -> None:
    rows = answer(catalog, "qk-against-vo", model="alpha")
    assert [row["layer"] for row in rows] == [0, 1, 2]
    assert min(rows, key=lambda row: row["qk_over_vo"])["layer"] == 0


def test_dead_rows_are_found_by_default_and_nearly_dead_ones_on_request(catalog: Catalog) -> None:
    found = {(row["matrix"], row["axis"], row["channel"]) for row in answer(catalog, "dead-channels")}
    assert found == {("0.k_proj.weight", "out", 2)} | {("1.v_proj.weight", "out", i) for i in range(12)}
    assert len(answer(catalog, "dead-channels", threshold="0.04")) > len(found)


def test_the_layer_that_is_eight_times_its_neighbours_stands_out(catalog: Catalog) -> None:
    rows = [
        row for row in answer(catalog, "odd-layers", factor="4") if row["role"] == "down_proj" and row["layer"] == 1
    ]
    assert {row["metric"] for row in rows} == {"rms", "absmax"}


def test_nans_and_infs_are_counted(catalog: Catalog) -> None:
    (row,) = answer(catalog, "nans-and-infs")
    assert (row["tensor"], row["nans"], row["infs"]) == ("embed.weight", 1, 2)


def test_tensors_without_statistics_are_named_with_their_reason(catalog: Catalog) -> None:
    (row,) = answer(catalog, "unplaced")
    assert (row["tensor"], row["status"], row["reason"]) == ("mystery.codes", "codes", "quantised codes")


@pytest.mark.parametrize("name", ["dead-channels", "nans-and-infs", "unplaced", "sparsity", "nm-sparsity"])
def test_a_clean_model_gives_an_empty_answer(catalog: Catalog, name: str) -> None:
    assert answer(catalog, name, model="beta") == []


def matrices_by_role(catalog: Catalog) -> dict[str, list[np.ndarray]]:
    """The finite values of alpha's tensors of two dimensions, by role, in the order of the layers."""
    found: dict[str, list[np.ndarray]] = {}
    for (model, name), values in sorted(catalog.tensors.items()):
        if model == "alpha" and values.ndim == 2:
            found.setdefault(place(name)[1], []).append(values[np.isfinite(values)])
    return found


def test_the_heaviest_tails_come_first_and_norms_are_left_out(catalog: Catalog) -> None:
    def kurtosis(x: np.ndarray) -> float:
        return float(np.mean((x - x.mean()) ** 4) / x.std() ** 4)

    found = answer(catalog, "heavy-tails", model="alpha")
    expected = sorted((kurtosis(x) for xs in matrices_by_role(catalog).values() for x in xs), reverse=True)
    assert [row["kurtosis"] for row in found] == pytest.approx(expected, rel=1e-10)
    first = catalog.tensors["alpha", found[0]["tensor"]]
    assert found[0]["incoherence"] == pytest.approx(np.abs(first).max() * np.sqrt(first.size) / np.linalg.norm(first))
    assert len(answer(catalog, "heavy-tails", top="2")) == 2


def test_dynamic_range_is_the_largest_over_the_smallest_magnitude_of_a_tensor(catalog: Catalog) -> None:
    found = {row["role"]: row for row in answer(catalog, "dynamic-range", model="alpha")}
    by_role = matrices_by_role(catalog)
    assert found.keys() == by_role.keys()
    for role, tensors in by_role.items():
        sizes = [np.abs(x) for x in tensors]
        ranges = [x.max() / x[x > 0].min() for x in sizes]
        over = [x.max() / np.quantile(x, 0.99, method="inverted_cdf") for x in sizes]
        row = found[role]
        assert (row["absmax"], row["absmin"]) == (max(x.max() for x in sizes), min(x[x > 0].min() for x in sizes))
        assert (row["max_range"], row["median_range"]) == pytest.approx((max(ranges), np.median(ranges)))
        assert (row["tensors"], row["over_p99"]) == (len(tensors), pytest.approx(max(over)))


def test_sparsity_names_the_roles_with_planted_zeros(catalog: Catalog) -> None:
    found = answer(catalog, "sparsity")
    assert [row["role"] for row in found] == ["v_proj", "q_proj"]
    for row in found:
        tensors = [v for (m, n), v in catalog.tensors.items() if m == "alpha" and place(n)[1] == row["role"]]
        zeros = [int((x == 0).sum()) for x in tensors]
        assert (row["zeros"], row["parameters"]) == (sum(zeros), sum(x.size for x in tensors))
        assert row["sparsity"] == pytest.approx(sum(zeros) / sum(x.size for x in tensors))
        assert row["sparsest_tensor"] == pytest.approx(max(z / x.size for z, x in zip(zeros, tensors, strict=True)))
    assert "k_proj" in {row["role"] for row in answer(catalog, "sparsity", least="0.01")}


def test_nm_sparsity_shows_the_layers_with_planted_zeros_and_how_many_groups_obey(catalog: Catalog) -> None:
    found = answer(catalog, "nm-sparsity", least="0.01")
    assert [(row["layer"], row["role"]) for row in found] == [(1, "v_proj"), (0, "q_proj"), (0, "k_proj")]
    for row in found:
        w = catalog.tensors["alpha", f"{row['layer']}.{row['role']}.weight"]
        assert (row["zeros"], row["parameters"], row["sparsity"]) == ((w == 0).sum(), w.size, (w == 0).mean())
        for kept, length in ((2, 4), (4, 8)):
            obeys = (w != 0).reshape(len(w), -1, length).sum(2) <= kept
            assert row[f"passing_{kept}_{length}"] == obeys.mean()
            assert row[f"violating_rows_{kept}_{length}"] == (~obeys).any(1).sum()
            assert row[f"is_{kept}_{length}"] is False
    assert len(answer(catalog, "nm-sparsity", least="0", top="5")) == 5


def test_sizes_add_up_to_the_model_largest_role_first(catalog: Catalog) -> None:
    found = answer(catalog, "sizes", model="alpha")
    sizes = {"other": 8}
    for (model, name), values in catalog.tensors.items():
        if model == "alpha":
            sizes[place(name)[1]] = sizes.get(place(name)[1], 0) + values.size
    assert {row["role"]: row["parameters"] for row in found} == sizes
    assert {row["role"]: row["bytes"] for row in found} == {role: n * (1 if n == 8 else 2) for role, n in sizes.items()}
    assert [row["bytes"] for row in found] == sorted((row["bytes"] for row in found), reverse=True)
    assert sum(row["share"] for row in found) == pytest.approx(1)


def test_quantisation_error_pools_a_role_and_names_its_worst_layer(catalog: Catalog) -> None:
    found = {row["role"]: row for row in answer(catalog, "quantisation-error", model="alpha")}
    by_role = matrices_by_role(catalog)
    assert found.keys() == by_role.keys()
    for role, tensors in by_role.items():
        errors = [x - np.rint(x / (np.abs(x).max() / 7)) * (np.abs(x).max() / 7) for x in tensors]
        each = [np.linalg.norm(e) / np.linalg.norm(x) for e, x in zip(errors, tensors, strict=True)]
        pooled = np.linalg.norm(np.concatenate(errors)) / np.linalg.norm(np.concatenate(tensors))
        row = found[role]
        assert (row["relative_frobenius"], row["worst"]) == pytest.approx((pooled, max(each)), rel=1e-10)
        assert row["sqnr_db"] == pytest.approx(-20 * np.log10(pooled), rel=1e-10)
        assert row["worst_layer"] == (int(np.argmax(each)) if len(tensors) > 1 else None)


def test_more_bits_leave_less_error(catalog: Catalog) -> None:
    four, eight = (
        {(r["model"], r["role"]): r["relative_frobenius"] for r in answer(catalog, "quantisation-error", bits=bits)}
        for bits in ("4", "8")
    )
    assert all(eight[key] < four[key] for key in four)


def test_models_says_how_large_each_is_and_counts_what_is_not_ok(catalog: Catalog) -> None:
    tensors = {model: [v for (m, _), v in catalog.tensors.items() if m == model] for model in ("alpha", "beta")}
    extra = {"alpha": 8, "beta": 0}  # the codes of alpha, one byte each
    assert [
        (row["model"], row["parameters"], row["tensors"], row["ok"], row["not_ok"]) for row in answer(catalog, "models")
    ] == [
        (model, sum(x.size for x in xs) + extra[model], len(xs) + bool(extra[model]), len(xs), int(bool(extra[model])))
        for model, xs in tensors.items()
    ]


def fits_by_role(catalog: Catalog) -> dict[tuple[str, int | None], dict[str, dict[str, float]]]:
    """The fits of every spectrum of alpha with two values or more, by role and layer."""
    found: dict[tuple[str, int | None], dict[str, dict[str, float]]] = {}
    for (model, spectrum), sigma in catalog.sigmas.items():
        matrix, _, head = spectrum.partition("@")
        layer, role = place(matrix)
        if model == "alpha" and role not in ("ov", "qk") and np.count_nonzero(sigma) > 1:
            shape = (DIM, HIDDEN) if head else catalog.tensors[model, matrix].shape
            fits = spectrum_fits(sigma.tolist(), 1e-5 * sigma[0], *shape)
            found.setdefault((role, layer), {})[spectrum] = fits
    return found


def test_training_quality_counts_the_exponents_on_either_side(catalog: Catalog) -> None:
    found = answer(catalog, "training-quality", low="2.2", high="5", model="alpha")
    expected = fits_by_role(catalog)
    assert {(row["role"], row["layer"]) for row in found} == expected.keys()
    for row in found:
        alphas = [fits["alpha"] for fits in expected[row["role"], row["layer"]].values()]
        assert row["scope"] == ("heads" if row["role"] in ("q_proj", "k_proj", "v_proj", "o_proj") else "matrix")
        assert (row["spectra"], row["under"], row["over"]) == (
            len(alphas),
            sum(alpha < 2.2 for alpha in alphas),
            sum(alpha > 5 for alpha in alphas),
        )
        assert (row["alpha"], row["min_alpha"]) == pytest.approx((np.median(alphas), min(alphas)), rel=1e-10)
    outside = [(row["under"] + row["over"]) / row["spectra"] for row in found]
    assert outside == sorted(outside, reverse=True) and outside[0] > 0 == outside[-1]


@pytest.mark.parametrize("percent", [10, 50, 100])
def test_snr_ranking_takes_the_share_of_every_role_with_the_highest_ratios(catalog: Catalog, percent: int) -> None:
    found = answer(catalog, "snr-ranking", percent=str(percent), model="alpha")
    by_role: dict[str, dict[str, float]] = {}
    for (role, _), fits in fits_by_role(catalog).items():
        by_role.setdefault(role, {}).update({spectrum: values["snr"] for spectrum, values in fits.items()})
    for role, ratios in by_role.items():
        rows = [row for row in found if row["role"] == role]
        highest = sorted(ratios, key=lambda spectrum: -ratios[spectrum])[: len(ratios) * percent // 100]
        assert [row["spectrum"] for row in rows] == highest
        assert [(row["place"], row["of"]) for row in rows] == [(i + 1, len(ratios)) for i in range(len(highest))]
    assert len(found) == sum(len(ratios) * percent // 100 for ratios in by_role.values())


def test_the_planted_channel_is_the_one_spike_of_every_q_head(catalog: Catalog) -> None:
    found = answer(catalog, "spikes", model="alpha")
    first = found[0]
    assert (first["role"], first["scope"], first["spectra"]) == (
        "q_proj",
        "heads",
        11,
    )  # one head has rank one: no bulk
    assert (first["without"], first["spikes"], first["most"]) == (0, 1, 1)
    assert first["share"] == pytest.approx(1 / DIM)
    layers = [fits for (role, _), fits in fits_by_role(catalog).items() if role == "q_proj"]
    ranks = [fits["mp_soft_rank"] for layer in layers for fits in layer.values()]
    assert first["soft_rank"] == pytest.approx(np.median(ranks), rel=1e-10) and max(ranks) < 0.5
    assert all(row["soft_rank"] > 0.8 for row in found[1:])


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "-- title: a\n-- why: b\nSELECT 1",
        "-- nonsense\nSELECT 1",
        "-- title: a\n-- why: b\n-- example: c\n-- parameter: d\nSELECT 1",
    ],
)
def test_a_header_that_breaks_a_rule_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="The question broken"):
        parse_question("broken", text)


def test_a_header_line_may_continue(tmp_path: Path) -> None:
    question = parse_question(
        "q", "-- title: a\n-- why: one\n--   two\n-- parameter: p = 0.5: what: it is\n-- example: e\nSELECT $p;\n"
    )
    assert (question.why, question.sql) == ("one two", "SELECT $p")
    assert (question.parameters[0].default, question.parameters[0].description) == (0.5, "what: it is")
