"""OPEN, its readers: which of them reads a file.

A `.safetensors` file is read as one or refused, whatever is in it: it never becomes a pickle. What any other file is,
is told by how it begins.
"""

from __future__ import annotations

from dataclasses import replace

from shardscan.errors import HeaderError, shown
from shardscan.shards.formats import safetensors, torch
from shardscan.shards.header import Header
from shardscan.shards.strict_json import opened

SAFETENSORS = ".safetensors"
PYTORCH = (".bin", ".pt", ".pth")


def read_header(path: str, *, pickled_module: bool = False) -> Header:
    """Read the header of the file at `path`; HeaderError with one sentence for whatever is wrong with it.

    `pickled_module` lets a PyTorch file name the classes of a whole module; see `shardscan.shards.formats.torch`.
    """
    if path.endswith(SAFETENSORS):
        return safetensors.read_header(path)
    try:
        with opened(path) as file:
            start = file.read(16)
    except (ValueError, OSError) as error:
        raise HeaderError(f"{shown(path, 400)} {error}.") from None
    is_safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= safetensors.MAX_HEADER
    if torch.is_torch(start) or (path.endswith(PYTORCH) and not is_safetensors):
        return torch.read_header(path, pickled_module=pickled_module)
    header = safetensors.read_header(path)
    if not path.endswith(PYTORCH):
        return header
    return replace(header, notes=("it is a safetensors file, whatever its name says", *header.notes))
