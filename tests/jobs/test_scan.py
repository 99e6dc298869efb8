"""The whole line: what is done is not done again, and a name means one checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import shardscan
from made import tiny
from shardscan.jobs.scan.job import execute
from shardscan.jobs.scan.prepare import prepare
from shardscan.plan import scan_budget as budget
from shardscan.store import commits

ATTENTION_BYTES = 2 * 2 * tiny.HIDDEN * tiny.HEAD_DIM * (2 * tiny.HEADS + 2 * tiny.KV_HEADS)


def query(scans: Path, sql: str) -> list[tuple[object, ...]]:
    with shardscan.connect(scans) as connection:
        return connection.sql(sql).fetchall()


def test_a_second_run_reads_nothing_and_leaves_no_run(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    first = shardscan.ingest(model, tmp_path / "scans")
    second = shardscan.ingest(model, tmp_path / "scans")
    assert (first.tasks, first.bytes_read) == (16, shardscan.open(model).checkpoint.nbytes)
    assert (second.tasks, second.bytes_read) == (0, 0)
    assert query(tmp_path / "scans", "select run, tasks, bytes_read from runs") == [(1, 16, first.bytes_read)]


def test_heads_asked_for_later_read_only_the_attention_weights(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    shardscan.ingest(model, tmp_path / "later", spectra="none")
    assert query(tmp_path / "later", "select count(*) from spectra") == [(0,)]
    added = shardscan.ingest(model, tmp_path / "later")
    shardscan.ingest(model, tmp_path / "once")
    assert added.bytes_read == ATTENTION_BYTES
    for table in ("spectra", "singular_values", "channels", "tensors"):
        sql = f"select * from {table} order by all"
        assert query(tmp_path / "later", sql) == query(tmp_path / "once", sql)


def test_a_lost_commit_is_done_again_and_nothing_else(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    shardscan.ingest(model, tmp_path / "scans")
    (scan,) = commits.list_scans(tmp_path / "scans")
    (scan.commits / "text.up_proj.1.stats-1.json").unlink()
    again = shardscan.ingest(model, tmp_path / "scans")
    assert (again.tasks, again.bytes_read) == (1, 2 * tiny.INNER * tiny.HIDDEN)


def test_models_of_two_names_share_a_store(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    shardscan.ingest(model, tmp_path / "scans")
    shardscan.ingest(model, tmp_path / "scans", name="twin")
    assert query(tmp_path / "scans", "select model, count(*) from tensors group by all order by all") == [
        ("tiny", 16),
        ("twin", 16),
    ]


def test_a_shard_that_cannot_be_read_costs_only_its_tensors_and_is_tried_again(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    tiny.write(tmp_path / "other", {"other.weight": np.ones((4, 4), np.float32)})
    (tmp_path / "other" / "model.safetensors").rename(model / "other.safetensors")
    (model / "model.safetensors").rename(model / "first.safetensors")
    whole = (model / "other.safetensors").read_bytes()
    prepared = prepare(model)
    (model / "other.safetensors").write_bytes(whole[:-8])
    done = execute(prepared, tmp_path / "scans")
    failed = query(tmp_path / "scans", "select tensor, reason, mean from tensors where status = 'failed'")
    assert failed == [(name, reason, None) for name, reason in done.failures.items()]
    assert len(failed) == 1
    assert "shorter than its header says" in str(failed[0][1])
    assert query(tmp_path / "scans", "select count(*) from tensors where status = 'ok'") == [(16,)]

    (model / "other.safetensors").write_bytes(whole)
    again = shardscan.ingest(model, tmp_path / "scans", replace=True)
    assert not again.failures
    assert query(tmp_path / "scans", "select count(*) from tensors where status = 'ok'") == [(17,)]


def test_many_experts_of_a_layer_are_committed_in_runs(tmp_path: Path) -> None:
    experts = {f"layers.0.experts.{i}.w.weight": np.full((2, 3), float(i), np.float32) for i in range(20)}
    model = tiny.write(tmp_path / "experts", experts)
    assert shardscan.ingest(model, tmp_path / "scans").tasks == 3
    before = query(tmp_path / "scans", "select tensor, mean from tensors order by mean")
    assert before == [(f"layers.0.experts.{i}.w.weight", float(i)) for i in range(20)]
    channels = "select matrix, axis, channel, min, max from channels order by all"
    held = query(tmp_path / "scans", channels)
    assert {row[3] for row in held} == {float(i) for i in range(20)}
    next((tmp_path / "scans" / "commits").glob("*/*.1.stats-1.json")).unlink()
    assert shardscan.ingest(model, tmp_path / "scans").tasks == 1
    assert query(tmp_path / "scans", channels) == held


def test_progress_counts_up_to_all_bytes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = tiny.llama(tmp_path / "tiny")
    shardscan.ingest(model, tmp_path / "scans", progress=lambda done, total: seen.append((done, total)))
    size = shardscan.open(model).checkpoint.nbytes
    assert [total for _, total in seen] == [size] * 16
    assert seen[-1] == (size, size)
    assert np.all(np.diff([done for done, _ in seen]) > 0)


def test_a_plan_without_a_run_writes_nothing(tmp_path: Path) -> None:
    prepared = prepare(tiny.llama(tmp_path / "tiny"))
    assert (len(prepared.plan.tasks), prepared.plan.bytes_to_read) == (16, prepared.checkpoint.nbytes)
    assert prepared.budget(prepared.plan).peak > budget.BASELINE
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_a_header_that_claims_billions_of_channels_and_no_values_costs_nothing(tmp_path: Path) -> None:
    header = b'{"wide.weight":{"dtype":"F32","shape":[0,17179869184],"data_offsets":[0,0]},'
    header += b'"tall.weight":{"dtype":"BF16","shape":[18446744073709551615,0],"data_offsets":[0,0]}}'
    (tmp_path / "bomb.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    prepared = prepare(tmp_path / "bomb.safetensors")
    execute(prepared, tmp_path / "scans")
    rows = query(tmp_path / "scans", "select tensor, shape, status, nans, mean from tensors order by tensor")
    assert rows == [
        ("tall.weight", [2**64 - 1, 0], "ok", 0, None),
        ("wide.weight", [0, 2**34], "ok", 0, None),
    ]
    assert query(tmp_path / "scans", "select count(*) from matrices") == [(0,)]
