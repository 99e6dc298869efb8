"""PyTorch files written by hand, byte by byte: zip archives, legacy files and pickle opcodes, right and wrong.

Nothing here is ever loaded by pickle or torch. An opcode is bytes; a pickle is their sum.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NOTHING, EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE, MARK = b"N", b"}", b"]", b")", b"("
TUPLE, REDUCE, BUILD, NEWOBJ, SETITEM, SETITEMS, APPEND, STOP = b"t", b"R", b"b", b"\x81", b"s", b"u", b"a", b"."
BINPERSID, PROTO = b"Q", b"\x80\x02"
SIX = struct.pack("<6f", *range(6))


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: Any) -> bytes:
    """An int of any size as LONG1, a float or a bool: whatever somebody puts where a count should be."""
    if value is None or isinstance(value, bool):
        return {None: NOTHING, True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if 0 <= value < 256:
        return b"K" + bytes([value])
    raw: bytes = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_of(*parts: bytes) -> bytes:
    return MARK + b"".join(parts) + TUPLE


def numbers(values: Iterable[Any]) -> bytes:
    return tuple_of(*map(number, values))


def name(module: str, of: str) -> bytes:
    return b"c" + module.encode() + b"\n" + of.encode() + b"\n"


def call(module: str, of: str, *args: bytes) -> bytes:
    return name(module, of) + tuple_of(*args) + REDUCE


def ordered_dict() -> bytes:
    return name("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE


def storage(key: str = "0", count: Any = 6, cls: bytes | None = None, *more: bytes) -> bytes:
    of = name("torch", "FloatStorage") if cls is None else cls
    return tuple_of(text("storage"), of, text(key), text("cpu"), number(count), *more) + BINPERSID


def tensor(
    of: bytes | None = None,
    offset: Any = 0,
    shape: Iterable[Any] = (2, 3),
    strides: Iterable[Any] = (3, 1),
    *more: bytes,
) -> bytes:
    args = (storage() if of is None else of, number(offset), numbers(shape), numbers(strides))
    return call("torch._utils", "_rebuild_tensor_v2", *args, b"\x89", ordered_dict(), *more)


def dict_of(**values: bytes) -> bytes:
    return EMPTY_DICT + MARK + b"".join(text(key) + value for key, value in values.items()) + SETITEMS


def pickled(*parts: bytes) -> bytes:
    return PROTO + b"".join(parts) + STOP


@dataclass
class Record:
    """One record of an archive; what is not None is said in the place of the truth."""

    name: str
    body: bytes
    local_name: str | None = None
    method: int = 0
    flags: int = 0x808
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    kind: int = 0
    header: int | None = None
    aligned: bool = True
    extra: bytes = b""


def records(pickle: bytes, data: Mapping[str, bytes] | None = None, top: str = "archive/") -> list[Record]:
    """The records that torch.save writes, with these storages."""
    storages = {"0": SIX} if data is None else data
    return [
        Record(f"{top}data.pkl", pickle),
        Record(f"{top}.format_version", b"1"),
        Record(f"{top}byteorder", b"little"),
        *(Record(f"{top}data/{key}", body) for key, body in storages.items()),
        Record(f"{top}version", b"3\n"),
        Record(f"{top}.data/serialization_id", b"0" * 40),
    ]


def archived(written: Iterable[Record], zip64: bool = True, comment: bytes = b"", **end: int) -> bytes:
    """A zip archive of records, as PyTorch lays one out; `end` are facts of its end in the place of the truth."""
    file, central, count = bytearray(), bytearray(), 0
    for r in written:
        local, raw = (r.local_name or r.name).encode(), r.name.encode()
        at = len(file)
        crc = zlib.crc32(r.body) if r.crc is None else r.crc
        size = len(r.body) if r.size is None else r.size
        packed = size if r.packed is None else r.packed
        padding = -(at + 34 + len(local)) % 64 if r.aligned else None
        extra = b"" if padding is None else b"FB" + struct.pack("<H", padding) + b"Z" * padding
        streamed = bool(r.flags & 8)
        sizes = (0, 0, 0) if streamed else (crc, packed, size)
        file += struct.pack("<4s5H3I2H", b"PK\3\4", 0, r.flags, r.method, 0, 0, *sizes, len(local), len(extra))
        file += local + extra + r.body
        if streamed:
            file += struct.pack("<4s3I", b"PK\7\x08", crc, packed & 0xFFFFFFFF, size & 0xFFFFFFFF)
        place = at if r.header is None else r.header
        central += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 0, 0, r.flags, r.method, 0, 0, crc, packed, size, len(raw), len(r.extra), 0, 0, 0,
            r.kind, place,
        )  # fmt: skip
        central += raw + r.extra
        count += 1
    start = end.get("start", len(file))
    ends_at = len(file) + len(central)
    large = (end.get("count64", count), end.get("count64", count), len(central), end.get("start64", start))
    tail = bytes(central)
    if zip64:
        tail += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 798, 45, 0, 0, *large)
        tail += struct.pack("<4sIQI", b"PK\6\7", 0, ends_at, 1)
    said = end.get("count", count)
    tail += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, said, said, len(central), start, len(comment))
    return bytes(file) + tail + comment


def zipped(*parts: bytes, data: Mapping[str, bytes] | None = None) -> bytes:
    """An archive whose pickle has these parts."""
    return archived(records(pickled(*parts), data))


MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
SYSTEM = pickled(dict_of(protocol_version=number(1001), little_endian=number(True), type_sizes=EMPTY_DICT))


def legacy(
    weights: bytes | None = None,
    keys: Iterable[str] = ("0",),
    storages: bytes = struct.pack("<q", 6) + SIX,
    magic: bytes = MAGIC,
    system: bytes = SYSTEM,
    listed: bytes | None = None,
) -> bytes:
    """A file as PyTorch wrote it before 1.6, with this pickle of weights."""
    held = pickled(dict_of(w=tensor(storage("0", 6, None, NOTHING)))) if weights is None else weights
    listed = listed or pickled(EMPTY_LIST, *(text(key) + APPEND for key in keys))
    return magic + pickled(number(1001)) + system + held + listed + storages
