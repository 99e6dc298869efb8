"""The views and table macros against NumPy, on the small catalog of `catalogs`."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from made.catalogs import Catalog, insert, is_range, tensor_row
from shardscan.answers.connection import connect, run_sql
from shardscan.catalog import sqlfiles
from shardscan.errors import QueryError

EXACT = [
    ("alpha", "0.q_proj.weight"),
    ("alpha", "final_norm.weight"),
    ("alpha", "embed.weight"),
    ("beta", "0.q_proj.weight"),
]


def rows(catalog: Catalog, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    with connect(catalog.path) as connection:
        relation = connection.sql(sql, params=parameters) if parameters else connection.sql(sql)
        return relation.to_arrow_table().to_pylist()  # type: ignore[no-any-return]


def empty_catalog() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for script in (*sqlfiles.schema(), *sqlfiles.views().values()):
        connection.execute(script)
    return connection


def finite(catalog: Catalog, key: tuple[str, str]) -> np.ndarray:
    values = catalog.tensors[key].ravel()
    return values[np.isfinite(values)]


def test_every_view_file_is_an_object_with_its_name_and_a_comment(catalog: Catalog) -> None:
    sql = """SELECT view_name AS name, comment FROM duckdb_views() WHERE NOT internal
             UNION ALL SELECT function_name, comment FROM duckdb_functions() WHERE NOT internal"""
    comments = {row["name"]: row["comment"] for row in rows(catalog, sql)}
    assert set(comments) == set(sqlfiles.views())
    assert all(comments.values())


def test_no_line_of_sql_is_longer_than_120_characters() -> None:
    scripts = list(Path(str(sqlfiles.folder())).rglob("*.sql"))
    assert len(scripts) > 30
    assert [line for script in scripts for line in script.read_text().splitlines() if len(line) > 120] == []


def test_every_column_of_a_view_has_a_comment(catalog: Catalog) -> None:
    sql = """SELECT c.table_name, c.column_name
             FROM duckdb_columns() c JOIN duckdb_views() v ON v.view_name = c.table_name
             WHERE NOT v.internal AND c.comment IS NULL"""
    assert rows(catalog, sql) == []


def test_a_view_comes_after_the_views_that_it_uses(tmp_path: Path) -> None:
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "a.sql").write_text("-- not c\nCREATE VIEW a AS SELECT 'c', * FROM b")
    (tmp_path / "views" / "b.sql").write_text("CREATE VIEW b AS FROM c")
    (tmp_path / "views" / "c.sql").write_text(
        "-- a and b use it\nCREATE VIEW c AS SELECT 1; COMMENT ON VIEW c IS 'for a'"
    )
    assert list(sqlfiles.views(tmp_path)) == ["c", "b", "a"]


def test_a_checkout_wins_over_a_stale_copy_and_a_strangers_project_does_not(tmp_path: Path) -> None:
    package = tmp_path / "shardscan"
    for folder in (package / "sql" / "schema", tmp_path / "sql" / "schema"):
        folder.mkdir(parents=True)
    assert sqlfiles.folder(package) == package / "sql"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "stranger"\n')
    assert sqlfiles.folder(package) == package / "sql"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shardscan"\n')
    assert sqlfiles.folder(package) == tmp_path / "sql"


def test_ranks_agree_with_numpy(catalog: Catalog) -> None:
    found = {(row["model"], row["spectrum"]): row for row in rows(catalog, "FROM ranks")}
    assert found.keys() == catalog.sigmas.keys()
    for key, sigma in catalog.sigmas.items():
        row, lam = found[key], sigma**2
        if sigma[0] == 0:
            continue
        p, q = sigma[sigma > 0] / sigma.sum(), lam[lam > 0] / lam.sum()
        energy = np.cumsum(lam) / lam.sum()
        tau = max(row["rows"], row["cols"]) * np.finfo(np.float32).eps
        expected = {
            "top10_ratio": sigma[:10].sum() / sigma.sum(),
            "least10_ratio": sigma[-10:].sum() / sigma.sum(),
            "stable_rank": lam.sum() / lam[0],
            "participation_ratio": lam.sum() ** 2 / (lam**2).sum(),
            "nuclear_norm": sigma.sum(),
            "frobenius": np.linalg.norm(sigma),
            "spectral_norm": sigma[0],
            "effective_rank": np.exp(-(p * np.log(p)).sum()),
            "effective_rank_energy": np.exp(-(q * np.log(q)).sum()),
            "energy_rank_90": int(np.argmax(energy >= 0.90)) + 1,
            "energy_rank_95": int(np.argmax(energy >= 0.95)) + 1,
            "energy_rank_99": int(np.argmax(energy >= 0.99)) + 1,
            "numerical_rank": int((sigma > tau * sigma[0]).sum()),
            "numerical_rank_1e6": int((sigma > 1e-6 * sigma[0]).sum()),
            "design_rank": len(sigma),
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12), key
        if len(sigma) > 1:
            assert row["entropy"] == pytest.approx(-(q * np.log(q)).sum() / np.log(len(sigma)), rel=1e-12, abs=1e-15)


def test_ratios_to_the_smallest_value_are_null_where_it_is_zero_or_noise(catalog: Catalog) -> None:
    sql = "SELECT spectrum, condition, first_last_ratio FROM ranks WHERE model = 'alpha'"
    found = {row["spectrum"]: (row["condition"], row["first_last_ratio"]) for row in rows(catalog, sql)}
    assert found["0.q_proj.weight@1"] == found["1.v_proj.weight@0"] == found["2.down_proj.weight"] == (None, None)
    sigma = catalog.sigmas["alpha", "0.down_proj.weight"]
    assert found["0.down_proj.weight"] == pytest.approx((sigma[0] / sigma[-1],) * 2)


def test_a_spectrum_of_zeros_has_norms_and_ranks_zero_and_no_ratios(catalog: Catalog) -> None:
    (row,) = rows(catalog, "FROM ranks WHERE spectrum = '1.v_proj.weight@0'")
    assert (row["nuclear_norm"], row["frobenius"], row["spectral_norm"], row["numerical_rank"]) == (0, 0, 0, 0)
    for name in (
        "top10_ratio",
        "least10_ratio",
        "stable_rank",
        "participation_ratio",
        "effective_rank",
        "energy_rank_90",
        "entropy",
    ):
        assert row[name] is None


def test_one_singular_value_has_no_entropy(catalog: Catalog) -> None:
    (row,) = rows(catalog, "FROM ranks WHERE spectrum = 'lonely.weight'")
    assert (row["entropy"], row["stable_rank"], row["condition"], row["layer"]) == (None, 1, 1, None)


@pytest.mark.parametrize("sigma", [3, 1.5])
def test_outlier_channels_agree_with_numpy(catalog: Catalog, sigma: float) -> None:
    expected = {}
    for (model, name), values in catalog.tensors.items():
        for axis, along in (("out", 1), ("in", 0)):
            if values.ndim != 2:
                continue
            c = np.nanmean(np.abs(np.where(np.isfinite(values), values, np.nan)), axis=along)
            mad = np.median(np.abs(c - np.median(c)))
            for j in np.flatnonzero(c > c.mean() + sigma * c.std()):
                robust = abs(c[j] - np.median(c)) / (1.4826 * mad)
                expected[model, name, axis, int(j)] = ((c[j] - c.mean()) / c.std(), robust)
    sql = "SELECT model, matrix, axis, channel, z, robust_z FROM outlier_channels(sigma := $sigma)"
    found = {
        (r["model"], r["matrix"], r["axis"], r["channel"]): (r["z"], r["robust_z"])
        for r in rows(catalog, sql, sigma=sigma)
    }
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key], rel=1e-9) for key in expected)
    # one channel alone is equal to all others: never an outlier
    assert ("alpha", "lonely.weight", "out", 0) not in found


def test_layer_profile_has_one_row_per_role_and_layer_and_knows_layer_0(catalog: Catalog) -> None:
    found = {(r["model"], r["layer"], r["role"]): r for r in rows(catalog, "FROM layer_profile")}
    values = catalog.tensors["alpha", "0.q_proj.weight"]
    row = found["alpha", 0, "q_proj"]
    assert (row["mean"], row["std"], row["rms"]) == pytest.approx(
        (values.mean(), values.std(), np.sqrt((values**2).mean()))
    )
    assert row["sparsity"] == pytest.approx((values == 0).mean())
    assert row["incoherence"] == pytest.approx(np.abs(values).max() * np.sqrt(values.size) / np.linalg.norm(values))
    constant = found["alpha", None, "final_norm"]
    assert (constant["std"], constant["kurtosis"], constant["dynamic_range"]) == (0, None, 1)
    assert found["alpha", None, "embed_tokens"]["infs"] == 2
    assert found["alpha", None, "other"]["mean"] is None


def test_the_experts_of_a_layer_are_pooled_as_if_they_were_one_tensor() -> None:
    rng = np.random.default_rng(3)
    experts = [rng.normal(center, 0.1, size) for center, size in ((0.0, 40), (0.5, 90), (-1.0, 7))]
    experts[1][:3] = np.nan, np.inf, 0.0
    with empty_catalog() as connection:
        insert(connection, "tensors", [tensor_row("m", f"0.up_proj.{e}", x) for e, x in enumerate(experts)])
        unscanned = dict.fromkeys(("mean", "std", "min", "max", "absmax", "absmin", "mean_abs", "rms", "kurtosis"))
        unscanned |= dict.fromkeys(("zeros", "near_zeros", "nans", "infs", "p99_abs", "p999_abs", "quantiles_exact"))
        insert(connection, "tensors", [tensor_row("m", "0.up_proj.3", np.ones(5)) | unscanned | {"status": "codes"}])
        (row,) = connection.sql("FROM layer_profile").to_arrow_table().to_pylist()
    pooled = np.concatenate(experts)
    pooled = pooled[np.isfinite(pooled)]
    size = np.abs(pooled)
    expected = {
        "tensors": 4,
        "parameters": 40 + 90 + 7 + 5,
        "mean": pooled.mean(),
        "std": pooled.std(),
        "min": pooled.min(),
        "max": pooled.max(),
        "absmax": size.max(),
        "absmin": size[size > 0].min(),
        "mean_abs": size.mean(),
        "rms": np.sqrt(np.mean(pooled**2)),
        "dynamic_range": size.max() / size[size > 0].min(),
        "incoherence": size.max() / np.sqrt(np.mean(pooled**2)),
        "sparsity": 1 / (40 + 90 + 7),
        "zeros": 1,
        "nans": 1,
        "infs": 1,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    largest = max(tensor_row("m", "0.up_proj.0", x)["kurtosis"] for x in experts)
    assert row["kurtosis"] == pytest.approx(largest, rel=1e-12)


@pytest.mark.parametrize("key", EXACT)
def test_quantiles_are_numpys_inverted_cdf(catalog: Catalog, key: tuple[str, str]) -> None:
    p = [0.0, 0.001, 0.25, 0.5, 0.99, 1.0]
    sql = "FROM quantiles(model := $model, name := $name, p := $p, magnitude := $magnitude) ORDER BY p"
    for magnitude in (False, True):
        values = np.abs(finite(catalog, key)) if magnitude else finite(catalog, key)
        found = rows(catalog, sql, model=key[0], name=key[1], p=p, magnitude=magnitude)
        assert [row["p"] for row in found] == p
        assert [row["value"] for row in found] == list(np.quantile(values, p, method="inverted_cdf"))
        assert all(row["exact"] for row in found)


def test_the_rank_of_a_quantile_is_computed_in_integers(catalog: Catalog) -> None:
    # 1/7 to 15 decimals, rounded down and up: of 7 values the first is rank 1, the second just past it is rank 2
    values = np.sort(finite(catalog, ("alpha", "lonely.weight")))
    sql = "FROM quantiles(model := 'alpha', name := 'lonely.weight', p := $p) ORDER BY p"
    found = rows(catalog, sql, p=[0.142857142857142, 0.142857142857143])
    assert [row["value"] for row in found] == [values[0], values[1]]


def test_seven_hundredths_of_a_hundred_is_rank_seven() -> None:
    with empty_catalog() as connection:
        connection.execute("INSERT INTO distribution SELECT 'm', 't', i, i, i, 1 FROM range(1, 101) r(i)")
        assert connection.sql("SELECT value FROM quantiles(p := $p)", params={"p": 0.07}).fetchall() == [(7.0,)]


def test_a_magnitude_that_occurs_with_both_signs_is_one_value() -> None:
    with empty_catalog() as connection:
        counts = "VALUES (-2, 2), (-1, 1), (1, 4), (2, 3)"
        connection.execute(f"INSERT INTO distribution SELECT 'm', 't', x, x, x, n FROM ({counts}) v(x, n)")
        sql = "SELECT p, value FROM quantiles(p := $p, magnitude := true) ORDER BY p"
        found = connection.sql(sql, params={"p": [0, 0.1, 0.2, 0.5, 0.6, 0.8, 1]}).fetchall()
    assert found == [(0, 1), (0.1, 1), (0.2, 1), (0.5, 1), (0.6, 2), (0.8, 2), (1, 2)]


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        ("quantiles(p := -0.1)", "p must lie between 0 and 1"),
        ("quantiles(p := [0.5, 1.5])", "p must lie between 0 and 1"),
        ("quant_error(bits := 1)", "bits must lie between 2 and 32"),
        ("quant_error(bits := 33)", "bits must lie between 2 and 32"),
        ("histogram(bins := 0)", "bins must lie between 1 and 1000000"),
        ("histogram(bins := 1000001)", "bins must lie between 1 and 1000000"),
    ],
)
def test_an_argument_out_of_range_is_refused_with_the_range(catalog: Catalog, call: str, rule: str) -> None:
    with pytest.raises(QueryError, match=rule):
        run_sql(catalog.path, f"FROM {call}")


def test_quantiles_of_ranges_are_within_one_per_cent(catalog: Catalog) -> None:
    (row,) = rows(catalog, "FROM quantiles(model := 'beta', name := '0.down_proj.weight', p := 0.9)")
    true = np.quantile(finite(catalog, ("beta", "0.down_proj.weight")), 0.9, method="inverted_cdf")
    assert is_range("beta", "0.down_proj.weight") and not row["exact"]
    assert true * (1 - 0.008) <= row["value"] <= true


@pytest.mark.parametrize("key", EXACT)
def test_a_histogram_counts_as_numpy_does(catalog: Catalog, key: tuple[str, str]) -> None:
    sql = "FROM histogram(model := $m, name := $n, bins := $bins) ORDER BY bin"
    for bins in (1, 7, 50):
        found = rows(catalog, sql, m=key[0], n=key[1], bins=bins)
        counts, edges = np.histogram(finite(catalog, key), bins)
        assert [row["count"] for row in found] == list(counts)
        assert [row["lo"] for row in found] + [found[-1]["hi"]] == list(edges)
        assert [row["lo"] for row in found[1:]] == [row["hi"] for row in found[:-1]]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("key", EXACT)
def test_quant_error_is_the_error_of_rounding_the_tensor(catalog: Catalog, key: tuple[str, str], bits: int) -> None:
    (row,) = rows(catalog, "FROM quant_error(bits := $b, model := $m, name := $n)", b=bits, m=key[0], n=key[1])
    w = finite(catalog, key)
    delta = np.abs(w).max() / (2 ** (bits - 1) - 1)
    error = w - np.rint(w / delta) * delta
    assert row["exact"] and row["count"] == w.size and row["bits"] == bits
    assert (row["mse"], row["max_error"]) == pytest.approx((np.mean(error**2), np.abs(error).max()), rel=1e-10)
    assert row["relative_frobenius"] == pytest.approx(np.linalg.norm(error) / np.linalg.norm(w), rel=1e-10)
    if error.any():
        assert row["sqnr_db"] == pytest.approx(10 * np.log10((w**2).sum() / (error**2).sum()), rel=1e-10)
    else:
        assert row["sqnr_db"] is None


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_step_of_a_float32_tensor_is_of_its_largest_value_and_not_of_a_bin(catalog: Catalog, bits: int) -> None:
    key = ("beta", "0.down_proj.weight")
    (row,) = rows(catalog, "FROM quant_error(bits := $b, model := $m, name := $n)", b=bits, m=key[0], n=key[1])
    delta = np.abs(finite(catalog, key)).max() / (2 ** (bits - 1) - 1)
    # the bin of a value begins with its upper 16 bits; every value is taken to be in the middle of its bin
    patterns = finite(catalog, key).astype(np.float32).view(np.uint32) & 0xFFFF0000
    lo, hi = (edge.view(np.float32).astype(np.float64) for edge in (patterns, patterns | 0xFFFF))
    middle = (lo + hi) / 2
    error = middle - np.rint(middle / delta) * delta
    assert is_range(*key) and not row["exact"]
    assert np.abs(middle).max() != np.abs(finite(catalog, key)).max()
    assert row["delta"] == delta
    assert (row["mse"], row["max_error"]) == pytest.approx((np.mean(error**2), np.abs(error).max()), rel=1e-10)


def test_a_tensor_of_zeros_is_quantised_without_error() -> None:
    with empty_catalog() as connection:
        insert(connection, "tensors", [tensor_row("m", "t", np.ones(10)) | {"absmax": 0.0}])
        connection.execute(
            "INSERT INTO distribution VALUES ('m', 't', 0, 0.0, 0.0, 9), ('m', 't', 32768, -0.0, -0.0, 1)"
        )
        sql = "SELECT count, delta, mse, max_error, rms, relative_frobenius, sqnr_db, exact FROM quant_error()"
        assert connection.sql(sql).fetchall() == [(10, 0, 0, 0, 0, None, None, True)]


def test_every_level_of_size_report_adds_up_to_the_models_tensors(catalog: Catalog) -> None:
    found = rows(catalog, "FROM size_report(model := 'alpha')")
    total = sum(v.size for (model, _), v in catalog.tensors.items() if model == "alpha") + 8
    for level in ("model", "component", "role", "layer", "layer_role"):
        part = [row for row in found if row["level"] == level]
        assert sum(row["parameters"] for row in part) == total
        assert sum(row["share"] for row in part) == pytest.approx(1)
    assert {row["layer"] for row in found if row["level"] == "layer"} == {None, 0, 1, 2}
    assert [row["file_bytes"] for row in found if row["file_bytes"] is not None] == [9000]


@pytest.mark.parametrize(
    "source",
    [
        "ranks",
        "layer_profile",
        "outlier_channels(sigma := 0)",
        "quantiles(p := [0, 1])",
        "histogram()",
        "quant_error(bits := 2)",
        "size_report()",
    ],
)
def test_no_nan_or_infinity_reaches_a_result(catalog: Catalog, source: str) -> None:
    found = rows(catalog, f"FROM {source}")
    assert found
    numbers = [value for row in found for value in row.values() if isinstance(value, float)]
    assert np.isfinite(numbers).all()
