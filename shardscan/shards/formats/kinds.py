"""OPEN, its container formats: which there are, and which of them a file is.

A `.safetensors` file is read as one or refused, whatever is in it: it never becomes a pickle. What any other file is,
is told by how it begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from shardscan.errors import HeaderError, shown
from shardscan.shards.formats.container import PLAIN, Container, FileOptions, Numbered
from shardscan.shards.formats.safetensors import SAFETENSORS
from shardscan.shards.formats.torch import PYTORCH
from shardscan.shards.header import Header
from shardscan.shards.sources.schemes import source_of
from shardscan.shards.sources.source import StoredFile

CONTAINERS: tuple[Container, ...] = (SAFETENSORS, PYTORCH)  # those that are read rather first, the wariest last


def container_called(name: str) -> Container:
    """The format that stores and headers call `name`."""
    return next(container for container in CONTAINERS if container.name == name)


def container_of_name(file: str) -> Container | None:
    """The format that the ending of a file's name stands for."""
    return next((container for container in CONTAINERS if file.endswith(container.endings)), None)


def container_of_index(file: str) -> Container:
    """The format of the shards of an index, by the ending of its name."""
    return next((container for container in CONTAINERS if container.has_index(file)), CONTAINERS[0])


def container_of_folder(names: Iterable[str]) -> Container:
    """The format in which a folder's model is read: the first of which there is any file or index, else the last."""
    names = list(names)
    has_any = (c for c in CONTAINERS if any(name.endswith((*c.endings, c.index)) for name in names))
    return next(has_any, CONTAINERS[-1])


def wariest(containers: Iterable[str]) -> str:
    """Of the names of formats the one that needs most care; of none the first there is."""
    present = set(containers)
    return next((container.name for container in reversed(CONTAINERS) if container.name in present), CONTAINERS[0].name)


def is_weights(name: str) -> bool:
    """Whether a file's name is that of a shard or of an index, of any format."""
    return any(container.has_shard(name) or container.has_index(name) for container in CONTAINERS)


def parse_number(name: str) -> Numbered | None:
    """The parts of the name of a numbered shard of any format."""
    return next((part for container in CONTAINERS if (part := container.parse_number(name))), None)


def name_containers() -> str:
    """The titles of all formats, as a sentence has them: safetensors or PyTorch."""
    *others, last = (container.title for container in CONTAINERS)
    return f"{', '.join(others)} or {last}" if others else last


def read_header(address: str, options: FileOptions = PLAIN, *, container: Container | None = None) -> Header:
    """Read the header of the file at an address; HeaderError with one sentence for whatever is wrong with it.

    A `container` that is given is the one that it is read as, whatever the file is.
    """
    source = source_of(address)
    try:
        with source.open_file(address) as file:
            if container:
                return container.read_header(file, options)
            return _read(file, container_of_name(address), options)
    except ValueError as error:
        raise HeaderError(f"{shown(address, 400)} {error}.") from None
    except OSError as error:
        raise HeaderError(f"{shown(address, 400)} cannot be read: {error.strerror or error}.") from None


def _read(file: StoredFile, named: Container | None, options: FileOptions) -> Header:
    """Read the header of an open file, whose name may stand for a format."""
    if named and named.is_told_by_name:
        return named.read_header(file, options)
    start = file.read_at(0, 16)
    begun = next((container for container in reversed(CONTAINERS) if container.begins(start)), None)
    container = begun or named or CONTAINERS[0]
    header = container.read_header(file, options)
    if named in (None, container):
        return header
    return replace(header, notes=(f"it is a {container.title} file, whatever its name says", *header.notes))
