"""STORE, its metadata: what zarr says of a group or an array, as the bytes of its `zarr.json`; nobody else imports it.

An array's is the same wherever it lies, and zarr takes a millisecond for each: it is asked once for those of one shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from shardscan.store.chunks import COMPRESSOR, LEVEL, METADATA
from shardscan.store.facts import ATTRIBUTE

CODECS = (BloscCodec(cname=COMPRESSOR, clevel=LEVEL, shuffle="shuffle"), Crc32cCodec())


def describe_group(attributes: Mapping[str, Any]) -> bytes:
    """A group with what is said of it."""
    return _describe_group({ATTRIBUTE: dict(attributes)})


@cache
def describe_bare_group() -> bytes:
    """A group of which nothing is said."""
    return _describe_group({})


def _describe_group(attributes: dict[str, Any]) -> bytes:
    files: dict[str, Buffer] = {}
    zarr.open_group(MemoryStore(files), mode="w", zarr_format=3, attributes=attributes)
    return files[METADATA].to_bytes()


@lru_cache(maxsize=4096)
def describe_array(
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: str,
    fill: float | None = None,
    *,
    chunk: tuple[int, ...] | Literal["auto"] = "auto",
    file: tuple[int, ...] | None = None,
) -> bytes:
    """An array whose chunks are blosc-compressed and end in a crc32c; with `file` several of them are one shard.

    Without `fill`, what is not written is NaN in an array of floats, else 0.
    """
    files: dict[str, Buffer] = {}
    default = math.nan if np.dtype(dtype).kind == "f" else 0
    zarr.create_array(
        MemoryStore(files),
        shape=shape,
        chunks=chunk,
        shards=file,
        dtype=dtype,
        fill_value=default if fill is None else fill,
        compressors=CODECS,
        dimension_names=dims,
    )
    return files[METADATA].to_bytes()


@lru_cache(maxsize=64)
def label_axis(dim: str, labels: tuple[str, ...]) -> Mapping[str, bytes]:
    """The files of an array of words, one for each place along an axis."""
    files: dict[str, Buffer] = {}
    array = zarr.create_array(
        MemoryStore(files), shape=(len(labels),), dtype=str, compressors=CODECS[1:], dimension_names=(dim,)
    )
    array[:] = np.array(labels, object)
    return {name: data.to_bytes() for name, data in files.items()}
