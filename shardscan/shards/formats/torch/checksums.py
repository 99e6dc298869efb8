"""OPEN, PyTorch's checksums: whether the records of a zip file are what was written. Reads all of them, in pieces."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from shardscan.errors import shown
from shardscan.shards.formats.torch.archive import Record, read_archive
from shardscan.shards.sources.source import StoredFile

PIECE = 1 << 24


def damaged_records(file: StoredFile) -> Iterator[str]:
    """A sentence for every record whose bytes have another checksum than was written with them.

    Records without one are not read, and nor are legacy files, which have none. Raises ValueError and OSError.
    """
    if file.read_at(0, 4) != b"PK\3\4":
        return
    archive = read_archive(file)
    for name, record in archive.records.items():
        if record.crc and _checksum(file, record) != record.crc:
            yield f"The bytes of its record {shown(name)} are not those that were written: download it again."


def _checksum(file: StoredFile, record: Record) -> int:
    checksum, at, end = 0, record.offset, record.offset + record.nbytes
    while at < end:
        piece = file.read_at(at, min(PIECE, end - at))
        if not piece:
            raise ValueError("became shorter while it was read")
        checksum = zlib.crc32(piece, checksum)
        at += len(piece)
    return checksum
