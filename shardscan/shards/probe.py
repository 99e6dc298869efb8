"""OPEN, its memory: what tells one checkpoint from another without reading it all.

Headers alone do not: a fine-tuned model has its base model's. So each file also gives a few dozen pages, evenly spread.
A change between those pages shows in the witness, unless somebody hides it; then content hashes decide.
"""

from __future__ import annotations

import os
from pathlib import Path

import xxhash

from shardscan.errors import CheckpointError
from shardscan.shards.address import Checkpoint

PAGES, PAGE = 64, 4096


def probe(checkpoint: Checkpoint) -> str:
    """A hash of every file's name, size, header and up to 64 pages of its data; the folder's place does not count."""
    digest = xxhash.xxh3_128()
    for file in checkpoint.files:
        digest.update(f"{file.name} {file.nbytes} {file.header_digest}\n".encode("utf-8", "surrogatepass"))
        data = file.nbytes - file.header_nbytes
        fd = os.open(file.path, os.O_RDONLY)
        try:
            for i in range(PAGES):
                digest.update(os.pread(fd, PAGE, file.header_nbytes + max(0, data - PAGE) * i // (PAGES - 1)))
        except OSError as error:
            raise CheckpointError(f"{file.name} cannot be read: {error.strerror}.") from error
        finally:
            os.close(fd)
    return digest.hexdigest()


def witness(checkpoint: Checkpoint) -> dict[str, list[int]]:
    """What `look` sees of every file, by its name."""
    return {file.name: look(file.path) for file in checkpoint.files}


def look(path: str) -> list[int]:
    """Device, inode, size and time of a file: equal only if nobody wrote to it; a copy differs."""
    stat = Path(path).stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns]
