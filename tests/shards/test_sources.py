"""A source of somebody's own: ranges of bytes behind addresses, without a path, and what every source promises."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import shardscan
from made import tiny
from made.toys import ToySource, with_toys
from shardscan.cli import main
from shardscan.errors import CheckpointError, CheckpointNotFound
from shardscan.jobs.scan import job as flow
from shardscan.jobs.scan.prepare import prepare
from shardscan.jobs.verification.job import verify
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.shards.sources.local import LOCAL
from shardscan.shards.sources.source import Source
from shardscan.shards.witness import probe_files
from shardscan.store import gate

SHARD = "toy://x/model.safetensors"


@pytest.fixture(name="toys")
def _toys() -> Iterator[ToySource]:
    with with_toys() as source:
        yield source


def test_a_model_behind_a_scheme_is_that_on_the_disk_in_all_but_its_address(toys: ToySource, tmp_path: Path) -> None:
    local = tiny.llama(tmp_path / "x")
    remote = toys.put_folder("toy://x", local)
    ours, theirs = open_checkpoint(remote), open_checkpoint(local)
    assert (ours.path, ours.name, ours.config, probe_files(ours)) == (remote, "x", theirs.config, probe_files(theirs))
    assert not any(tensor.mapped for tensor in ours.values())
    for name, tensor in pickle.loads(pickle.dumps(ours)).items():
        np.testing.assert_array_equal(tensor.window().raw(), theirs[name].window().raw())
        np.testing.assert_array_equal(np.asarray(shardscan.open(remote)[name]), theirs[name].window().read())


def test_an_index_is_read_through_the_source_and_only_ranges_of_a_shard_are(toys: ToySource, tmp_path: Path) -> None:
    toys.put_folder("toy://x", tiny.llama(tmp_path / "x"))
    names = list(open_checkpoint("toy://x"))
    toys.put("toy://x/model.safetensors.index.json", json.dumps({"weight_map": dict.fromkeys(names, "no")}).encode())
    with pytest.raises(CheckpointError, match=r"index\.json' names 'no', which is not"):
        open_checkpoint("toy://x")
    index = json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}).encode()
    toys.put("toy://x/model.safetensors.index.json", index)
    toys.ranges.clear()
    assert list(open_checkpoint("toy://x")) == names
    assert max(length for address, _, length in toys.ranges if address == SHARD) < len(toys.files[SHARD])


def test_the_commands_take_an_address(toys: ToySource, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        toys.put_folder(f"toy://{name}", tiny.llama(tmp_path / name, seed=seed))
    run, store = CliRunner().invoke, str(tmp_path / "scans")
    assert len(run(main, ["ls", "toy://a", "--format", "jsonl"]).stdout.splitlines()) == 16
    assert run(main, ["ingest", "toy://a", "--store", store]).exit_code == 0
    assert run(main, ["verify", "toy://a"]).exit_code == 0
    assert run(main, ["diff", "toy://a", "toy://b", "--store", store]).exit_code == 0
    assert shardscan.ingest("toy://a", store).tasks == 0
    with shardscan.connect(store) as db:
        assert db.sql("select source from models where model = 'a'").fetchall() == [("toy://a",)]


@pytest.mark.parametrize("change", ["truncated", "written", "gone"])
def test_a_shard_that_changes_costs_its_tensors_and_gives_no_number(
    change: str, toys: ToySource, tmp_path: Path
) -> None:
    toys.put_folder("toy://x", tiny.llama(tmp_path / "x"))
    prepared = prepare("toy://x")
    data = toys.files[SHARD]
    if change == "gone":
        del toys.files[SHARD]
        with pytest.raises(CheckpointError, match="is not there"):
            flow.execute(prepared, tmp_path / "scans")
        return
    toys.put(SHARD, data[:-4000] if change == "truncated" else data[:-1] + b"\0")
    failures = flow.execute(prepared, tmp_path / "scans").failures
    assert set(failures) == set(prepared.checkpoint)
    assert all(why == gate.CHANGED_IN_SCAN or "shorter than its header says" in why for why in failures.values())
    with shardscan.connect(tmp_path / "scans") as db:
        assert db.sql("select distinct status, mean is null from tensors").fetchall() == [("failed", True)]


def test_verify_finds_what_is_wrong_behind_an_address(toys: ToySource, tmp_path: Path) -> None:
    toys.put_folder("toy://x", tiny.write(tmp_path / "x", {"w": np.array([1, np.nan], np.float32)}))
    toys.put("toy://x/half.part", b"x")
    problems = {(f.check, f.file) for f in verify("toy://x").findings if f.severity == "problem"}
    assert problems == {("nan", "model.safetensors"), ("file", "half.part")}


@pytest.mark.parametrize("address", ["s4://bucket/model", "hf://org/model"])
def test_an_unknown_scheme_is_one_sentence(address: str) -> None:
    with pytest.raises(CheckpointNotFound, match=r"reads no \w+:// addresses: give .*\.$"):
        shardscan.open(address)
    done = CliRunner().invoke(main, ["ls", address])
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)


# ---- what every source promises


class SourceContract:
    """A source is a subclass of three lines: `put` writes a file and gives the source and the address of its folder."""

    def put(self, tmp_path: Path, name: str, data: bytes) -> tuple[Source, str]:
        raise NotImplementedError

    @pytest.fixture(name="stored")
    def _stored(self, tmp_path: Path) -> tuple[Source, str]:
        return self.put(tmp_path, "shard", bytes(range(100)))

    def test_a_folder_and_a_file_are_told_apart_and_nothing_is_nothing(self, stored: tuple[Source, str]) -> None:
        source, folder = stored
        places = (folder, f"{folder}/shard", f"{folder}/other")
        assert [source.find_kind(place) for place in places] == ["folder", "file", "nothing"]
        assert [source.is_listed(place) for place in places] == [True, True, False]
        assert list(source.list_names(folder)) == ["shard"]
        assert list(source.list_entries(folder)) == [("shard", False)]
        with pytest.raises(OSError, match="No such"):
            source.list_names(f"{folder}/other")
        with pytest.raises(OSError, match="No such"):
            source.take_witness(f"{folder}/other")

    def test_a_file_is_read_in_order_and_anywhere(self, stored: tuple[Source, str]) -> None:
        source, folder = stored
        with source.open_file(f"{folder}/shard") as file:
            assert (file.size, file.witness) == (100, source.take_witness(f"{folder}/shard"))
            assert (file.read(2), file.read_at(98, 9), file.read(1)) == (b"\0\1", b"bc", b"\2")
            file.seek(99)
            assert (file.read(5), file.read(5)) == (b"c", b"")
        with pytest.raises(ValueError, match="is not there"), source.open_file(f"{folder}/other"):
            pass

    def test_memory_is_filled_or_an_error_says_that_the_end_is_missing(self, stored: tuple[Source, str]) -> None:
        source, folder = stored
        into = bytearray(8)
        source.read_into(f"{folder}/shard", memoryview(into), 96, 4)
        assert bytes(into) == b"`abc" + bytes(4)
        with pytest.raises(CheckpointError, match="shorter than its header says"):
            source.read_into(f"{folder}/shard", memoryview(into), 96, 5)
        with pytest.raises(CheckpointError, match="cannot be read: No such file"):
            source.read_into(f"{folder}/other", memoryview(into), 0, 1)

    def test_a_small_text_is_read_and_a_long_or_strange_one_refused(self, stored: tuple[Source, str]) -> None:
        source, folder = stored
        assert len(source.read_small(f"{folder}/shard", 100)) == 100
        with pytest.raises(ValueError, match="is longer than the 99 bytes"):
            source.read_small(f"{folder}/shard", 99)

    def test_a_change_shows_in_the_witness(self, stored: tuple[Source, str], tmp_path: Path) -> None:
        source, folder = stored
        before = source.take_witness(f"{folder}/shard")
        self.put(tmp_path, "shard", b"other")
        assert source.take_witness(f"{folder}/shard")[1:] != before[1:]

    def test_an_absolute_address_stays_one(self, stored: tuple[Source, str]) -> None:
        source, folder = stored
        assert source.resolve(source.make_absolute(folder)) == source.make_absolute(f"{folder}/")


class TestLocalDisk(SourceContract):
    def put(self, tmp_path: Path, name: str, data: bytes) -> tuple[Source, str]:
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / name).write_bytes(data)
        return LOCAL, str(tmp_path / "f")


class TestToySource(SourceContract):
    source = ToySource()

    def put(self, tmp_path: Path, name: str, data: bytes) -> tuple[Source, str]:
        self.source.put(f"toy://{tmp_path.name}/{name}", data)
        return self.source, f"toy://{tmp_path.name}"
