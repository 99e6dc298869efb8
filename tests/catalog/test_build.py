"""CATALOG: derived tables, equal however they were built, with keys that are keys."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import duckdb
import ml_dtypes
import numpy as np
import pytest

import shardscan
from made import compared, tiny
from shardscan.catalog import build as catalog
from shardscan.catalog import scans as contents
from shardscan.catalog import sqlfiles
from shardscan.errors import StoreNotFound
from shardscan.jobs.comparison.values import Alignment
from shardscan.store import commits
from shardscan.store.arrays import list_current_scans
from shardscan.store.names import CATALOG


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models in one store, scanned one after the other and compared; their checkpoints are gone."""
    folder = tmp_path_factory.mktemp("catalog")
    names = ("b-model", "a-model")
    for seed, name in enumerate(names):
        shardscan.ingest(tiny.llama(folder / name, seed=seed), folder / "scans")
    norm = Alignment("model.norm.weight", "model.norm.weight", "in", np.array([1, -1, 0]), "fingerprint")
    compared.compare(folder / names[0], folder / names[1], folder / "scans", rank=True, alignments=[norm])
    for name in names:
        shutil.rmtree(folder / name)
    return folder / "scans"


def tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with duckdb.connect(path, read_only=True) as connection:
        return {t: connection.execute(f"select * from {t} order by all").fetchall() for t in sqlfiles.tables()}


@pytest.mark.parametrize("table", sqlfiles.tables())
def test_keys_are_unique(scans: Path, table: str) -> None:
    with shardscan.connect(scans) as connection:
        key = ", ".join(sqlfiles.tables()[table].key)
        query = f"select count(*), count(distinct ({key},)) from {table}"
        ((rows, keys),) = connection.sql(query).fetchall()
    assert rows == keys > 0


def test_every_table_view_and_column_has_a_comment(scans: Path) -> None:
    with shardscan.connect(scans) as connection:
        silent = connection.sql(
            """
            select table_name from duckdb_tables() where not internal and comment is null
            union all select view_name from duckdb_views() where not internal and comment is null
            union all select function_name from duckdb_functions()
                where function_type = 'table_macro' and not internal and comment is null
            union all select table_name || '.' || column_name from duckdb_columns()
                where not internal and comment is null and table_name in (select table_name from duckdb_tables())
            """
        ).fetchall()
    assert silent == []


def test_a_rebuilt_catalog_is_equal_though_the_checkpoints_are_gone(scans: Path) -> None:
    built = tables(scans / CATALOG)
    catalog.build(scans, rebuild=True)
    assert tables(scans / CATALOG) == built


def test_models_that_did_not_change_are_copied_and_equal(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans, tmp_path / "scans")
    shardscan.ingest(tiny.llama(tmp_path / "c-model", seed=3), tmp_path / "scans")
    copied = tables(tmp_path / "scans" / CATALOG)
    catalog.build(tmp_path / "scans", rebuild=True)
    assert tables(tmp_path / "scans" / CATALOG) == copied
    assert [row[0] for row in copied["models"]] == ["a-model", "b-model", "c-model"]


def test_a_catalog_that_is_not_one_is_built_again(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans, tmp_path / "scans")
    (tmp_path / "scans" / CATALOG).write_bytes(b"not a database")
    catalog.build(tmp_path / "scans")
    assert tables(tmp_path / "scans" / CATALOG) == tables(scans / CATALOG)


def test_a_catalog_with_damage_inside_is_built_from_the_scans_alone(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans, tmp_path / "scans")
    file = tmp_path / "scans" / CATALOG
    data = bytearray(file.read_bytes())
    data[3 * 4096 :: 997] = bytes(len(data[3 * 4096 :: 997]))
    file.write_bytes(data)
    catalog.build(tmp_path / "scans")
    assert tables(file) == tables(scans / CATALOG)


def test_a_catalog_of_another_version_is_not_copied_from(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans, tmp_path / "scans")
    with duckdb.connect(tmp_path / "scans" / CATALOG) as connection:
        connection.execute("update tensors set mean = 42").fetchall()
        connection.execute("alter table tensors drop column kurtosis").fetchall()
    catalog.build(tmp_path / "scans")
    assert tables(tmp_path / "scans" / CATALOG) == tables(scans / CATALOG)


def test_only_commits_become_numbers(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans, tmp_path / "scans")
    scan = list_current_scans(tmp_path / "scans")[0]
    (scan.commits / "text.q_proj.1.stats-1.json").unlink()
    (scan.commits / "text.k_proj.1.heads-1.json").unlink()
    catalog.build(tmp_path / "scans")
    with shardscan.connect(tmp_path / "scans") as connection:
        pending = connection.sql("select tensor, mean, status from tensors where status != 'ok'").fetchall()
        count = "select count(*) from {} where model = 'a-model' and layer = 1 and role = '{}'"
        gone = [
            connection.sql(count.format(table, role)).fetchall()
            for table, role in (("channels", "q_proj"), ("spectra", "k_proj"), ("spectra", "q_proj"))
        ]
        ((rows,),) = connection.sql("select count(*) from tensors where model = 'a-model'").fetchall()
    assert pending == [("model.layers.1.self_attn.q_proj.weight", None, "pending")]
    assert gone == [[(0,)], [(0,)], [(tiny.HEADS,)]]
    assert rows == 16


def test_no_nan_or_infinity_reaches_a_table(tmp_path: Path) -> None:
    odd = np.array([[np.nan, np.inf, 1.0], [np.nan, np.nan, np.nan], [-np.inf, 2.0, 0.0]], np.float32)
    tensors: dict[str, np.ndarray] = {
        "odd.weight": odd,
        "nothing.weight": np.full((2, 2), np.nan, np.float32),
        "empty.weight": np.empty((0, 3), np.float32),
        "scalar": np.array(2.5, np.float32),
        "huge.weight": np.array([[1e300, -1e300], [1e-300, 0]], np.float64),
        "codes.weight": np.array([[1, 2]], np.int8),
        "flags": np.array([True, False]),
        "small.weight": np.array([[448.0, 2.0**-9]]).astype(ml_dtypes.float8_e4m3fn),
    }
    shardscan.ingest(tiny.write(tmp_path / "odd", tensors), tmp_path / "scans")
    bad = []
    with shardscan.connect(tmp_path / "scans") as connection:
        doubles = connection.sql(
            "select table_name, column_name from duckdb_columns() where data_type = 'DOUBLE' and table_name in "
            "(select table_name from duckdb_tables())"
        ).fetchall()
        for table, column in doubles:
            ((n,),) = connection.sql(f"select count(*) from {table} where not isfinite({column})").fetchall()
            bad += [f"{table}.{column}"] * n
        rows = connection.sql("select tensor, status, nans, infs, mean, max from tensors order by tensor").fetchall()
    assert bad == []
    assert rows == [
        ("codes.weight", "codes", None, None, None, None),
        ("empty.weight", "ok", 0, 0, None, None),
        ("flags", "ok", 0, 0, 0.5, 1.0),
        ("huge.weight", "ok", 0, 0, 2.5e-301, 1e300),
        ("nothing.weight", "degenerate", 4, 0, None, None),
        ("odd.weight", "ok", 4, 2, 1.0, 2.0),
        ("scalar", "ok", 0, 0, 2.5, 2.5),
        ("small.weight", "ok", 0, 0, 224.0009765625, 448.0),
    ]


def test_there_is_no_catalog_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="shardscan ingest"):
        catalog.build(tmp_path / "nowhere")


def test_identity_is_equal_for_equal_checkpoints_under_two_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        shardscan.ingest(tiny.llama(tmp_path / name), tmp_path / "scans")
    with shardscan.connect(tmp_path / "scans") as connection:
        identities = connection.sql("select identity, scan from models").fetchall()
    assert len({identity for identity, _ in identities}) == 1
    assert len({scan for _, scan in identities}) == 2
    assert len(commits.list_scans(tmp_path / "scans")) == 2


def test_an_output_head_that_is_a_copy_of_the_embedding_is_its_alias(tmp_path: Path) -> None:
    embedding = np.arange(12, dtype=np.float32).reshape(4, 3)
    names = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding, "model.norm.weight": embedding[0]}
    shardscan.ingest(tiny.write(tmp_path / "tied", names, tiny.CONFIG), tmp_path / "scans")
    with shardscan.connect(tmp_path / "scans") as connection:
        found = connection.sql("select tensor, alias_of from tensors where alias_of is not null").fetchall()
    assert found == [("lm_head.weight", "model.embed_tokens.weight")]


def test_stacks_read_in_small_regions_give_the_same_tables(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = {f"layers.{i // 5}.experts.{i % 5}.w.weight": np.full((2, 3), float(i), np.float32) for i in range(15)}
    shardscan.ingest(tiny.write(tmp_path / "experts", experts), tmp_path / "scans")
    whole = tables(tmp_path / "scans" / CATALOG)
    for slots in (1, 3, 7):
        monkeypatch.setattr(contents, "REGION_BYTES", slots * 8 * 65_536)
        catalog.build(tmp_path / "scans", rebuild=True)
        assert tables(tmp_path / "scans" / CATALOG) == whole
    with shardscan.connect(tmp_path / "scans") as connection:
        means = connection.sql("select tensor, mean from tensors").fetchall()
    assert dict(means) == {name: values[0, 0] for name, values in experts.items()}
