"""OPEN, PyTorch's checksums: whether the records of a zip file are what was written. Reads all of them, in pieces."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

from shardscan.errors import shown
from shardscan.shards.formats.torch.archive import Record, read_archive
from shardscan.shards.strict_json import opened

PIECE = 1 << 24


def damaged_records(path: str) -> Iterator[str]:
    """A sentence for every record whose bytes have another checksum than was written with them.

    Records without one are not read, and nor are legacy files, which have none. Raises ValueError and OSError.
    """
    with opened(path) as file:
        if file.read(4) != b"PK\3\4":
            return
        archive = read_archive(file)
        for name, record in archive.records.items():
            if record.crc and _checksum(file.fileno(), record) != record.crc:
                yield f"The bytes of its record {shown(name)} are not those that were written: download it again."


def _checksum(fd: int, record: Record) -> int:
    found, at, end = 0, record.offset, record.offset + record.nbytes
    while at < end:
        some = os.pread(fd, min(PIECE, end - at), at)
        if not some:
            raise ValueError("became shorter while it was read")
        found = zlib.crc32(some, found)
        at += len(some)
    return found
