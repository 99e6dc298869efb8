"""A product that a test brings: planned with its cost, computed in the one pass, kept, verified and answered in SQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shardscan
from made import tiny
from made.crashing import KILL, Fault, Server
from made.toy_product import NAME, SIGNS, STORED, sign_changes
from shardscan.anatomy.placement import place_tensors
from shardscan.errors import QueryError
from shardscan.jobs.scan.job import rebuild_catalog
from shardscan.jobs.verification.job import verify
from shardscan.plan import products
from shardscan.plan.products import asked_by
from shardscan.plan.scan import plan_scan
from shardscan.plan.scan_budget import budget_scan
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.store import commits

COMMAND = "made.toy_product:main"
ROWS = "select matrix, channel, changes, of_tensor from sign_changes order by matrix, channel"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with products.registered(SIGNS):
        yield


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.llama(tmp_path / "tiny")


def query(store: Path, sql: str) -> list[tuple[Any, ...]]:
    with shardscan.connect(store) as db:
        return db.sql(sql).fetchall()


def expected(model: Path) -> list[tuple[Any, ...]]:
    """By NumPy alone."""
    weights = {name: np.asarray(w, np.float64) for name, w in shardscan.open(model).items()}
    counts = {name: sign_changes(w) for name, w in weights.items() if w.ndim == 2}
    return [(name, i, int(n), int(of.sum())) for name, of in sorted(counts.items()) for i, n in enumerate(of)]


def test_its_cost_is_in_the_plan(model: Path) -> None:
    anatomy = place_tensors(open_checkpoint(model))
    names = asked_by("none")
    with_it, without = plan_scan(anatomy, names), plan_scan(anatomy, names - {NAME})
    assert NAME in names
    assert with_it.bytes_to_read == without.bytes_to_read  # the same pass
    rows = sum(matrix.rows for p in anatomy.placed for matrix in p.matrices)
    assert with_it.store_bytes - without.store_bytes == STORED * rows
    memory = [budget_scan(planned, anatomy, 1, exact=False, compiles=False).blocks for planned in (with_it, without)]
    assert memory[0] > memory[1]


def test_its_rows_are_a_table_with_comments(model: Path, tmp_path: Path) -> None:
    done = shardscan.ingest(model, tmp_path / "scans")
    assert done.failures == {}
    assert query(tmp_path / "scans", ROWS) == expected(model)
    comments = "select comment from duckdb_tables() where table_name = 'sign_changes'"
    assert query(tmp_path / "scans", comments) == [("How often the sign changes along each row of a matrix.",)]


def test_a_killed_run_is_continued_and_nothing_is_done_twice(model: Path, tmp_path: Path) -> None:
    store, log = tmp_path / "scans", tmp_path / "log"
    words = ["ingest", str(model), "--store", str(store), "--workers", "1"]
    with Server() as server:
        whole = server.run([*words[:3], str(tmp_path / "other"), *words[4:]], log, None, command=COMMAND)
        assert whole.code == 0, whole.output
        assert server.run(words, log, Fault(KILL, whole.events * 3 // 4), command=COMMAND).code == -9
        (scan,) = commits.list_scans(store)
        before = commits.stamps(scan)
        assert 0 < sum(product == "signs-1" for _, product in before) < len(before)
        assert server.run(words, log, None, command=COMMAND).code == 0
    after = commits.stamps(scan)
    assert {key: after[key] for key in before} == before
    assert query(store, ROWS) == expected(model)


def test_one_flipped_bit_is_found_and_made_anew(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "scans"
    shardscan.ingest(model, store)
    assert verify(store).problems == 0
    chunk = next((store / "arrays.zarr").glob("*/text/q_proj/signs/c/0/0/0"))
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    (finding,) = (finding for finding in verify(store).findings if finding.severity == "problem")
    assert "signs" in str(finding.file)
    shardscan.ingest(model, store)
    assert verify(store).problems == 0
    assert query(store, ROWS) == expected(model)


def test_the_catalog_is_rebuilt_from_the_store_alone(model: Path, tmp_path: Path) -> None:
    store, rows = tmp_path / "scans", expected(model)
    shardscan.ingest(model, store)
    shutil.rmtree(model)
    (store / "catalog.duckdb").unlink()
    rebuild_catalog(store)
    assert query(store, ROWS) == rows


def test_a_scan_of_before_it_was_registered_is_completed(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "scans"
    shardscan.ingest(model, store)
    shutil.rmtree(store)
    del products._REGISTERED[NAME]
    try:
        shardscan.ingest(model, store)
        with pytest.raises(QueryError):
            shardscan.ask(store, "no-such-question")
    finally:
        products.register(SIGNS)
    again = shardscan.ingest(model, store)
    assert again.failures == {}
    assert query(store, ROWS) == expected(model)
    assert verify(store).problems == 0
