"""OPEN, its memory: what tells one checkpoint from another without reading it all.

Headers alone do not: a fine-tuned model has its base model's. So each file also gives a few dozen pages, evenly spread.
A change smaller than that is for the content hashes of the full pass to find.
"""

from __future__ import annotations

import os

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
