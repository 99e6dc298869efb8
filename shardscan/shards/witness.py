"""OPEN, its memory: what tells one checkpoint from another without reading it all.

Headers alone do not: a fine-tuned model has its base model's. So each file also gives a few dozen pages, evenly spread.
A change between those pages shows in the witness, unless somebody hides it; then content hashes decide. The witness of
a file is taken when its header is read: what is not that file any more, or was written to since, is not mixed with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from shardscan.errors import CheckpointError, shown
from shardscan.shards.address import Checkpoint
from shardscan.shards.sources.schemes import source_of

PAGES, PAGE = 64, 4096


def probe_files(checkpoint: Checkpoint) -> str:
    """A hash of every file's name, size, header and up to 64 pages of its data; the folder's place does not count."""
    digest = xxhash.xxh3_128()
    for file in checkpoint.files:
        digest.update(f"{file.name} {file.nbytes} {file.header_digest}\n".encode("utf-8", "surrogatepass"))
        data = file.nbytes - file.header_nbytes
        try:
            with source_of(file.path).open_file(file.path) as pages:
                for i in range(PAGES):
                    place = file.header_nbytes + max(0, data - PAGE) * i // (PAGES - 1)
                    digest.update(pages.read_at(place, PAGE))
        except ValueError as error:
            raise CheckpointError(f"{shown(file.path, 400)} {error}.") from error
        except OSError as error:
            raise CheckpointError(f"{shown(file.path, 400)} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def list_witnesses(checkpoint: Checkpoint) -> dict[str, list[int]]:
    """What was seen of every file when its header was read, by its name."""
    return {file.name: list(file.seen) for file in checkpoint.files}


def is_as_seen(address: str, before: Sequence[int]) -> bool:
    """Whether a file is there and still what a witness saw; its device has another number on each node of a cluster."""
    try:
        return list(source_of(address).take_witness(address))[1:] == list(before)[1:]
    except OSError:
        return False
