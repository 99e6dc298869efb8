"""STORE: stacked arrays that plain zarr and xarray open, and commits that say what to trust."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import xxhash
import zarr

import shardscan
from made import tiny
from shardscan.store import commits
from shardscan.store.arrays import list_current_scans, read_stacked_array
from shardscan.store.creation import NO_NUMBER
from shardscan.store.facts import read_scan


@pytest.fixture
def scan(scan_of_tiny: Path) -> commits.Scan:
    (found,) = list_current_scans(scan_of_tiny)
    return found


def test_plain_zarr_opens_the_arrays_stacked_over_layers_with_named_dimensions(scan: commits.Scan) -> None:
    root = zarr.open_group(scan.arrays.parent, mode="r")
    assert list(root.group_keys()) == [scan.id]
    group = root[scan.id]
    assert isinstance(group, zarr.Group)
    channels, heads = group["text/up_proj/channels_out"], group["text/q_proj/heads"]
    assert isinstance(channels, zarr.Array)
    assert isinstance(heads, zarr.Array)
    assert channels.shape == (2, 1, 11, tiny.INNER)
    assert channels.metadata.to_dict()["dimension_names"] == ("layer", "expert", "channel_statistic", "out_channel")
    assert channels.chunks == (1, 1, 11, tiny.INNER)
    assert heads.shape == (2, tiny.HEADS, tiny.HEAD_DIM)
    assert (heads.chunks, heads.shards) == ((1, 1, tiny.HEAD_DIM), (1, tiny.HEADS, tiny.HEAD_DIM))
    assert len([f for f in (scan.arrays / "text/q_proj/heads/c").rglob("*") if f.is_file()]) == 2


def test_xarray_opens_a_role_and_selects_by_layer_and_statistic(scan: commits.Scan, tmp_path: Path) -> None:
    with xr.open_zarr(scan.arrays / "text/up_proj", consolidated=False) as role:
        std = role.channels_out.sel(layer=1, expert=NO_NUMBER, channel_statistic="std").values
    weights = shardscan.open(read_scan(scan).source)["model.layers.1.mlp.up_proj.weight"].compute()
    np.testing.assert_allclose(std, weights.astype(np.float64).std(axis=1), rtol=1e-9)


def test_arrays_of_a_role_without_layers_have_one_layer(scan: commits.Scan) -> None:
    assert read_stacked_array(scan, "text/embed_tokens", "layer").tolist() == [NO_NUMBER]
    assert read_stacked_array(scan, "text/embed_tokens", "sizes").tolist() == [[[tiny.VOCAB, tiny.HIDDEN]]]


def test_layers_of_different_widths_are_padded_with_nan_and_their_sizes_kept(tmp_path: Path) -> None:
    shardscan.ingest(tiny.llama(tmp_path / "ragged", inner=(24, 10, 17)), tmp_path / "scans")
    (scan,) = list_current_scans(tmp_path / "scans")
    channels = read_stacked_array(scan, "text/up_proj", "channels_out")
    assert read_stacked_array(scan, "text/up_proj", "sizes")[:, 0, 0].tolist() == [24, 10, 17]
    assert np.isfinite(channels[1, 0, :, :10]).all()
    assert np.isnan(channels[1, 0, :, 10:]).all()


def test_a_flipped_bit_in_any_chunk_is_detected_when_read(tmp_path: Path) -> None:
    shardscan.ingest(tiny.llama(tmp_path / "tiny", inner=(8,)), tmp_path / "scans")
    (scan,) = list_current_scans(tmp_path / "scans")
    chunks = [f for f in scan.arrays.rglob("c/**/*") if f.is_file()]
    assert len(chunks) > 50
    missed = [str(chunk) for chunk in chunks if not _detects_a_flip(chunk)]
    assert missed == []


def _detects_a_flip(chunk: Path) -> bool:
    array = next(parent for parent in chunk.parents if (parent / "zarr.json").exists())
    whole = chunk.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    chunk.write_bytes(flipped)
    try:
        zarr.open_array(array, mode="r")[...]
    except (ValueError, RuntimeError):
        return True
    finally:
        chunk.write_bytes(whole)
    return False


def test_a_commit_holds_the_hash_of_each_file_and_of_each_tensors_content(scan: commits.Scan) -> None:
    done = commits.read_commits(scan)
    assert {product for _, product in done} == {"stats/1", "heads/1"}
    stats = done["text.q_proj.0", "stats/1"]
    assert stats.tensors["model.layers.0.self_attn.q_proj.weight"].status == "ok"
    assert len(stats.tensors["model.layers.0.self_attn.q_proj.weight"].digest) == 32
    arrays = {"channels", "fingerprints"}
    assert {name.split("/")[2] for name in stats.files} == (
        {f"{array}_{side}" for array in arrays for side in ("in", "out")} | {"distribution_weight", "moments_weight"}
    )
    for record in done.values():
        for name, (size, digest) in record.files.items():
            written = (scan.arrays / name).read_bytes()
            assert (len(written), xxhash.xxh3_64_hexdigest(written)) == (size, digest)


def test_every_file_of_the_arrays_is_vouched_for_by_one_commit(scan: commits.Scan) -> None:
    vouched = [name for record in commits.read_commits(scan).values() for name in record.files]
    written = {
        str(f.relative_to(scan.arrays))
        for f in scan.arrays.rglob("c/**/*")
        if f.is_file() and f.relative_to(scan.arrays).parts[2] not in ("layer", "expert", "sizes")
        and not f.relative_to(scan.arrays).parts[2].endswith(("_statistic", "_moment", "spectrum_fact"))
    }  # fmt: skip
    assert len(vouched) == len(set(vouched))
    assert set(vouched) == written


def test_names_of_models_and_tensors_are_never_paths(tmp_path: Path) -> None:
    names = ["../../outside", "/etc/passwd", "a\\b", "weird \u202e\x1b[31m name", "x" * 5000, "c", "zarr.json", "..."]
    tensors = {name: np.full((2, 3), float(i), np.float32) for i, name in enumerate(names)}
    model = "../../../tmp/evil\x1b"
    shardscan.ingest(tiny.write(tmp_path / "model", tensors), tmp_path / "in" / "scans", name=model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "model"]
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["scans"]
    with shardscan.connect(tmp_path / "in" / "scans") as connection:
        found = connection.sql("select tensor, mean from tensors where model = $m", params={"m": model}).fetchall()
    assert dict(found) == {name: float(i) for i, name in enumerate(names)}


def test_commits_are_plain_json_that_appear_whole(scan: commits.Scan) -> None:
    files = [f for f in scan.commits.rglob("*") if f.is_file()]
    assert all(isinstance(json.loads(f.read_text("ascii")), dict) for f in files)
    assert not [f for f in files if "partial" in f.name]
