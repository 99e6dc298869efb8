"""STORE, its chunks: the files of an array of numbers, written and read in the thread that asks.

zarr does either through an event loop in a thread and a pool of more, which takes a hundred times as long as the
compression of a small chunk: most of what a small checkpoint cost. The files are to the bit those that zarr writes
(tests/store/test_chunks.py), and it reads them. A file is one chunk, or a shard of several: their bytes, one after the
other, and an index of where each lies, as https://zarr-specs.readthedocs.io has it for `sharding_indexed`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, Final

import google_crc32c
import numpy as np
from numcodecs import Blosc

METADATA = "zarr.json"
COMPRESSOR: Final = "zstd"
LEVEL = 3
BLOSC = Blosc(cname=COMPRESSOR, clevel=LEVEL, shuffle=Blosc.SHUFFLE)
CHECKSUM_BYTES = 4
ABSENT = 2**64 - 1  # in a shard's index: where a chunk lies that is not there

Numbers = tuple[int, ...]  # along each axis
Bounds = Sequence[tuple[int, int]]  # along each axis, from where to where


@dataclass(frozen=True, slots=True)
class Chunked:
    """How an array is cut: into files, and each file into chunks, of these shapes; edges are padded with `fill`."""

    dims: tuple[str, ...]
    shape: Numbers
    file: Numbers
    chunk: Numbers
    dtype: np.dtype[Any]
    fill: float
    is_sharded: bool

    @classmethod
    def of(cls, metadata: bytes) -> Chunked:
        """As an array's `zarr.json` has it; ValueError where that is none of this layout."""
        try:
            facts = json.loads(metadata)
            file = facts["chunk_grid"]["configuration"]["chunk_shape"]
            outer = facts["codecs"][0]
            is_sharded = outer["name"] == "sharding_indexed"
            chunk = outer["configuration"]["chunk_shape"] if is_sharded else file
            codecs = outer["configuration"]["codecs"] if is_sharded else facts["codecs"]
            if [codec["name"] for codec in codecs] != ["bytes", "blosc", "crc32c"]:
                raise ValueError("its chunks are encoded in another way")
            dtype = np.dtype(facts["data_type"]).newbyteorder("<")
            dims, shape = tuple(facts["dimension_names"]), tuple(facts["shape"])
            return cls(dims, shape, tuple(file), tuple(chunk), dtype, float(facts["fill_value"]), is_sharded)
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"the metadata of an array cannot be read: {error}") from error

    @classmethod
    def open(cls, folder: Path) -> Chunked:
        """Likewise of the array in a folder; OSError where there is none."""
        return cls.of((folder / METADATA).read_bytes())

    def key(self, number: Numbers) -> str:
        """The name of a file in the array's folder."""
        return "/".join(("c", *map(str, number)))

    def encode(self, values: np.ndarray) -> bytes:
        """The file that begins with these values; chunks of a shard that none of them are in are not in it."""
        if not self.is_sharded:
            return self._encode_chunk(values)
        index = np.full((*_over(self.file, self.chunk), 2), ABSENT, "<u8")
        chunks: list[bytes] = []
        end = 0
        for number in np.ndindex(*_over(values.shape, self.chunk)):
            inside = tuple(slice(n * length, (n + 1) * length) for n, length in zip(number, self.chunk, strict=True))
            chunks.append(self._encode_chunk(values[inside]))
            index[number] = end, len(chunks[-1])
            end += len(chunks[-1])
        return b"".join((*chunks, _seal(index.tobytes())))

    def files_of(self, values: np.ndarray) -> dict[str, bytes]:
        """All files of the whole array by their names, less those in which there is nothing but `fill`."""
        files = {}
        for number in np.ndindex(*_over(self.shape, self.file)):
            inside = tuple(slice(n * length, (n + 1) * length) for n, length in zip(number, self.file, strict=True))
            if (values[inside] != self.fill).any():
                files[self.key(number)] = self.encode(values[inside])
        return files

    def _encode_chunk(self, values: np.ndarray) -> bytes:
        padded = np.full(self.chunk, self.fill, self.dtype)
        padded[tuple(map(slice, values.shape))] = values
        return _seal(BLOSC.encode(padded))

    def read(self, folder: Path, region: Sequence[slice] = ()) -> np.ndarray:
        """The values of a region, whole along the axes that it does not say; ValueError where a file is damaged."""
        slices = [*region, *[slice(None)] * (len(self.shape) - len(region))]
        bounds = [axis.indices(length)[:2] for axis, length in zip(slices, self.shape, strict=True)]
        values = np.full([max(0, stop - start) for start, stop in bounds], self.fill, self.dtype)
        if values.size:
            for corner, chunk in self._chunks_in(folder, bounds):
                into, of = zip(*map(_overlap, corner, self.chunk, bounds), strict=True)
                values[into] = chunk[of]
        return values

    def _chunks_in(self, folder: Path, bounds: Bounds) -> Iterator[tuple[Numbers, np.ndarray]]:
        """Corner and values of every chunk that is there and has a part in a region."""
        for number in _touched(bounds, self.file):
            first = tuple(n * length for n, length in zip(number, self.file, strict=True))
            try:
                file = (folder / self.key(number)).open("rb")
            except FileNotFoundError:
                continue
            with file:
                if self.is_sharded:
                    yield from self._chunks_of_shard(file, first, bounds)
                else:
                    yield first, self._decode_chunk(file.read())

    def _chunks_of_shard(self, file: BinaryIO, first: Numbers, bounds: Bounds) -> Iterator[tuple[Numbers, np.ndarray]]:
        """Those of one file, whose corner is `first`; nothing else of it is read."""
        index = self._read_index(file)
        corners = zip(bounds, first, self.file, strict=True)
        inside = [(max(0, start - at), min(length, stop - at)) for (start, stop), at, length in corners]
        for number in _touched(inside, self.chunk):
            start, nbytes = index[number].tolist()
            if start != ABSENT:
                file.seek(start)
                corner = tuple(at + n * length for at, n, length in zip(first, number, self.chunk, strict=True))
                yield corner, self._decode_chunk(file.read(nbytes))

    def _read_index(self, file: BinaryIO) -> np.ndarray:
        """Where each chunk of a shard lies, and how many bytes it has."""
        chunks = _over(self.file, self.chunk)
        start = file.seek(0, os.SEEK_END) - 16 * math.prod(chunks) - CHECKSUM_BYTES
        if start < 0:
            raise ValueError("a shard is shorter than its index")
        file.seek(start)
        index = np.frombuffer(_open_seal(file.read()), "<u8").reshape(*chunks, 2)
        if (index[index[..., 0] != ABSENT] > start).any():
            raise ValueError("a shard is shorter than its index says")
        return index

    def _decode_chunk(self, data: bytes) -> np.ndarray:
        return np.frombuffer(BLOSC.decode(_open_seal(data)), self.dtype).reshape(self.chunk)


def _over(shape: Sequence[int], piece: Sequence[int]) -> Numbers:
    """How many pieces cover a shape, along each axis."""
    return tuple(-(-length // size) for length, size in zip(shape, piece, strict=True))


def _touched(bounds: Bounds, piece: Sequence[int]) -> Iterator[Numbers]:
    """The pieces that have a part between bounds."""
    return product(*(
        range(start // size, -(-stop // size)) for (start, stop), size in zip(bounds, piece, strict=True)
    ))  # fmt: skip


def _overlap(corner: int, length: int, bounds: tuple[int, int]) -> tuple[slice, slice]:
    """Along one axis, what a chunk has of a region: where it lies in the region, and where in the chunk."""
    start, stop = max(corner, bounds[0]), min(corner + length, bounds[1])
    return slice(start - bounds[0], stop - bounds[0]), slice(start - corner, stop - corner)


def _seal(data: bytes) -> bytes:
    return data + _checksum(data)


def _open_seal(sealed: bytes) -> bytes:
    data = sealed[:-CHECKSUM_BYTES]
    if _checksum(data) != sealed[len(data) :]:
        raise ValueError("a chunk is not what was written: its checksum is another")
    return data


def _checksum(data: bytes) -> bytes:
    checksum: int = google_crc32c.value(data)
    return checksum.to_bytes(CHECKSUM_BYTES, "little")
