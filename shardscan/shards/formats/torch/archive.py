"""OPEN, PyTorch's zip files: which records there are and where their bytes lie. Of those only the directory is read.

Promises: records tile the file from its first byte to the directory, which its end points to: nothing lies before,
between, behind or on top of them. They are plain, stored uncompressed and not encrypted, under one folder, no name
twice, and what stands before each record agrees with the directory. So every reader of the file sees the same records
(Python's zipfile takes the last of two names, skips what stands before the archive and believes the directory alone).

Source: PKWARE's APPNOTE 6.3.10; PyTorch's caffe2/serialize/inline_container.cc for what PyTorch writes.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from shardscan.errors import shown
from shardscan.shards.sources.source import StoredFile

END, END64, LOCATOR = Struct("<4s4H2IH"), Struct("<4sQ2H2I4Q"), Struct("<4sIQI")
CENTRAL, LOCAL = Struct("<4s6H3I5H2I"), Struct("<4s5H3I2H")
DESCRIPTORS = (Struct("<4s3I"), Struct("<4sI2Q"), Struct("<3I"), Struct("<I2Q"))
MAX_DIRECTORY = 100_000_000
U16, U32 = 2**16 - 1, 2**32 - 1
ENCRYPTED, STREAMED = 0x2041, 0x8  # bits 0, 6 and 13, each of which encrypts something; bit 3: sizes stand behind
ZIP64 = 1
PICKLE, TORCHSCRIPT = "data.pkl", ("constants.pkl", "code/")


class Record(NamedTuple):
    """A file in the archive: where its bytes are. A `crc` of 0 was not computed, as PyTorch can be told."""

    offset: int
    nbytes: int
    crc: int


@dataclass(frozen=True, slots=True)
class Archive:
    """Its records by their names below `top`, their one folder, in the directory's order; the directory's bytes."""

    top: str
    records: Mapping[str, Record]
    directory: bytes


class _Listed(NamedTuple):
    """A record as the directory has it; `header` is where its local header begins, `sizes` stand there as well."""

    name: bytes
    flags: int
    header: int
    nbytes: int
    crc: int
    sizes: tuple[int, int]


def read_archive(file: StoredFile) -> Archive:
    """Read the directory of a zip file and what stands before each record; ValueError for whatever is wrong."""
    start, length, count = _end(file, file.size)
    directory = _bytes(file, start, length)
    listed = list(_listed(directory, count))
    names = [_checked_name(record.name) for record in listed]
    if len(set(names)) != len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise ValueError(f"has the record {shown(twice)} twice, of which programs read different ones")
    places = dict(zip(names, _places(file, listed, start), strict=True))
    top = _top(names)
    return Archive(top, {name.removeprefix(top): places[name] for name in names}, directory)


def _end(file: StoredFile, size: int) -> tuple[int, int, int]:
    """Where the directory begins, its length, and how many records it has, as the end of the file says."""
    end = size - END.size
    raw = _bytes(file, end, END.size) if end >= 0 else b""
    if raw[:4] != b"PK\5\6" or raw[-2:] != b"\0\0":
        raise ValueError(
            "does not end as a zip archive does: it was cut short or has bytes behind, so download it again"
        )
    _, disk, first_disk, here, count, length, start, _ = END.unpack(raw)
    after = end
    locator = _bytes(file, end - LOCATOR.size, LOCATOR.size) if end >= LOCATOR.size else b""
    if locator[:4] == b"PK\6\7":
        small = (disk, first_disk, here, count, length, start)
        after, (here, count, length, start) = _end64(file, end - LOCATOR.size, locator, small)
    elif U16 in (here, count) or U32 in (length, start):
        raise ValueError("has a zip directory whose size stands nowhere: download it again")
    if disk or first_disk or here != count:
        raise ValueError("is one part of a zip archive in several files, which PyTorch does not write")
    if start + length != after or length < count * CENTRAL.size:
        raise ValueError("has a zip directory that is not where its end says: it was changed, so download it again")
    if length > MAX_DIRECTORY:
        raise ValueError(f"has a zip directory of {length:,} bytes, over the {MAX_DIRECTORY:,} that may be read")
    return start, length, count


def _end64(file: StoredFile, end: int, locator: bytes, small: tuple[int, ...]) -> tuple[int, tuple[int, int, int, int]]:
    """What the zip64 record before the end says, and where it begins; both say the same, as far as 32 bits hold it."""
    _, disk, place, disks = LOCATOR.unpack(locator)
    if disk or disks != 1 or place != end - END64.size:
        raise ValueError("has a zip64 record that is not where its locator says: download it again")
    magic, length, _, _, *large = END64.unpack(_bytes(file, place, END64.size))
    if magic != b"PK\6\6" or length != END64.size - 12:
        raise ValueError("has no zip64 record where its locator says: download it again")
    for value, short, most in zip(large, small, (U16, U16, U16, U16, U32, U32), strict=True):
        if short not in (most, value):
            raise ValueError("has two zip directories, of which programs read different ones: download it again")
    return place, (large[2], large[3], large[4], large[5])


def _listed(directory: bytes, count: int) -> Iterator[_Listed]:
    at = 0
    for _ in range(count):
        raw = directory[at : at + CENTRAL.size]
        if len(raw) < CENTRAL.size or raw[:4] != b"PK\1\2":
            raise ValueError("has a zip directory with fewer records than it claims: download it again")
        _, _, _, flags, method, _, _, crc, packed, nbytes, *lengths, disk, _, kind, header = CENTRAL.unpack(raw)
        name_end = at + CENTRAL.size + lengths[0]
        name = directory[at + CENTRAL.size : name_end]
        extra = directory[name_end : name_end + lengths[1]]
        at = name_end + lengths[1] + lengths[2]
        where = f"has the record {shown(name.decode('utf-8', 'backslashreplace'))}"
        sizes = (packed, nbytes)
        nbytes, packed, header = _large(extra, (nbytes, packed, header), where)
        if flags & ENCRYPTED:
            raise ValueError(f"{where} encrypted, which PyTorch does not write")
        if method or packed != nbytes:
            raise ValueError(
                f"{where} compressed, and PyTorch stores records as they are: save it again with torch.save"
            )
        if stat.S_IFMT(kind >> 16) not in (0, stat.S_IFREG) or disk:
            raise ValueError(f"{where}, which is a link or another special file: PyTorch writes none")
        yield _Listed(name, flags, header, nbytes, crc, sizes)
    if at != len(directory):
        raise ValueError("has a zip directory with more bytes than its records need: download it again")


def _large(extra: bytes, short: tuple[int, int, int], where: str) -> Iterator[int]:
    """Size, packed size and place of a record, of which those that 32 bits do not hold stand in `extra`."""
    large, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = int.from_bytes(extra[at : at + 2], "little"), int.from_bytes(extra[at + 2 : at + 4], "little")
        if kind == ZIP64 and not large:
            large = extra[at + 4 : at + 4 + length]
        at += 4 + length
    for value in short:
        if value != U32:
            yield value
            continue
        if len(large) < 8:
            raise ValueError(f"{where} without its size or place: download it again")
        yield int.from_bytes(large[:8], "little")
        large = large[8:]
    if large:
        raise ValueError(f"{where} whose size or place stands there twice: programs read different ones")


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"has a record whose name is not UTF-8: {shown(raw.decode('latin-1'))}") from None
    if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"has the record {shown(name)}, which is no plain name of a file in the archive")
    return name


def _top(names: list[str]) -> str:
    """The folder that all records are in, with its slash; none where they are in none."""
    there = set(names)
    if not names:
        raise ValueError("is an empty zip archive: download it again")
    first = names[0].partition("/")[0] + "/"
    top = "" if PICKLE in there else first
    if top + PICKLE not in there:
        raise ValueError(f"is a zip archive without {PICKLE}, so it is no PyTorch file that holds weights")
    if stray := [name for name in names if not name.startswith(top)]:
        raise ValueError(f"has the record {shown(stray[0])} outside its folder {shown(top)}: PyTorch writes one folder")
    if code := [name for name in names if name.removeprefix(top).startswith(TORCHSCRIPT)]:
        raise ValueError(
            f"is a TorchScript program (it has {shown(code[0])}) and no state dict: save its state_dict() instead"
        )
    return top


def _places(file: StoredFile, listed: list[_Listed], end: int) -> Iterator[Record]:
    """Where the bytes of every record are, once the local headers agree and nothing overlaps or is left over."""
    order = sorted(range(len(listed)), key=lambda i: listed[i].header)
    records: dict[int, Record] = {}
    expected = 0
    for i, following in zip(order, [*(listed[i].header for i in order[1:]), end], strict=True):
        record = listed[i]
        where = f"has the record {shown(record.name.decode())}"
        if record.header != expected:
            what = (
                "overlaps the one before it" if record.header < expected else "has bytes before it that no record has"
            )
            raise ValueError(f"{where}, which {what}: it begins at {record.header:,} and not at {expected:,}")
        offset = _data(file, record, following, where)
        expected = following
        behind = following - offset - record.nbytes
        if behind < 0:
            raise ValueError(
                f"{where}, which is cut short or overlaps the next: {-behind:,} of its bytes are not its own"
            )
        if behind and not (record.flags & STREAMED and _is_descriptor(file, record, offset + record.nbytes, behind)):
            raise ValueError(f"{where} with {behind:,} bytes behind it that no record has")
        records[i] = Record(offset, record.nbytes, record.crc)
    return (records[i] for i in range(len(listed)))


def _data(file: StoredFile, record: _Listed, following: int, where: str) -> int:
    """Where the bytes of a record begin, behind a local header that says what the directory says."""
    raw = _bytes(file, record.header, min(LOCAL.size + len(record.name), max(0, following - record.header)))
    if len(raw) < LOCAL.size + len(record.name) or raw[:4] != b"PK\3\4":
        raise ValueError(f"{where} and nothing where the directory says that it begins: download it again")
    _, _, flags, method, _, _, crc, packed, nbytes, name_length, extra = LOCAL.unpack(raw[: LOCAL.size])
    unsaid = {0} if flags & STREAMED else set()
    agrees = crc in {record.crc, *unsaid} and all(
        size in {there, U32, *unsaid} for size, there in zip((packed, nbytes), record.sizes, strict=True)
    )
    if raw[LOCAL.size :] != record.name or name_length != len(record.name):
        raise ValueError(f"{where} under another name before its bytes: programs read different ones")
    if flags != record.flags or method or not agrees:
        raise ValueError(f"{where}, and before its bytes stands something else about it: download it again")
    return record.header + LOCAL.size + len(record.name) + int(extra)


def _is_descriptor(file: StoredFile, record: _Listed, at: int, length: int) -> bool:
    """Whether these bytes behind a record are what a writer says there that did not know its size before."""
    form = next((form for form in DESCRIPTORS if form.size == length), None)
    if form is None:
        return False
    *magic, crc, packed, nbytes = form.unpack(_bytes(file, at, length))
    return magic in ([], [b"PK\7\x08"]) and [crc, packed, nbytes] == [record.crc, record.nbytes, record.nbytes]


def _bytes(file: StoredFile, at: int, length: int) -> bytes:
    raw = file.read_at(at, length)
    if len(raw) != length:
        raise ValueError("became shorter while it was read")
    return raw
