"""OPEN, one container format: PyTorch's files (`torch.save`), without PyTorch and without running anything.

Promises: what a file names is never imported, called or opened, whatever it is; what is no name of a tensor's is
refused by its name. With `pickled_module` the classes of a whole nn.Module are inert names, of which only the tensors
in their attributes are read. A header that is returned was checked against the file: every storage is there, stored as
it is, has the length that the pickle says, and holds all of its tensors. Nothing blocks, time and memory are bounded.

    zip:     TOP/data.pkl, the pickle | TOP/data/KEY, one storage each | TOP/byteorder, … | the directory
    legacy:  five pickles, the fourth of which has the tensors | the storages, each behind its length
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import xxhash

from shardscan.errors import shown
from shardscan.shards.coverage import covered
from shardscan.shards.formats.container import Container, FileOptions, choose_named_shards
from shardscan.shards.formats.torch.archive import PICKLE, Archive, Record, read_archive
from shardscan.shards.formats.torch.checksums import damaged_records
from shardscan.shards.formats.torch.legacy import START, read_legacy
from shardscan.shards.formats.torch.opcodes import MAX_PICKLE, interpret
from shardscan.shards.formats.torch.permissions import Modules, UnknownName, Weights
from shardscan.shards.formats.torch.state import find_weights
from shardscan.shards.formats.torch.values import Storage, Strided
from shardscan.shards.header import Entry, Header, oddities, these_have
from shardscan.shards.sources.source import StoredFile

ZIP = b"PK\3\4"
DATA, BYTEORDER = "data/", "byteorder"
KNOWN = {PICKLE, BYTEORDER, "version", ".format_version", ".storage_alignment", ".data/serialization_id"}
MOST_TIMES, LEAST_BYTES = 64, 64 << 20  # tensors that share bytes are at most so many times the file, or so many bytes
MAX_TENSORS, MAX_NAME = 1_000_000, 10_000
# what training leaves beside the weights
NO_WEIGHTS = re.compile(
    r"(?i)(optimizer|scheduler|training_args|rng_state|random_states|scaler|sampler|dataloader|.*optim_states).*"
)
SIGNS_OF_A_MODULE = (b"_parameters", b"_modules")
IMPOSTORS = (
    (b"version https://git-lfs", "is a git-lfs pointer and not the file itself: fetch it with `git lfs pull`"),
    (b"<", "is a web page or XML and no PyTorch file: the download got an error page, so download it again"),
    (b"PK\5\6", "is an empty zip archive: download it again"),
    (b"7z\xbc\xaf", "is a 7-Zip archive and no PyTorch file"),
    (b"\x1f\x8b", "is compressed with gzip: decompress it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstandard: decompress it first"),
    (b"GGUF", "is a GGUF file and no PyTorch file"),
    (b"\x80", "is a Python pickle and no PyTorch file: nothing of it was run"),
    (bytes(8), "begins with zero bytes: the download never finished, so download it again"),
)


class _Body(NamedTuple):
    """What a file holds: its weights, where its storages begin, and what was read to know it."""

    tensors: dict[str, Strided]
    places: Mapping[str, int]
    header_nbytes: int
    data_nbytes: int
    digest: str
    notes: tuple[str, ...]


def is_torch(start: bytes) -> bool:
    """Whether a file that begins like this is to be read as PyTorch's: it is a zip archive or a pickle."""
    return start.startswith((ZIP, b"\x80"))


def read_header(file: StoredFile, options: FileOptions) -> Header:
    """Read which tensors a file has; ValueError, the end of a sentence, for whatever is wrong with it, and OSError."""
    start = file.read_at(0, 512)
    if not start:
        raise ValueError("is empty: download it again")
    if start.startswith(ZIP):
        body = _zip(file, options)
    elif start.startswith(START):
        body = _legacy(file, options)
    else:
        raise ValueError(_no_torch(start))
    entries = tuple(_entry(name, tensor, body.places) for name, tensor in body.tensors.items())
    _check_amount(entries, file.size)
    unused = body.data_nbytes - covered(entries)
    notes = (*body.notes, *_sharing(body.tensors), *_unused(body, unused), *oddities(entries))
    sizes = (0, body.header_nbytes, file.size, body.data_nbytes)
    return Header("pytorch", entries, *sizes, body.digest, {}, notes, file.on_disk, file.witness)


def _no_torch(start: bytes) -> str:
    if start[257:262] == b"ustar":
        return "is a tar archive, as PyTorch wrote before 0.1.10, or something else: save it again with torch.save"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        return "is a safetensors file: give it the ending .safetensors"
    sentences = (
        sentence for magic, sentence in IMPOSTORS if start.startswith(magic) or start.lstrip().startswith(magic)
    )
    return next(sentences, "is no PyTorch file: it begins neither like a zip archive nor like PyTorch's pickles")


def _world(*, pickled_module: bool, has_sources: bool) -> Weights:
    return Modules(has_sources=has_sources) if pickled_module else Weights()


def _zip(file: StoredFile, options: FileOptions) -> _Body:
    archive = read_archive(file)
    data = _pickle(file, archive)
    if BYTEORDER in archive.records and _content(file, archive.records[BYTEORDER], 16) != b"little":
        raise ValueError("was written by a machine of another byte order: save it again on one of today's")
    world = _world(pickled_module=options.pickled_module, has_sources=False)
    try:
        value, end = interpret(data, world)
    except UnknownName as error:
        raise ValueError(f"{error}{_hint(data)}") from None
    if end != len(data):
        raise ValueError(f"has {len(data) - end:,} bytes behind the end of its pickle, which nothing reads")
    places = {storage.key: _place(storage, archive.records) for storage in world.storages.values()}
    weights = find_weights(value, options.state)
    digest = _begin_digest(options)
    digest.update(data)
    digest.update(archive.directory)
    read = len(data) + len(archive.directory)
    notes = (*weights.notes, *world.notes, *_inert(world), *_records(archive, places))
    stored = sum(record.nbytes for name, record in archive.records.items() if name.startswith(DATA))
    return _Body(weights.tensors, places, read, stored, digest.hexdigest(), notes)


def _pickle(file: StoredFile, archive: Archive) -> bytes:
    record = archive.records[PICKLE]
    data = _content(file, record, MAX_PICKLE)
    is_unchecked = not any(other.crc for other in archive.records.values())
    if zlib.crc32(data) != record.crc and not is_unchecked:
        raise ValueError(f"has a {PICKLE} whose checksum is wrong: download it again")
    return data


def _content(file: StoredFile, record: Record, most: int) -> bytes:
    if record.nbytes > most:
        raise ValueError(f"has a record of {record.nbytes:,} bytes where at most {most:,} are read")
    data = file.read_at(record.offset, record.nbytes)
    if len(data) != record.nbytes:
        raise ValueError("became shorter while it was read")
    return data


def _place(storage: Storage, records: Mapping[str, Record]) -> int:
    record = records.get(DATA + storage.key)
    if record is None or "/" in storage.key:
        raise ValueError(f"has tensors of the storage {shown(storage.key)}, which is not there: download it again")
    if record.nbytes != storage.nbytes:
        sizes = f"{record.nbytes:,} bytes, where its pickle says {storage.nbytes:,}"
        raise ValueError(f"has the storage {shown(storage.key)} of {sizes}: download it again")
    return record.offset


def _records(archive: Archive, places: Mapping[str, int]) -> Iterator[str]:
    """Notes on the records themselves."""
    if not archive.top:
        yield "its records are in no folder, where PyTorch makes one"
    if foreign := [name for name in archive.records if name not in KNOWN and not name.startswith(DATA)]:
        yield f"it has {_these(foreign, 'record')} which PyTorch does not know: not read"
    if unused := [n for n in archive.records if n.startswith(DATA) and n.removeprefix(DATA) not in places]:
        yield f"it has {_these(unused, 'storage')} which no tensor uses: not read"
    if bare := [name for name, record in archive.records.items() if record.nbytes and not record.crc]:
        yield f"it has {_these(bare, 'record')} without a checksum, as torch.save can be told to write"


def _legacy(file: StoredFile, options: FileOptions) -> _Body:
    world = _world(pickled_module=options.pickled_module, has_sources=True)
    try:
        value, places, length = read_legacy(file, world)
    except UnknownName as error:
        raise ValueError(f"{error}{_hint(file.read_at(0, MAX_PICKLE))}") from None
    weights = find_weights(value, options.state)
    digest = _begin_digest(options)
    digest.update(file.read_at(0, length))
    stored = sum(storage.nbytes for storage in world.storages.values())
    return _Body(
        weights.tensors, places, length, stored, digest.hexdigest(), (*weights.notes, *world.notes, *_inert(world))
    )


def _begin_digest(options: FileOptions) -> xxhash.xxh3_128:
    """That of a header: what is read of a file makes it another checkpoint, where it was asked for."""
    return xxhash.xxh3_128((options.state or "").encode("utf-8", "surrogatepass"))


def _hint(data: bytes) -> str:
    if all(sign in data for sign in SIGNS_OF_A_MODULE):
        return (
            "; it looks like a pickled module, whose weights --pickled-module (pickled_module=True) reads as inert data"
        )
    return "; --pickled-module (pickled_module=True) reads the tensors beside it, and this as inert data"


def _inert(world: Weights) -> Iterator[str]:
    if isinstance(world, Modules) and world.inert:
        yield f"it names {_these(list(world.inert), 'class')} and no more of that was read: nothing was imported or run"


def _these(names: Sequence[str], noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"the {noun} {shown(names[0])}," if len(names) == 1 else f"{len(names):,} {plural}, like {shown(names[0])},"


def _entry(name: str, tensor: Strided, places: Mapping[str, int]) -> Entry:
    if len(name) > MAX_NAME or any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(f"has a tensor whose name is too long or no text: {shown(name)}")
    begin = places[tensor.storage.key] + tensor.offset
    return Entry(name, tensor.dtype, tensor.shape, begin, begin + tensor.reach, tensor.strides)


def _check_amount(entries: Sequence[Entry], size: int) -> None:
    """Tensors that share bytes take time by their values: so those are bounded by what is on disk."""
    if len(entries) > MAX_TENSORS:
        raise ValueError(f"has {len(entries):,} tensors, over the {MAX_TENSORS:,} that are read")
    most = max(MOST_TIMES * size, LEAST_BYTES)
    total = 0
    for entry in entries:
        total += entry.nbytes
        if total > most:
            raise ValueError(
                f"has tensors of more than {most:,} bytes in {size:,}, all views of the same few: the one that is too "
                f"many is {shown(entry.name)}"
            )


def _sharing(tensors: Mapping[str, Strided]) -> Iterator[str]:
    """Notes on tensors that are views: of one storage, of more values than are stored, of nothing."""
    first_of: dict[tuple[str, str, int, tuple[int, ...], tuple[int, ...] | None], str] = {}
    tied = []
    for name, t in tensors.items():
        first = first_of.setdefault((t.storage.key, t.dtype, t.offset, t.shape, t.strides), name)
        if first != name and t.nbytes:
            tied.append((name, first))
    if tied:
        yield f"{these_have([name for name, _ in tied])} the very bytes of another: {shown(tied[0][1])} (tied weights)"
    if wide := [name for name, t in tensors.items() if t.strides is not None and t.nbytes > t.reach]:
        yield f"{these_have(wide)} more values than are stored: an expanded view, read as all of its values"
    if outside := [name for name, t in tensors.items() if t.is_outside]:
        yield f"{these_have(outside)} no values, and a place outside of its storage"


def _unused(body: _Body, unused: int) -> Iterator[str]:
    """A note on what is stored and of no tensor: storages of slices, which are kept whole, and what is not read."""
    if not unused:
        return
    of_storage: Counter[str] = Counter()
    for t in body.tensors.values():
        of_storage[t.storage.key] += t.nbytes
    slices = [name for name, t in body.tensors.items() if of_storage[t.storage.key] < t.storage.nbytes]
    why = f"{these_have(slices)} a part of a storage that was saved whole, for want of .clone(): " if slices else ""
    yield f"{why}{unused:,} of the {body.data_nbytes:,} bytes of its storages belong to no tensor"


PYTORCH = Container(
    name="pytorch",
    title="PyTorch",
    endings=(".bin", ".pt", ".pth", ".ckpt"),
    index=".bin.index.json",
    model="pytorch_model.bin",
    read_header=read_header,
    begins=is_torch,
    choose_shards=choose_named_shards,
    is_told_by_name=False,
    is_weights=lambda name: not NO_WEIGHTS.fullmatch(name),
    stray="was not read: it is no part of the model, and such a pickle runs code when it is loaded elsewhere.",
    damaged_records=damaged_records,
)
