"""OPEN: shard files become tensors with an address. `open` is the one way in; the first step of the flow.

Promises: a checkpoint that comes back is whole: every shard is there and its size is what its header says, every tensor
has one place and a shape that 64-bit integers can hold, and what the index lists exists. Only headers were read. What
is legal and odd is in `Checkpoint.notes`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from shardscan.errors import CheckpointError, ShardIndexError, shown
from shardscan.shards.address import Checkpoint, ShardFile, Tensor, Window
from shardscan.shards.coverage import covered
from shardscan.shards.folder import Listing, list_shards, read_config
from shardscan.shards.formats.container import PLAIN, FileOptions
from shardscan.shards.formats.kinds import read_header, wariest
from shardscan.shards.header import Entry, Header, these_have
from shardscan.shards.index import AUTO, FOLLOW
from shardscan.shards.refusals import Fault, Report, refuse
from shardscan.shards.sources.schemes import source_of
from shardscan.shards.sources.source import Witness, join

__all__ = ["Checkpoint", "Fault", "Inspected", "Shard", "ShardFile", "Tensor", "Window", "inspect", "open"]


class Shard(NamedTuple):
    """A file whose header obeys every rule, that header, and whether the file may be mapped."""

    file: ShardFile
    header: Header
    mapped: bool

    def tensor(self, entry: Entry) -> Tensor:
        """Where the bytes of an entry are."""
        where = (self.file.name, self.file.path, self.header.body + entry.begin, entry.nbytes, self.mapped)
        return Tensor(entry.name, entry.dtype, entry.shape, *where, entry.strides)


@dataclass(frozen=True, slots=True)
class Inspected:
    """What can be read of a checkpoint: its shards, every tensor once, and what is odd about them together.

    `unlisted` are tensors that the index does not list, `copies` (name, shard) of those that it wants from another.
    """

    listing: Listing
    shards: tuple[Shard, ...]
    tensors: Mapping[str, Tensor]
    unlisted: tuple[str, ...]
    copies: tuple[tuple[str, str], ...]

    @property
    def total_size(self) -> str | None:
        """A note on a total_size that is not true; of tensors that share bytes both ways to count are in use."""
        claimed, stored = self.listing.total_size, sum(tensor.nbytes for tensor in self.tensors.values())
        used = sum(shard.file.used_nbytes for shard in self.shards)
        if claimed is None or (type(claimed) is int and claimed in (stored, used)):
            return None
        return f"the index claims a total_size of {repr(claimed)[:40]} where its tensors have {stored} bytes"


def open(
    path: str | os.PathLike[str],
    name: str | None = None,
    io: str = "auto",
    *,
    options: FileOptions = PLAIN,
    index: str = AUTO,
) -> Checkpoint:
    """Every tensor of the checkpoint at `path`: a shard's file, an index.json, a folder, or a hub cache's folder.

    `name` is the model's name; without it, org/model of a hub cache, else the folder's name, else the file's. `io` says
    how windows will be read: 'mmap' maps them, 'read' does not, 'auto' maps what is on a local disk. `options` says
    what is read of files that hold more than tensors. `index` is what a folder's index is for: 'auto' reads whole
    shards and notes where it says otherwise, unless it is needed to tell two tensors of one name apart; 'follow'
    refuses whatever contradicts it; 'ignore' reads the shards.
    Raises CheckpointNotFound where nothing is to be read, ShardIndexError for an index that is wrong or disagrees with
    its shards, HeaderError for a shard that breaks its format, and CheckpointError for anything else.
    """
    if name is not None and not name.strip():
        raise CheckpointError("A model needs a name that is not empty.")
    doubtless: list[str] = []

    def judge(fault: Fault) -> None:
        if index == FOLLOW or not fault.leaves_no_doubt:
            refuse(fault)
        doubtless.append(str(fault.error).rstrip("."))

    inspected = inspect(path, judge, io, options=options, index=index)
    name = inspected.listing.name if name is None else name
    if not _is_text(name):
        raise CheckpointError(
            f"The model's name {shown(name)} is not valid Unicode text: rename its folder, or give a name with --name."
        )
    config, config_notes = read_config(inspected.listing)
    return Checkpoint(
        path=os.fsencode(inspected.listing.path).decode(errors="backslashreplace"),
        name=name,
        format=wariest(header.format for _, header, _ in inspected.shards),
        files=tuple(file for file, _, _ in inspected.shards),
        tensors=inspected.tensors,
        config=config,
        notes=(*doubtless, *_notes(inspected), *config_notes),
    )


def inspect(
    path: str | os.PathLike[str],
    report: Report,
    io: str = "auto",
    *,
    options: FileOptions = PLAIN,
    index: str = AUTO,
) -> Inspected:
    """Read every header at `path`, as `open` does, and `report` each fault; what is whole comes back.

    Raises CheckpointNotFound where nothing is to be read.
    """
    address = os.fspath(path)
    is_mapped = source_of(address).decide_mapping(io)
    listing = list_shards(address, report, index)
    shards = tuple(_shards(listing, is_mapped, report, options))
    if listing.weight_map is not None:
        elsewhere = _check_index(listing, listing.weight_map, shards, report)
        listing = replace(listing, weight_map={**listing.weight_map, **elsewhere})
    tensors, unlisted, copies = _tensors(listing, shards, report)
    return Inspected(listing, shards, tensors, tuple(unlisted), tuple(copies))


def _is_text(name: str) -> bool:
    # a name of bytes that are not UTF-8 has lone surrogates in Python, which no table holds
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _shards(
    listing: Listing, is_mapped: Callable[[Witness], bool], report: Report, options: FileOptions
) -> Iterator[Shard]:
    for name in listing.shards:
        try:
            yield _shard(listing, name, is_mapped, options)
        except CheckpointError as error:
            report(Fault(error, "header", name))


def _shard(listing: Listing, name: str, is_mapped: Callable[[Witness], bool], options: FileOptions) -> Shard:
    path = join(listing.folder, name)
    if not _is_text(name):
        raise CheckpointError(f"{shown(path, 400)} has a name that is not valid Unicode text: rename it.")
    header = read_header(path, options)
    weight_map = listing.weight_map or {}
    used = covered(entry for entry in header.tensors if weight_map.get(entry.name, name) == name)
    sizes = (header.nbytes, header.header_nbytes, header.data_nbytes, used)
    file = ShardFile(name, source_of(path).resolve(path), *sizes, header.digest, len(header.tensors), header.seen)
    return Shard(file, header, is_mapped(header.seen))


def _check_index(
    listing: Listing, weight_map: Mapping[str, str], shards: tuple[Shard, ...], report: Report
) -> Mapping[str, str]:
    """Every tensor that the index lists is in the shard that it says; of shards that cannot be read nobody knows.

    Where the others are, of those that one shard alone has.
    """
    listed_in = {file.name: {entry.name for entry in header.tensors} for file, header, _ in shards}
    missing = [(name, shard) for name, shard in weight_map.items() if name not in listed_in.get(shard, (name,))]
    having = {name: [file for file, names in listed_in.items() if name in names] for name, _ in missing}
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, shard in missing:
        together.setdefault((shard, tuple(having[name])), []).append(name)
    for (shard, others), names in together.items():
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        there = f"it is in {shown(others[0])}" if others else "no shard has it"
        error = ShardIndexError(
            f"{shown(listing.index or '', 400)} lists the tensor {shown(names[0])}{more} in {shown(shard)}, "
            f"but {there}: download the index and its shards again, of one revision."
        )
        report(Fault(error, "index", shard, names[0], leaves_no_doubt=len(others) < 2))
    return {name: files[0] for name, files in having.items() if len(files) == 1}


def _tensors(
    listing: Listing, shards: tuple[Shard, ...], report: Report
) -> tuple[dict[str, Tensor], list[str], list[tuple[str, str]]]:
    """Every tensor once, in the order of shards and headers, what the index does not list, and second copies."""
    tensors: dict[str, Tensor] = {}
    weight_map = listing.weight_map or {}
    unlisted, copies = [], []
    for shard in shards:
        here = shard.file.name
        for entry in shard.header.tensors:
            if weight_map.get(entry.name, here) != here:
                copies.append((entry.name, here))
                continue
            if entry.name in tensors:
                error = ShardIndexError(
                    f"The tensor {shown(entry.name)} is in both {shown(tensors[entry.name].file)} and {shown(here)} of "
                    f"{shown(listing.folder, 400)}, and no index says which one counts: give the path of one shard."
                )
                report(Fault(error, "duplicate", here, entry.name))
                continue
            if listing.weight_map is not None and entry.name not in weight_map:
                unlisted.append(entry.name)
            tensors[entry.name] = shard.tensor(entry)
    return tensors, unlisted, copies


def _notes(inspected: Inspected) -> Iterator[str]:
    """What is legal and odd, as whoever opens a checkpoint hears of it."""
    yield from inspected.listing.notes
    yield from map(str, inspected.listing.left_out)
    yield from (f"{shown(file.name)}: {note}" for file, header, _ in inspected.shards for note in header.notes)
    yield from _holes(inspected.shards)
    if inspected.unlisted:
        yield f"{these_have(inspected.unlisted)} no place in the index and counted all the same"
    if names := [name for name, _ in inspected.copies]:
        yield f"{these_have(names)} a copy in a second shard, where the index does not want it: that one was left out"
    if inspected.total_size:
        yield inspected.total_size


def _holes(shards: tuple[Shard, ...]) -> Iterator[str]:
    """A note on shards that are not on disk for the most part: an unfinished download, or a header for tests."""
    sparse = [(file, header.on_disk) for file, header, _ in shards if header.on_disk is not None]
    if sparse:
        first = shown(sparse[0][0].name)
        which, its = (first, "its") if len(sparse) == 1 else (f"{len(sparse)} shards, like {first}", "their")
        there, total = sum(n for _, n in sparse), sum(file.nbytes for file, _ in sparse)
        yield f"{which}: only {there:,} of {its} {total:,} bytes are on disk: the rest is a hole that reads as zeros"
