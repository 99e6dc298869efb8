"""OPEN, its schemes: which source reads an address. What has no scheme is on a disk of this machine."""

from __future__ import annotations

import re

from shardscan.errors import CheckpointNotFound, shown
from shardscan.shards.sources.local import LOCAL
from shardscan.shards.sources.source import Source

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

SOURCES: dict[str, Source] = {"": LOCAL}


def scheme_of(address: str) -> str:
    """`toy` of toy://place/name; empty of a path."""
    scheme = SCHEME.match(address)
    return scheme[1].lower() if scheme else ""


def source_of(address: str) -> Source:
    """The source that reads an address; CheckpointNotFound where nothing here does."""
    source = SOURCES.get(scheme_of(address))
    if source is None:
        others = "".join(f", and {scheme}://" for scheme in SOURCES if scheme)
        raise CheckpointNotFound(
            f"{shown(address, 400)} is not there for shardscan, which reads no {scheme_of(address)}:// addresses: give "
            f"a .safetensors or PyTorch file, a model's folder or a hub cache's, all on this machine{others}."
        )
    return source
