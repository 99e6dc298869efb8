"""A scan goes on where it stopped, and speaks only for the contents that it has seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shardscan
from made import tiny
from oracles import survival
from shardscan.catalog import build as catalog
from shardscan.catalog import checks
from shardscan.errors import OptionError, StoreError
from shardscan.jobs.scan.job import execute, rebuild_catalog
from shardscan.jobs.scan.prepare import prepare, remaining
from shardscan.store import commits
from shardscan.store import gate as keep
from shardscan.store.arrays import list_current_scans, write_tensors
from shardscan.store.lock import writing_store
from shardscan.store.names import CATALOG


@pytest.fixture
def model(tiny_scans: Path, tmp_path: Path) -> Path:
    """A checkpoint that the store `tmp_path / "scans"` has scanned."""
    return tiny.llama(tmp_path / "tiny")


def query(scans: Path, sql: str) -> list[tuple[object, ...]]:
    with shardscan.connect(scans) as connection:
        return connection.sql(sql).fetchall()


def interrupt_after(monkeypatch: pytest.MonkeyPatch, tasks: int) -> None:
    """Stop the next run as Ctrl-C does, once it has committed this many tasks."""
    write, left = write_tensors, [tasks]

    def stopping(*given: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*given)

    monkeypatch.setattr(keep, "write_tensors", stopping)


@pytest.mark.usefixtures("model")
def test_a_copy_of_the_checkpoint_elsewhere_continues(tmp_path: Path) -> None:
    assert shardscan.ingest(tiny.llama(tmp_path / "there" / "tiny"), tmp_path / "scans").bytes_read == 0


@pytest.mark.usefixtures("model")
def test_other_weights_under_one_name_are_refused_though_their_headers_are_equal(tmp_path: Path) -> None:
    before = query(tmp_path / "scans", "select * from tensors order by all")
    with pytest.raises(StoreError, match=r"--name.*--replace"):
        shardscan.ingest(tiny.llama(tmp_path / "b" / "tiny", seed=1), tmp_path / "scans")
    assert query(tmp_path / "scans", "select * from tensors order by all") == before


def test_a_change_of_one_value_in_place_is_noticed(tmp_path: Path) -> None:
    values = np.zeros((3000, 1000), np.float32)
    model = tiny.write(tmp_path / "tiny", {"big.weight": values})
    shardscan.ingest(model, tmp_path / "scans")
    values[1234, 567] = 1
    tiny.write(model, {"big.weight": values})
    with pytest.raises(StoreError, match=r"--name.*--replace"):
        shardscan.ingest(model, tmp_path / "scans")
    assert query(tmp_path / "scans", "select max from tensors") == [(0.0,)]
    shardscan.ingest(model, tmp_path / "scans", replace=True)
    assert query(tmp_path / "scans", "select max from tensors") == [(1.0,)]


@pytest.mark.usefixtures("model")
def test_replace_switches_when_complete_and_removes_the_old_scan(tmp_path: Path) -> None:
    (old,) = commits.list_scans(tmp_path / "scans")
    shardscan.ingest(tiny.llama(tmp_path / "b" / "tiny", seed=1), tmp_path / "scans", replace=True)
    (new,) = commits.list_scans(tmp_path / "scans")
    assert new != old
    assert not old.arrays.exists()
    shardscan.ingest(tiny.llama(tmp_path / "b" / "tiny", seed=1), tmp_path / "fresh")
    sql = "select * from channels order by all"
    assert query(tmp_path / "scans", sql) == query(tmp_path / "fresh", sql)


def test_until_a_replacement_is_complete_the_old_scan_answers(model: Path, tmp_path: Path) -> None:
    before = query(tmp_path / "scans", "select * from tensors order by all")
    new = tiny.llama(tmp_path / "b" / "tiny", seed=1)
    prepared = prepare(new)
    (new / "model.safetensors").write_bytes((new / "model.safetensors").read_bytes()[:-64])
    done = execute(prepared, tmp_path / "scans", replace=True)
    assert done.failures
    assert query(tmp_path / "scans", "select * from tensors order by all") == before


def test_a_replacement_that_was_replaced_itself_leaves_every_model_in_the_catalog(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = tiny.llama(tmp_path / "b" / "tiny", seed=1)
    shardscan.ingest(two, tmp_path / "scans", replace=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 3)
        shardscan.ingest(model, tmp_path / "scans", replace=True, workers=1)
    shardscan.ingest(tiny.llama(tmp_path / "other"), tmp_path / "scans")
    assert query(
        tmp_path / "scans", "select model, count(*) from tensors where status = 'ok' group by all order by 1"
    ) == [
        ("other", 16),
        ("tiny", 16),
    ]


def test_an_interrupted_replacement_leaves_the_old_numbers_even_of_files_edited_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.zeros((3000, 1000), np.float32)
    model = tiny.write(tmp_path / "tiny", {"big.weight": values})
    shardscan.ingest(model, tmp_path / "scans")
    values[1234, 567] = 1
    tiny.write(model, {"big.weight": values})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 0)
        shardscan.ingest(model, tmp_path / "scans", replace=True)
    catalog.build(tmp_path / "scans", rebuild=True)
    assert query(tmp_path / "scans", "select max, status from tensors") == [(0.0, "ok")]


@pytest.mark.usefixtures("model")
def test_an_unfinished_replacement_needs_the_flag_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = tiny.llama(tmp_path / "b" / "tiny", seed=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 3)
        shardscan.ingest(two, tmp_path / "scans", replace=True, workers=1)
    with pytest.raises(StoreError, match="--replace"):
        shardscan.ingest(two, tmp_path / "scans")


def test_an_interrupted_run_is_recorded_with_what_it_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.llama(tmp_path / "tiny")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 5)
        shardscan.ingest(model, tmp_path / "scans", workers=1)
    assert shardscan.ingest(model, tmp_path / "scans").tasks == 11
    assert query(tmp_path / "scans", "select run, tasks from runs order by run") == [(1, 5), (2, 11)]


def test_a_config_that_comes_later_gives_the_heads(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    (model / "config.json").rename(tmp_path / "config.json")
    shardscan.ingest(model, tmp_path / "scans")
    assert query(tmp_path / "scans", "select count(*) from spectra") == [(0,)]
    (tmp_path / "config.json").rename(model / "config.json")
    shardscan.ingest(model, tmp_path / "scans")
    assert query(tmp_path / "scans", "select count(*) from spectra") == [(2 * (2 * tiny.HEADS + 2 * tiny.KV_HEADS),)]


def test_a_corrected_head_dim_is_taken_up(model: Path, tmp_path: Path) -> None:
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"head_dim": 8', '"head_dim": 16'))
    shardscan.ingest(model, tmp_path / "scans")
    assert query(tmp_path / "scans", "select head_dim from models") == [(16,)]
    assert query(tmp_path / "scans", "select distinct rank from spectra") == [(16,)]


def test_an_interrupted_scan_under_a_corrected_config_goes_on_without_a_flag(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"head_dim": 8', '"head_dim": 4'))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 3)
        shardscan.ingest(model, tmp_path / "scans", workers=1)
    assert query(tmp_path / "scans", "select head_dim from models") == [(8,)]
    assert shardscan.ingest(model, tmp_path / "scans").tasks == 13
    assert query(tmp_path / "scans", "select head_dim from models") == [(4,)]


def test_a_file_that_a_commit_vouches_for_and_is_gone_is_made_again(model: Path, tmp_path: Path) -> None:
    before = query(tmp_path / "scans", "select * from tensors order by tensor")
    (scan,) = list_current_scans(tmp_path / "scans")
    (scan.arrays / "text/up_proj/moments_weight/c/1/0/0").unlink()
    catalog.build(tmp_path / "scans", rebuild=True)
    assert query(tmp_path / "scans", "select tensor, mean from tensors where status = 'pending'") == [
        ("model.layers.1.mlp.up_proj.weight", None)
    ]
    assert shardscan.ingest(model, tmp_path / "scans").tasks == 1
    assert query(tmp_path / "scans", "select * from tensors order by tensor") == before


def test_a_shard_rewritten_during_the_scan_is_said_to_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.llama(tmp_path / "tiny")
    write = keep.keep_tensors

    def rewriting(*arguments: object) -> object:
        tiny.llama(model, seed=1)
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(keep, "keep_tensors", rewriting)
    done = shardscan.ingest(model, tmp_path / "scans", workers=1)
    assert len(done.failures) == 16
    assert set(done.failures.values()) == {keep.CHANGED_IN_SCAN}
    assert query(tmp_path / "scans", "select count(*) from tensors where mean is not null") == [(0,)]


def test_one_process_writes_a_store_at_a_time(model: Path, tmp_path: Path) -> None:
    with writing_store(tmp_path / "scans"):
        with pytest.raises(StoreError, match=r"is being written by process [0-9]+ on"):
            shardscan.ingest(model, tmp_path / "scans")
        with pytest.raises(StoreError, match="wait for it"):
            rebuild_catalog(tmp_path / "scans")
        assert query(tmp_path / "scans", "select count(*) from models") == [(1,)]
    assert shardscan.ingest(model, tmp_path / "scans").tasks == 0


def flip(file: Path) -> None:
    flipped = bytearray(file.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    file.write_bytes(flipped)


DAMAGE: dict[str, tuple[Callable[[commits.Scan], object], int]] = {
    "a flipped bit in a chunk": (lambda s: flip(s.arrays / "text/up_proj/channels_out/c/1/0/0/0"), 1),
    "a flipped bit in a shard of heads": (lambda s: flip(s.arrays / "text/q_proj/heads/c/0/0/0"), 1),
    "a lost chunk": (lambda s: (s.arrays / "text/up_proj/moments_weight/c/1/0/0").unlink(), 1),
    "a flipped bit in a commit": (lambda s: flip(s.commits / "text.up_proj.1.stats-1.json"), 1),
    "half a commit": (lambda s: (s.commits / "text.up_proj.1.stats-1.json").write_text('{"task": '), 1),
    "flipped coordinates": (lambda s: flip(s.arrays / "text/up_proj/layer/c/0"), 0),
    "lost sizes": (lambda s: (s.arrays / "text/up_proj/sizes/c/0/0/0").unlink(), 0),
    "a flipped bit in an array's metadata": (lambda s: flip(s.arrays / "text/up_proj/channels_out/zarr.json"), 0),
    "lost metadata of a group": (lambda s: (s.arrays / "text/up_proj/zarr.json").unlink(), 0),
    "a flipped bit in the attributes": (lambda s: flip(s.arrays / "zarr.json"), 0),
    "a flipped bit in the root": (lambda s: flip(s.arrays.parent / "zarr.json"), 0),
    "a lost witness": (lambda s: flip(s.commits / "witness"), 0),
    "all arrays lost": (lambda s: shutil.rmtree(s.arrays), 16),
}


@pytest.mark.parametrize(("damage", "tasks"), DAMAGE.values(), ids=DAMAGE)
def test_what_a_disk_has_lost_or_changed_is_made_anew_by_the_next_ingest_and_nothing_else(
    damage: Callable[[commits.Scan], object], tasks: int, scan_of_tiny: Path, tiny_scans: Path
) -> None:
    model = scan_of_tiny.with_name("tiny")  # not a copy, whose path would stand in the store
    (scan,) = list_current_scans(tiny_scans)
    before = survival.files(tiny_scans)
    damage(scan)
    assert survival.files(tiny_scans) != before
    assert shardscan.ingest(model, tiny_scans).tasks == tasks
    assert survival.files(tiny_scans) == before


def test_a_catalog_is_built_again_where_a_commit_was_and_nothing_else_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after kill -9 between the last commit of a run and its record."""
    columns = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    model = tiny.write(tmp_path / "low", {"a.weight": columns @ columns[:3].T.repeat(10, 1)[:, :30]})
    shardscan.ingest(model, tmp_path / "scans", spectra="full")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(commits, "record_run", interrupted)
        shardscan.ingest(model, tmp_path / "scans", spectra="full", exact=True)
    assert query(tmp_path / "scans", "select method from spectra") == [("gram",)]
    assert [*checks.find_stale(tmp_path / "scans" / CATALOG, list_current_scans(tmp_path / "scans"))] == [("low",)]
    assert shardscan.ingest(model, tmp_path / "scans", spectra="full", exact=True).tasks == 0
    assert query(tmp_path / "scans", "select method from spectra") == [("qr_svd",)]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("model")
def test_a_foreign_file_among_the_commits_is_named(tmp_path: Path) -> None:
    (scan,) = list_current_scans(tmp_path / "scans")
    (scan.commits / "x.json").write_text("{}")
    with pytest.raises(StoreError, match=r"x\.json is damaged: .* remove it first"):
        catalog.build(tmp_path / "scans")


def test_a_checkpoint_that_was_touched_is_compared_only_within_the_bytes_that_may_be_read(
    model: Path, tmp_path: Path
) -> None:
    (model / "model.safetensors").touch()
    with pytest.raises(OptionError, match="was written to or copied, so 10,592 bytes must be compared"):
        shardscan.ingest(model, tmp_path / "scans", max_bytes=10_000)
    assert shardscan.ingest(model, tmp_path / "scans", max_bytes=20_000).tasks == 0


def test_only_folders_of_scans_are_swept(model: Path, tmp_path: Path) -> None:
    mine = [tmp_path / "scans" / name for name in ("commits/thesis", "arrays.zarr/thesis", "commits/0123-1")]
    for folder in mine:
        folder.mkdir(parents=True)
        (folder / "chapter.txt").write_text("precious")
    (scan,) = list_current_scans(tmp_path / "scans")
    (scan.commits / "begun").unlink()  # as where a removal was killed
    assert shardscan.ingest(model, tmp_path / "scans").tasks == 16
    assert [(folder / "chapter.txt").read_text() for folder in mine] == ["precious"] * 3


@pytest.mark.usefixtures("model")
def test_a_damaged_record_is_named_and_the_last_catalog_answers(tmp_path: Path) -> None:
    (scan,) = list_current_scans(tmp_path / "scans")
    flip(scan.commits / "text.up_proj.1.stats-1.json")
    with pytest.raises(StoreError, match=r"text\.up_proj\.1\.stats-1\.json is damaged: ingest its checkpoint again"):
        catalog.build(tmp_path / "scans")
    assert query(tmp_path / "scans", "select count(*) from tensors") == [(16,)]


@pytest.mark.usefixtures("model")
def test_a_scan_whose_arrays_are_gone_is_named(tmp_path: Path) -> None:
    (scan,) = list_current_scans(tmp_path / "scans")
    shutil.rmtree(scan.arrays)
    for again in (
        lambda: catalog.build(tmp_path / "scans"),
        lambda: shardscan.ingest(tiny.llama(tmp_path / "other"), tmp_path / "scans"),
    ):
        with pytest.raises(StoreError, match="are gone or damaged: ingest their checkpoint again"):
            again()
    assert query(tmp_path / "scans", "select count(*) from tensors") == [(16,)]


@pytest.mark.usefixtures("model")
def test_a_flipped_bit_is_named_when_the_catalog_is_rebuilt(tmp_path: Path) -> None:
    (scan,) = list_current_scans(tmp_path / "scans")
    chunk = scan.arrays / "text/up_proj/channels_out/c/1/0/0/0"
    flip(chunk)
    with pytest.raises(StoreError, match=r"the scan of 'tiny' in .* is damaged"):
        catalog.build(tmp_path / "scans", rebuild=True)
    assert query(tmp_path / "scans", "select count(*) from tensors") == [(16,)]


def test_a_dry_run_counts_what_is_left(tmp_path: Path) -> None:
    prepared = prepare(tiny.llama(tmp_path / "tiny"))
    assert remaining(prepared, tmp_path / "scans").tasks == prepared.plan.tasks
    execute(prepared, tmp_path / "scans")
    assert remaining(prepared, tmp_path / "scans").tasks == ()
    shutil.rmtree(tmp_path / "scans")
    assert len(remaining(prepared, tmp_path / "scans").tasks) == 16


def test_what_a_config_says_beside_sizes_is_taken_up_without_another_scan(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config |= {"tie_word_embeddings": True, "architectures": ["MistralForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config))
    assert shardscan.ingest(model, tmp_path / "scans").tasks == 0
    said = "select architecture, family, tied_embeddings, config ->> 'tie_word_embeddings' from models"
    assert query(tmp_path / "scans", said) == [("MistralForCausalLM", "llama", True, "true")]
    rebuild_catalog(tmp_path / "scans")
    assert query(tmp_path / "scans", said) == [("MistralForCausalLM", "llama", True, "true")]
