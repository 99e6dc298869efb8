"""A container format and a source that nobody has: what a stranger writes to add one of his own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from shardscan.shards.formats import kinds
from shardscan.shards.formats.container import PLAIN, Container, FileOptions, choose_named_shards
from shardscan.shards.header import Entry, Header, oddities
from shardscan.shards.sources import schemes
from shardscan.shards.sources.source import Source, StoredFile, Witness

MAGIC = b"TOY1 "


def toy_file(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A toy file: MAGIC, one line of JSON with [name, dtype, shape] of each tensor, and their bytes in order."""
    line = json.dumps([[name, dtype, shape] for name, (dtype, shape, _) in tensors.items()]).encode()
    return MAGIC + line + b"\n" + b"".join(data for _, _, data in tensors.values())


def read_toy_header(file: StoredFile, options: FileOptions = PLAIN) -> Header:
    """Read the line of JSON, and check that the file ends where its tensors do."""
    start = file.read_at(0, 1 << 20)
    if not start:
        raise ValueError("is empty: download it again")
    if not start.startswith(MAGIC) or b"\n" not in start:
        raise ValueError("is no toy: it does not begin like one")
    line = start[: start.index(b"\n") + 1]
    try:
        listed = json.loads(line[len(MAGIC) :])
    except ValueError:
        raise ValueError("has a header that is not valid JSON") from None
    entries, at = [], 0
    for name, dtype, shape in listed:
        nbytes = Entry(name, dtype, tuple(shape), 0, 0).nbytes
        entries.append(Entry(name, dtype, tuple(shape), at, at + nbytes))
        at += nbytes
    body = file.size - len(line)
    if at > body:
        raise ValueError(f"is cut short: {at - body:,} bytes are missing, so download it again")
    if at < body:
        raise ValueError(f"has {body - at:,} bytes behind its last tensor")
    digest, notes = xxhash.xxh3_128_hexdigest(line), tuple(oddities(tuple(entries)))
    sizes = (len(line), len(line), file.size, at)
    return Header("toy", tuple(entries), *sizes, digest, {}, notes, file.on_disk, file.witness)


TOY = Container(
    name="toy",
    title="toy",
    endings=(".toy",),
    index=".toy.index.json",
    model="model.toy",
    read_header=read_toy_header,
    begins=lambda start: start.startswith(MAGIC),
    choose_shards=choose_named_shards,
    is_gapless=True,
)


class ToySource(Source):
    """Files in memory: names, ranges of bytes and a time of change, and nothing else."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.times: dict[str, int] = {}
        self.ranges: list[tuple[str, int, int]] = []

    def put(self, address: str, data: bytes) -> None:
        self.files[address] = data
        self.times[address] = self.times.get(address, 0) + 1

    def put_folder(self, address: str, folder: Path) -> str:
        for file in folder.iterdir():
            self.put(f"{address}/{file.name}", file.read_bytes())
        return address

    def list_names(self, folder: str) -> list[str]:
        names = {
            address[len(folder) + 1 :].partition("/")[0] for address in self.files if address.startswith(f"{folder}/")
        }
        if not names:
            raise FileNotFoundError(2, "No such folder", folder)
        return sorted(names)

    def take_witness(self, address: str) -> Witness:
        if address not in self.files:
            raise FileNotFoundError(2, "No such file", address)
        return 0, 0, len(self.files[address]), self.times[address]

    def read_range(self, address: str, start: int, length: int) -> bytes:
        if address not in self.files:
            raise FileNotFoundError(2, "No such file", address)
        self.ranges.append((address, start, length))
        return self.files[address][start : start + min(length, 1 << 16)]  # less than is asked for, as networks do


@contextmanager
def with_toys() -> Iterator[ToySource]:
    """Have the toy format and the scheme toy:// for as long as the context lasts."""
    source = ToySource()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "CONTAINERS", (*kinds.CONTAINERS, TOY))
        patch.setitem(schemes.SOURCES, "toy", source)
        yield source


def as_toys(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """A toy file of arrays of float32."""
    return toy_file({name: ("F32", array.shape, array.astype("<f4").tobytes()) for name, array in tensors.items()})
