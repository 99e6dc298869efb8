"""OPEN: shard files become tensors with an address. `open` is the one way in; the first step of the flow.

Promises: a checkpoint that comes back is whole: every shard is there and its size is what its header says, every tensor
has one place and a shape that 64-bit integers can hold, and what the index lists exists. Only headers were read. What
is legal and odd is in `Checkpoint.notes`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from shardscan.errors import CheckpointError, ShardIndexError, shown
from shardscan.shards.address import Checkpoint, ShardFile, Tensor, Window
from shardscan.shards.disks import mapping
from shardscan.shards.folder import Listing, find, read_config
from shardscan.shards.safetensors import Header, read_header, these_have

__all__ = ["Checkpoint", "ShardFile", "Tensor", "Window", "open"]


def open(path: str | os.PathLike[str], name: str | None = None, io: str = "auto") -> Checkpoint:
    """Every tensor of the checkpoint at `path`: a .safetensors file, an index.json, a folder, or a hub cache's folder.

    `name` is the model's name; without it, org/model of a hub cache, else the folder's name, else the file's. `io` says
    how windows will be read: 'mmap' maps them, 'read' does not, 'auto' maps what is on a local disk. Raises
    CheckpointNotFound where nothing is to be read, ShardIndexError for an index that is wrong or disagrees with its
    shards, HeaderError for a shard that breaks its format, and CheckpointError for anything else.
    """
    is_mapped = mapping(io)
    if name is not None and not name.strip():
        raise CheckpointError("A model needs a name that is not empty.")
    listing = find(os.fspath(path))
    name = listing.name if name is None else name
    if not _is_text(name):
        raise CheckpointError(
            f"The model's name {shown(name)} is not valid Unicode text: rename its folder, or give a name with --name."
        )
    shards = tuple(_shard(listing.folder, file) for file in listing.shards)
    if listing.weight_map is not None:
        _check_index(listing, listing.weight_map, shards)
    tensors, unlisted = _tensors(listing, shards, is_mapped)
    config, config_notes = read_config(listing)
    headers = (f"{shown(file.name)}: {note}" for file, header in shards for note in header.notes)
    return Checkpoint(
        path=os.fsencode(listing.path).decode(errors="backslashreplace"),
        name=name,
        format="safetensors",
        files=tuple(file for file, _ in shards),
        tensors=tensors,
        config=config,
        notes=(*listing.notes, *headers, *_holes(shards), *unlisted, *_total_size(listing, tensors), *config_notes),
    )


def _is_text(name: str) -> bool:
    # a name of bytes that are not UTF-8 has lone surrogates in Python, which no table holds
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _shard(folder: str, name: str) -> tuple[ShardFile, Header]:
    path = str(Path(folder, name))
    if not _is_text(name):
        raise CheckpointError(f"{shown(path, 400)} has a name that is not valid Unicode text: rename it.")
    header = read_header(path)
    sizes = (header.nbytes, header.header_nbytes)
    file = ShardFile(name, os.path.realpath(path), *sizes, header.digest, len(header.tensors), header.seen)
    return file, header


def _check_index(listing: Listing, weight_map: Mapping[str, str], shards: tuple[tuple[ShardFile, Header], ...]) -> None:
    """Every tensor that the index lists is in the shard that it says."""
    held = {file.name: {entry.name for entry in header.tensors} for file, header in shards}
    missing = [name for name, shard in weight_map.items() if name not in held[shard]]
    if missing:
        others = [shard for shard, names in held.items() if missing[0] in names]
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        there = f"it is in {shown(others[0])}" if others else "no shard has it"
        shard = weight_map[missing[0]]
        raise ShardIndexError(
            f"{shown(listing.index or '', 400)} lists the tensor {shown(missing[0])}{more} in {shown(shard)}, "
            f"but {there}: download the index and its shards again, of one revision."
        )


def _tensors(
    listing: Listing, shards: tuple[tuple[ShardFile, Header], ...], is_mapped: Callable[[int], bool]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Every tensor once, in the order of shards and headers, and notes on those that the index does not list."""
    tensors: dict[str, Tensor] = {}
    weight_map = listing.weight_map or {}
    unlisted, copies = [], []
    for file, header in shards:
        where, mapped = (file.name, file.path), is_mapped(file.seen[0])
        for entry in header.tensors:
            if weight_map.get(entry.name, file.name) != file.name:
                copies.append(entry.name)
                continue
            if entry.name in tensors:
                first = tensors[entry.name].file
                raise ShardIndexError(
                    f"The tensor {shown(entry.name)} is in both {shown(first)} and {shown(file.name)} of "
                    f"{shown(listing.folder, 400)}, and no index says which one counts: give the path of one shard."
                )
            if listing.weight_map is not None and entry.name not in weight_map:
                unlisted.append(entry.name)
            offset, nbytes = header.header_nbytes + entry.begin, entry.end - entry.begin
            tensors[entry.name] = Tensor(entry.name, entry.dtype, entry.shape, *where, offset, nbytes, mapped)
    notes = (
        (unlisted, "no place in the index and counted all the same"),
        (copies, "a copy in a second shard, where the index does not want it: that one was left out"),
    )
    return tensors, tuple(f"{these_have(names)} {what}" for names, what in notes if names)


def _holes(shards: tuple[tuple[ShardFile, Header], ...]) -> tuple[str, ...]:
    """A note on shards that are not on disk for the most part: an unfinished download, or a header for tests."""
    found = [(file, header.on_disk) for file, header in shards if header.on_disk is not None]
    if not found:
        return ()
    first = shown(found[0][0].name)
    which, its = (first, "its") if len(found) == 1 else (f"{len(found)} shards, like {first}", "their")
    there, total = sum(n for _, n in found), sum(file.nbytes for file, _ in found)
    return (f"{which}: only {there:,} of {its} {total:,} bytes are on disk: the rest is a hole that reads as zeros",)


def _total_size(listing: Listing, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    total, found = listing.total_size, sum(tensor.nbytes for tensor in tensors.values())
    if total is None or (type(total) is int and total == found):
        return ()
    return (f"the index claims a total_size of {repr(total)[:40]} where its tensors have {found} bytes",)
