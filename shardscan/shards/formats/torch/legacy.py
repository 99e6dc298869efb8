"""OPEN, PyTorch files from before 1.6: five pickles behind each other, then the storages, each behind its length.

    magic number | protocol version | system | weights | keys of the storages | for each key: int64 count, its bytes

Source: _legacy_save and _legacy_load of torch/serialization.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from shardscan.errors import shown
from shardscan.shards.formats.torch.opcodes import MAX_PICKLE, Truncated, World, interpret
from shardscan.shards.formats.torch.permissions import Plain, Weights
from shardscan.shards.formats.torch.values import Storage
from shardscan.shards.sources.source import StoredFile

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
START = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
READ_AT_ONCE = 1 << 20


class Legacy(NamedTuple):
    """The value of the pickle of weights, where every storage's bytes begin, and the bytes before the first."""

    value: Any
    places: dict[str, int]
    header_nbytes: int


def read_legacy(file: StoredFile, world: Weights) -> Legacy:
    """Read the five pickles and every storage's length; ValueError for whatever is wrong."""
    plain = Plain()
    magic, at = _pickle(file, 0, plain)
    version, at = _pickle(file, at, plain)
    system, at = _pickle(file, at, plain)
    if type(magic) is not int or magic != MAGIC or type(version) is not int or version != PROTOCOL:
        raise ValueError("is a Python pickle and no PyTorch file: its first values are not PyTorch's")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("was written by a machine of another byte order: save it again on one of today's")
    value, at = _pickle(file, at, world)
    keys, at = _pickle(file, at, plain)
    if type(keys) is not list or not all(type(key) is str for key in keys) or len(set(keys)) != len(keys):
        raise ValueError("has no list of the keys of its storages, each once, behind its weights")
    if odd := set(keys) ^ world.storages.keys():
        raise ValueError(f"has the storage {shown(min(odd))} in its weights or in its list of keys, and not in both")
    return Legacy(value, dict(_places(file, [world.storages[key] for key in keys], at)), at)


def _pickle(file: StoredFile, start: int, world: World) -> tuple[Any, int]:
    """The value of the pickle that begins at `start`, and where it ends: no more of the file is read than it takes."""
    length, size = READ_AT_ONCE, file.size
    while True:
        data = file.read_at(start, min(length, MAX_PICKLE))
        try:
            value, end = interpret(data, world)
        except Truncated:
            if length >= MAX_PICKLE:
                raise ValueError(f"has a pickle of more than {MAX_PICKLE:,} bytes, over what may be read") from None
            if start + length >= size:
                raise
            length = MAX_PICKLE
            continue
        return value, start + end


def _places(file: StoredFile, storages: list[Storage], at: int) -> Iterator[tuple[str, int]]:
    size = file.size
    for storage in storages:
        raw = file.read_at(at, 8)
        count = int.from_bytes(raw, "little", signed=True)
        if len(raw) == 8 and count != storage.count:
            raise ValueError(
                f"has the storage {shown(storage.key)} with {count:,} values, where its weights say {storage.count:,}"
            )
        at += 8
        yield storage.key, at
        at += storage.nbytes
        if at > size:
            raise ValueError(f"is cut short: {at - size:,} bytes of its storages are missing, so download it again")
    if at < size:
        raise ValueError(f"has {size - at:,} bytes behind its last storage that nothing claims")
