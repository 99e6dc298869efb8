"""Tensors as lazy dask arrays: the values of the safetensors library and of ml_dtypes, from graphs without data."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import dask.base
import dask.config
import numpy as np
import pytest
from safetensors import safe_open

import shardscan
from oracles.exactness import NUMPY, SUB_BYTE, packed, shard, tensors_of
from shardscan.shards.address import Window
from shardscan.shards.dtypes import DTYPES

SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (), "one": (1,), "line": (64,), "plane": (24, 8), "cube": (8, 3, 4), "none": (0, 3), "thin": (3, 0),
}  # fmt: skip


def raw_of(code: str, shape: tuple[int, ...]) -> bytes:
    data = np.random.default_rng(len(shape)).integers(0, 256, DTYPES[code].nbytes(int(np.prod(shape))), np.uint8)
    return (data & 1 if code == "BOOL" else data).tobytes()


def expected_of(code: str, shape: tuple[int, ...]) -> np.ndarray:
    """NumPy's own dtypes as they are, the others through ml_dtypes as float32."""
    values = np.frombuffer(raw_of(code, shape), NUMPY[code]).reshape(shape)
    with np.errstate(invalid="ignore"):
        return values if DTYPES[code].numpy else values.astype(np.float32)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 32 << 20])
@pytest.mark.parametrize("odd", [False, True], ids=["aligned", "misaligned"])
@pytest.mark.parametrize("code", NUMPY)
def test_values_of_every_dtype_and_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, odd: bool, chunk_bytes: int
) -> None:
    monkeypatch.setattr("shardscan.reduce.arrays.CHUNK_BYTES", chunk_bytes)
    folder = shard(tmp_path, {name: (code, shape, raw_of(code, shape)) for name, shape in SHAPES.items()}, odd=odd)
    lazy = shardscan.open(folder)
    assert list(lazy) == list(SHAPES)
    assert len(lazy) == len(SHAPES)
    for name, shape in SHAPES.items():
        array, expected = lazy[name], expected_of(code, shape)
        assert (array.shape, array.dtype) == (shape, expected.dtype)
        values = np.asarray(array.compute(scheduler="synchronous"))
        assert (values.shape, values.dtype) == (shape, expected.dtype)
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("code", SUB_BYTE)
def test_values_of_packed_dtypes_in_chunks_that_begin_on_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr("shardscan.reduce.arrays.CHUNK_BYTES", 1)
    patterns = np.random.default_rng(0).integers(0, 1 << DTYPES[code].bits, (20, 6), np.uint8)
    values = patterns.view(SUB_BYTE[code])
    array = shardscan.open(shard(tmp_path, {"w": (code, (20, 6), packed(values, code))}))["w"]
    assert array.chunks == ((8, 8, 4), (6,))
    np.testing.assert_array_equal(array.compute(), values.astype(np.float32))


@pytest.mark.parametrize("code", ["F32", "F16", "I64", "U8", "BOOL", "F64"])
def test_values_are_those_of_the_safetensors_library(tmp_path: Path, code: str) -> None:
    folder = shard(tmp_path, {name: (code, shape, raw_of(code, shape)) for name, shape in SHAPES.items()})
    lazy = shardscan.open(folder)
    with safe_open(folder / "model.safetensors", "np") as peer:
        for name in SHAPES:
            np.testing.assert_array_equal(lazy[name].compute(), peer.get_tensor(name))


def test_arrays_compute_as_arrays_do(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((100, 30)).astype(np.float32)
    lazy = shardscan.open(tensors_of(tmp_path, {"w": x}))
    np.testing.assert_allclose((lazy["w"].T @ lazy["w"]).compute(), x.T @ x, rtol=1e-5)
    np.testing.assert_array_equal(lazy["w"][17:23, ::3].compute(), x[17:23, ::3])


def test_opening_reads_headers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tensors_of(tmp_path, {"w": np.ones((8, 8), np.float32)})
    read: list[Window] = []

    def raw(window: Window) -> np.ndarray:
        read.append(window)
        return np.zeros(window.nbytes, np.uint8)

    monkeypatch.setattr(Window, "raw", raw)
    array = shardscan.open(folder)["w"]
    halved = array[:4] * 2
    assert (halved.shape, read) == ((4, 8), [])
    assert halved.compute(scheduler="synchronous").sum() == 0
    assert [window.shape for window in read] == [(8, 8)]


def test_graphs_and_windows_are_small_whatever_the_tensors_size(tmp_path: Path) -> None:
    rows = 1 << 14
    folder = tmp_path / "big"
    shard(folder, {"w": ("F32", (0, 4096), b"")})
    header = (folder / "model.safetensors").read_bytes().replace(b"[0, 4096]", b"[%5d, 4096]" % rows)
    header = header.replace(b"[0, 0]", b"[0, %d]" % (rows * 4096 * 4))
    length = len(header) - 8
    with (folder / "model.safetensors").open("wb") as file:  # a sparse file
        file.write(length.to_bytes(8, "little") + header[8:])
        file.truncate(8 + length + rows * 4096 * 4)
    array = shardscan.open(folder)["w"]
    assert array.nbytes == 1 << 28
    assert array.npartitions == 8
    assert len(pickle.dumps(dict(array.dask))) < 5000
    assert len(pickle.dumps(shardscan.open(folder).checkpoint["w"].window())) < 1000
    assert array[-1].sum().compute() == 0


def test_two_arrays_have_one_name_only_if_they_have_one_address(tmp_path: Path) -> None:
    x = np.ones((4, 4), np.float32)
    first = shardscan.open(tensors_of(tmp_path / "a", {"v": x, "w": x, "empty": x[:0], "none": x[:0]}))
    names = [first[name].name for name in ("v", "w")]
    names.append(shardscan.open(tensors_of(tmp_path / "b", {"v": x}))["v"].name)
    assert len(set(names)) == 3
    assert shardscan.open(tmp_path / "a")["v"].name == names[0]
    both = dask.base.compute(first["v"], first["w"] * 2)
    np.testing.assert_array_equal(both[1], both[0] * 2)


def test_a_file_written_anew_gives_arrays_of_another_name(tmp_path: Path) -> None:
    before = shardscan.open(tensors_of(tmp_path, {"w": np.ones((4, 4), np.float32)}))["w"].name
    tensors_of(tmp_path, {"w": np.zeros((4, 4), np.float32)})
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert shardscan.open(tmp_path)["w"].name != before


@pytest.mark.skipif(sys.platform != "linux", reason="where processes are not forked they start too slowly for a test")
def test_other_processes_open_the_windows_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardscan.reduce.arrays.CHUNK_BYTES", 100)
    x = np.random.default_rng(2).standard_normal((40, 8)).astype(np.float32)
    array = shardscan.open(tensors_of(tmp_path, {"w": x}))["w"]
    with dask.config.set(scheduler="processes", num_workers=2):
        np.testing.assert_array_equal(array.compute(), x)


def test_the_mapping_says_what_it_is(tmp_path: Path) -> None:
    lazy = shardscan.open(tensors_of(tmp_path, {"w": np.ones((2, 4), np.float32)}), name="a model")
    assert repr(lazy) == "<a model: 1 tensors, 8 parameters, 32 bytes in 1 files>"
    assert "w" in lazy
    with pytest.raises(KeyError):
        lazy["v"]
