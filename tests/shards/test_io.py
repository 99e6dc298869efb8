"""Shards that change while they are scanned: what was read of one is never mixed with what it is now."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import shardscan
from made import tiny
from shardscan.errors import CheckpointError, OptionError
from shardscan.shards.address import Window
from shardscan.shards.ahead import Ahead
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.shards.sources import disks
from shardscan.shards.sources.local import LOCAL
from shardscan.shards.witness import is_as_seen
from shardscan.store import commits
from shardscan.store import gate as keep

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 22 0:29 / /proc rw - proc proc rw
40 22 0:51 / /models rw,relatime shared:7 master:1 - nfs4 server:/models rw,vers=4.2
41 22 0:52 / /with\040space rw - cifs //server/share rw
42 22 0:53 /inner /bucket rw - fuse.gcsfuse bucket rw
43 22 0:54 / /fast rw - btrfs /dev/sdb rw
""".strip()


def query(store: Path, sql: str) -> list[tuple[object, ...]]:
    with shardscan.connect(store) as connection:
        return connection.sql(sql).fetchall()


def test_network_and_user_space_file_systems_are_told_from_local_ones() -> None:
    assert disks.on_network(MOUNTINFO) == {os.makedev(0, minor) for minor in (51, 52, 53)}
    assert disks.on_network("") == frozenset()


def test_what_is_mapped_follows_the_disk_unless_somebody_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.llama(tmp_path / "tiny")
    device = model.stat().st_dev

    def mapped(io: str) -> set[bool]:
        return {tensor.mapped for tensor in open_checkpoint(model, io=io).values()}

    assert [mapped(io) for io in disks.IO] == [{True}, {True}, {False}]
    monkeypatch.setattr(
        disks, "_mounts", lambda: f"1 1 {os.major(device)}:{os.minor(device)} / / rw - nfs4 server:/ rw"
    )
    assert [mapped(io) for io in disks.IO] == [{False}, {True}, {False}]
    with pytest.raises(OptionError, match="'fast' is no --io: take auto, mmap, read"):
        open_checkpoint(model, io="fast")


def test_a_window_that_is_read_holds_the_bytes_of_one_that_is_mapped_and_outlives_its_file(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    mapped, read = (open_checkpoint(model, io=io) for io in ("mmap", "read"))
    bytes_of = {name: tensor.window().raw().tobytes() for name, tensor in mapped.items()}
    held = {name: tensor.window().raw() for name, tensor in read.items()}
    os.truncate(model / "model.safetensors", 0)
    assert {name: raw.tobytes() for name, raw in held.items()} == bytes_of
    with pytest.raises(CheckpointError, match="is shorter than its header says"):
        next(iter(read.values())).window().raw()


@pytest.fixture
def spread(tmp_path: Path) -> Path:
    """A checkpoint of three shards, a, b and c, with one matrix each."""
    for i, name in enumerate("abc"):
        values = np.random.default_rng(i).standard_normal((300, 70)).astype(np.float32)
        tiny.write(tmp_path / name, {f"{name}.weight": values})
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / name / "model.safetensors").rename(tmp_path / "model" / f"{name}.safetensors")
    return tmp_path / "model"


def cut(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def replace(shard: Path) -> None:
    other = shard.with_name("other")
    shutil.copy(shard, other)
    other.replace(shard)


def rewrite(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    start = 8 + struct.unpack("<Q", data[:8])[0]
    data[start:] = np.ones((len(data) - start) // 4, np.float32).tobytes()
    shard.write_bytes(data)


@pytest.mark.parametrize("change", [cut, replace, rewrite, Path.unlink])
@pytest.mark.parametrize("when", ["before it is read", "after it is read"])
def test_a_shard_that_changes_during_the_scan_costs_its_own_tensors_and_nothing_is_mixed(
    change: Callable[[Path], None], when: str, spread: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, raw = when.startswith("before"), when.startswith("after"), Ahead.raw
    write = keep.keep_tensors

    def reading(self: Ahead, window: object) -> object:
        if before and (spread / "b.safetensors").exists() and "b.safetensors" in window.path:  # type: ignore[attr-defined]
            change(spread / "b.safetensors")
            monkeypatch.setattr(Ahead, "raw", raw)
        return raw(self, window)  # type: ignore[arg-type]

    def writing(*arguments: object) -> object:
        if after and arguments[3].units[0].placed.tensor.name == "b.weight":  # type: ignore[attr-defined]
            change(spread / "b.safetensors")
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Ahead, "raw", reading)
    monkeypatch.setattr(keep, "keep_tensors", writing)
    done = shardscan.ingest(spread, tmp_path / "scans", workers=1, io="read")
    ((name, why),) = done.failures.items()
    assert name == "b.weight"
    assert any(said in why for said in (keep.CHANGED_IN_SCAN, "shorter than its header says", "No such file"))
    found = query(tmp_path / "scans", "select tensor, status, mean is not null, reason from tensors order by tensor")
    assert found == [
        ("a.weight", "ok", True, None),
        ("b.weight", "failed", False, why),
        ("c.weight", "ok", True, None),
    ]


def be_a_fifo(shard: Path) -> None:
    shard.unlink()
    os.mkfifo(shard)


@pytest.mark.parametrize("change", [Path.unlink, be_a_fifo])
@pytest.mark.parametrize("io", ["mmap", "read"])
def test_a_shard_that_is_gone_or_a_fifo_before_it_is_looked_at_costs_its_own_tensors(
    change: Callable[[Path], object], io: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(9):
        tiny.write(tmp_path / "one", {f"{i}.weight": np.full((300, 70), i, np.float32)})
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "one" / "model.safetensors").rename(tmp_path / "model" / f"{i}.safetensors")
    raw = Ahead.raw

    def reading(self: Ahead, window: Window) -> object:
        if Path(window.path).name == "0.safetensors":
            change(tmp_path / "model" / "8.safetensors")
        return raw(self, window)

    monkeypatch.setattr(Ahead, "raw", reading)
    done = shardscan.ingest(tmp_path / "model", tmp_path / "scans", workers=1, io=io)
    ((name, why),) = done.failures.items()
    assert name == "8.weight"
    assert "cannot be read: No such file" in why or "is not a regular file any more" in why


def test_a_file_is_the_same_on_another_node_whose_disks_have_other_numbers(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(b"x")
    device, *others = LOCAL.take_witness(str(tmp_path / "shard"))
    assert is_as_seen(str(tmp_path / "shard"), [device + 1, *others])
    assert not is_as_seen(str(tmp_path / "shard"), [device, others[0], 2, others[2]])


def test_heads_stored_as_columns_are_read_once_where_they_are_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank_one = np.outer(np.arange(1, tiny.HIDDEN + 1), np.arange(1, tiny.HEADS * tiny.HEAD_DIM + 1)).astype(np.float32)
    model = tiny.write(tmp_path / "model", {"model.layers.0.self_attn.o_proj.weight": rank_one}, tiny.CONFIG)
    read, asked = Window.raw, list[int]()

    def noted(window: Window) -> np.ndarray:
        asked.append(window.nbytes)
        return read(window)

    monkeypatch.setattr(Window, "raw", noted)
    shardscan.ingest(model, tmp_path / "scans", workers=1, io="read")
    methods = query(tmp_path / "scans", "select distinct method, count(*) from spectra group by all")
    assert methods == [("qr_svd", tiny.HEADS)]
    assert asked == [rank_one.nbytes]


def test_a_shard_replaced_between_its_header_and_its_values_is_seen(spread: Path, tmp_path: Path) -> None:
    from shardscan.jobs.scan.job import execute
    from shardscan.jobs.scan.prepare import prepare

    prepared = prepare(spread)
    rewrite(spread / "b.safetensors")
    assert execute(prepared, tmp_path / "scans").failures == {"b.weight": keep.CHANGED_IN_SCAN}


def test_a_mapped_shard_that_is_cut_may_cost_the_run_but_nothing_that_is_committed(tmp_path: Path) -> None:
    """SIGBUS, in a process of its own: the last of the tensors is cut off between its mapping and the first look."""
    values = np.random.default_rng(0).standard_normal((600, 500)).astype(np.float32)
    model = tiny.write(tmp_path / "model", {f"{name}.weight": values for name in "abcdefgh"})
    whole = (model / "model.safetensors").read_bytes()
    script = (
        "import os, sys, shardscan\n"
        "from shardscan.shards.sources import local\n"
        "local.is_cached = lambda *_: True\n"
        "map_range = local.LocalDisk.map_range\n"
        "def cutting(disk, path, start, length):\n"
        "    pages = map_range(disk, path, start, length)\n"
        "    if start > 7 * 1200000:\n"
        "        os.truncate(path, 7 * 1200000 + 90000)\n"
        "    return pages\n"
        "local.LocalDisk.map_range = cutting\n"
        "shardscan.ingest(sys.argv[1], sys.argv[2], workers=1, io='mmap')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(model), str(tmp_path / "scans")], check=False)
    assert ended.returncode == -7
    (model / "model.safetensors").write_bytes(whole)
    (scan,) = commits.list_scans(tmp_path / "scans")
    left = 8 - len(commits.read_commits(scan))
    assert 1 <= left < 8
    again = shardscan.ingest(model, tmp_path / "scans")
    assert (again.tasks, again.bytes_read, again.failures) == (left, left * values.nbytes, {})


def test_more_than_max_bytes_is_refused_before_anything_is_written(spread: Path, tmp_path: Path) -> None:
    total = 3 * 300 * 70 * 4
    with pytest.raises(OptionError, match="would read 252,000 bytes and may read 251,999: allow more with --max-bytes"):
        shardscan.ingest(spread, tmp_path / "scans", max_bytes=total - 1)
    assert not (tmp_path / "scans").exists()
    assert shardscan.ingest(spread, tmp_path / "scans", max_bytes=total).bytes_read == total
    assert shardscan.ingest(spread, tmp_path / "scans", max_bytes=0).tasks == 0
