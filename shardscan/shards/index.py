"""OPEN, an index: which shard of a folder has which tensor, as strangers wrote it.

Promises: a shard is a plain name of a file in the folder, spelt as on disk; its links are followed, since a hub cache
is made of them. URLs, globs and paths out of the folder are refused, and so are two names of one file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from shardscan.errors import shown
from shardscan.shards.sources.schemes import source_of
from shardscan.shards.sources.source import is_below, join
from shardscan.shards.strict_json import MAX_DEPTH, count_depth, parse_json

MAX_JSON = 100_000_000
# what an index is to whoever reads: see `shardscan.shards.checkpoint.open`
AUTO, FOLLOW, IGNORE = "auto", "follow", "ignore"
INDEX_WORDS = (AUTO, FOLLOW, IGNORE)


class Absent(ValueError):
    """A shard that an index names and that is not there: all else that a name may be is wrong in itself."""


class Refusal(NamedTuple):
    """A shard that an index must not name, and why: the end of a sentence."""

    shard: str
    why: str
    is_absent: bool = False


class Index(NamedTuple):
    """The shard of each tensor, what the index claims as their size in all, and what is odd about it."""

    weight_map: dict[str, str]
    total_size: Any
    notes: tuple[str, ...]


def read_index(address: str) -> Index:
    """Read an index.json; ValueError, with the end of a sentence, or OSError where it cannot be."""
    text = source_of(address).read_small(address, MAX_JSON)
    document = parse_json(text.removeprefix("\ufeff"))
    if count_depth(document) > MAX_DEPTH:
        raise ValueError("nests its JSON too deeply")
    weight_map = _weight_map(document)
    notes = ["the index begins with a byte order mark"] if text.startswith("\ufeff") else []
    metadata = document.get("metadata", {})
    if not isinstance(metadata, dict):
        notes.append("the index has metadata that is not an object")
        metadata = {}
    return Index(weight_map, metadata.get("total_size"), tuple(notes))


def _weight_map(document: Any) -> dict[str, str]:
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict):
        raise ValueError("has no weight_map that is an object of tensors and their shards")
    if not weight_map:
        raise ValueError("has an empty weight_map: an index of nothing")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise ValueError(f"gives the tensor {shown(tensor)} a shard that is not a file's name")
    return {tensor: shard.removeprefix("./") for tensor, shard in weight_map.items()}


def refused_shards(
    folder: str, shards: Iterable[str], endings: tuple[str, ...], names: Callable[[str], Iterable[str]]
) -> Iterator[Refusal]:
    """The shards that an index must not name; `names` lists a folder."""
    source = source_of(folder)
    listed = cache(lambda address: frozenset(names(address)))
    first_of: dict[object, str] = {}
    for shard in shards:
        try:
            _check_shard_name(folder, shard, endings, listed)
        except ValueError as error:
            yield Refusal(shard, str(error), isinstance(error, Absent))
            continue
        address = join(folder, shard)
        if source.find_kind(address) == "nothing":
            continue  # a dangling link: reading it says so
        first = first_of.setdefault(source.identify(address), shard)
        if first != shard:
            same = f"names {shown(first)} and {shown(shard)}, which are one and the same file: download them again"
            yield Refusal(shard, same)


def _check_shard_name(
    folder: str, shard: str, endings: tuple[str, ...], names: Callable[[str], frozenset[str]]
) -> None:
    parts = shard.split("/")
    if "\\" in shard:
        raise ValueError(f"names {shown(shard)} with a backslash: in an index folders end in /")
    if not shard.endswith(endings) or ":" in shard or not shard.isprintable():
        raise ValueError(f"names {shown(shard)}, which is not a {endings[0]} file of this folder")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"names {shown(shard)}, which lies outside this folder")
    source, here = source_of(folder), folder
    for i, part in enumerate(parts):
        if source.find_kind(here) != "folder" or part not in names(here):  # a disk that ignores case would find more
            raise Absent(f"names {shown(shard)}, which is not there: download it, or correct the index")
        here = join(here, part)
        if i < len(parts) - 1 and not is_below(source.resolve(here), source.resolve(folder)):
            raise ValueError(f"names {shown(shard)}, whose folder is a link out of this one")
