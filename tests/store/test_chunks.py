"""STORE, its chunks: the files are to the bit those of zarr, which is the reference here, and any region is read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from shardscan.store.chunks import METADATA, Chunked
from shardscan.store.metadata import describe_array

DTYPES = ("float64", "float32", "int64", "uint64", "uint8", "bool")


@dataclass(frozen=True)
class Case:
    """An array of our layout: files along the first two axes, and in a shard a chunk for each place of the second."""

    shape: tuple[int, ...]
    run: int
    is_sharded: bool
    dtype: str

    @property
    def file(self) -> tuple[int, ...]:
        return (1, self.run, *self.shape[2:])

    @property
    def metadata(self) -> bytes:
        dims = tuple("abcd"[: len(self.shape)])
        if self.is_sharded:
            return describe_array(dims, self.shape, self.dtype, chunk=(1, 1, *self.shape[2:]), file=self.file)
        return describe_array(dims, self.shape, self.dtype, chunk=self.file)

    def values(self) -> np.ndarray[Any, Any]:
        rng = np.random.default_rng(len(self.shape) + self.run)
        values = (100 * rng.standard_normal(self.shape)).astype(self.dtype)
        if values.dtype.kind == "f":
            values[0] = np.nan  # a file of nothing but what is read where there is none
        return values


cases = st.builds(
    Case,
    st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(DTYPES),
)


def write(folder: Path, case: Case) -> Chunked:
    """All files of a case, by us."""
    array, values = Chunked.of(case.metadata), case.values()
    folder.mkdir()
    (folder / METADATA).write_bytes(case.metadata)
    for layer, first in product(range(case.shape[0]), range(0, case.shape[1], case.run)):
        path = folder / array.key((layer, first // case.run, *(0,) * (len(case.shape) - 2)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(array.encode(values[layer : layer + 1, first : first + case.run]))
    return array


def write_by_zarr(folder: Path, case: Case) -> None:
    """Likewise by zarr, one file at a time."""
    folder.mkdir()
    (folder / METADATA).write_bytes(case.metadata)
    array, values = zarr.open_array(folder, mode="r+").with_config({"write_empty_chunks": True}), case.values()
    for layer, first in product(range(case.shape[0]), range(0, case.shape[1], case.run)):
        files = slice(layer, layer + 1), slice(first, min(first + case.run, case.shape[1]))
        array[files] = values[files]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(case=cases)
def test_files_are_to_the_bit_those_that_zarr_writes(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    made = tmp_path_factory.mktemp("arrays")
    write(made / "ours", case)
    write_by_zarr(made / "zarrs", case)
    assert files(made / "ours") == files(made / "zarrs")


@given(case=cases, data=st.data())
def test_any_region_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, case: Case, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("arrays") / "array"
    array = write(folder, case)
    region = tuple(data.draw(st.slices(length)) for length in case.shape[: data.draw(st.integers(0, 2))])
    region = tuple(slice(*sorted(axis.indices(n)[:2])) for axis, n in zip(region, case.shape, strict=False))
    np.testing.assert_array_equal(array.read(folder, region), case.values()[region])


@pytest.mark.parametrize("is_sharded", [False, True])
def test_what_is_not_there_is_read_as_its_fill(tmp_path: Path, is_sharded: bool) -> None:
    case = Case((2, 5, 3), 2, is_sharded, "float64")
    array, wanted = write(tmp_path / "array", case), case.values()
    (tmp_path / "array/c/1/0/0").unlink()
    (tmp_path / "array/c/1/2/0").write_bytes(array.encode(np.zeros((1, 0, 3))))  # of a shard no chunk at all
    wanted[1, :2] = wanted[1, 4:] = np.nan
    np.testing.assert_array_equal(array.read(tmp_path / "array"), wanted)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "array", mode="r")[...], wanted)


@pytest.mark.parametrize("is_sharded", [False, True])
def test_any_damage_to_a_file_is_found_when_it_is_read(tmp_path: Path, is_sharded: bool) -> None:
    array = write(tmp_path / "array", Case((1, 3, 4), 3, is_sharded, "float64"))
    file = tmp_path / "array/c/0/0/0"
    whole = file.read_bytes()
    damaged = [whole[:n] for n in range(len(whole))]
    damaged += [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole))]
    for data in damaged:
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"checksum|shorter"):
            array.read(tmp_path / "array")


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"[]",
        b"{}",
        Case((2, 2), 1, False, "float64").metadata.replace(b"blosc", b"gzip!"),
        Case((2, 2), 1, True, "float64").metadata.replace(b"crc32c", b"crc32!"),
        Case((2, 2), 1, False, "float64").metadata.replace(b"float64", b"float99"),
    ],
)
def test_metadata_of_another_layout_is_refused(metadata: bytes) -> None:
    with pytest.raises(ValueError, match="the metadata of an array cannot be read"):
        Chunked.of(metadata)
