"""OPEN, one container format: the header of a .safetensors file.

Promises: a header that is returned obeys every rule of the reference reader (safetensors 0.8), and some more: no key
twice, every entry an object of its own three fields. The file's size was checked against it, so mapping what it
describes is safe. What is legal and odd is said in `notes`. Nothing blocks, and no message is longer than a line.

    8 bytes  N, little-endian | N bytes  JSON: name -> {dtype, shape, data_offsets} | the tensors, without holes
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

import xxhash

from shardscan.errors import shown
from shardscan.shards.dtypes import DTYPES
from shardscan.shards.formats.container import PLAIN, Container, FileOptions
from shardscan.shards.header import Entry, Header, oddities, shown_shape, these_have
from shardscan.shards.sources.source import StoredFile
from shardscan.shards.strict_json import MAX_DEPTH, count_depth, parse_json

MAX_HEADER = 100_000_000
U64 = 2**64
CODES = DTYPES.keys() - {"C128"}  # which only other formats have
FIELDS = {"dtype", "shape", "data_offsets"}
BOOL_BYTES_LOOKED_AT = 1 << 24
IMPOSTORS = (
    (b"version https://git-lfs", "is a git-lfs pointer and not the file itself: fetch it with `git lfs pull`"),
    (b"<", "is a web page or XML and not a shard: the download got an error page, so download it again"),
    (b"PK\x03\x04", "is a zip archive, most likely a PyTorch file: name it .bin and it is read as one"),
    (b"\x80\x02", "is a Python pickle, most likely a PyTorch file: name it .bin and it is read as one"),
    (b"\x1f\x8b", "is compressed with gzip: decompress it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstandard: decompress it first"),
    (b"GGUF", "is a GGUF file and not safetensors"),
    (b"\x89HDF", "is an HDF5 file and not safetensors"),
    (b"{", "is JSON text and not a shard"),
    (bytes(8), "begins with zero bytes: the download never finished, so download it again"),
)


def read_header(file: StoredFile, options: FileOptions = PLAIN) -> Header:
    """Read the header of a file; ValueError, the end of a sentence, for whatever is wrong with it, and OSError."""
    raw = _header_bytes(file)
    try:
        text = raw[8:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"has a header that is not UTF-8 (byte {error.start:,})") from None
    document = parse_json(text)
    claimed = document.pop("__metadata__", {})
    metadata = _metadata(claimed)
    extra = tuple(_extra_fields(document))
    tensors = tuple(_entry(name, entry) for name, entry in document.items())
    _check_layout(tensors, file.size - len(raw))
    notes = (
        *extra,
        *oddities(tensors),
        *_metadata_oddities(claimed),
        *_odd_bools(file, tensors, len(raw)),
        *([f"it has no dicts of tensors, of which {shown(options.state)} would be one"] if options.state else []),
    )
    digest = xxhash.xxh3_128_hexdigest(raw)
    sizes = (len(raw), len(raw), file.size, file.size - len(raw))
    return Header("safetensors", tensors, *sizes, digest, metadata, notes, file.on_disk, file.witness)


def _header_bytes(file: StoredFile) -> bytes:
    """Read the length and the JSON behind it, once both are known to be in the file."""
    size = file.size
    if size == 0:
        raise ValueError("is empty: download it again")
    start = file.read(64)
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER or 8 + length > size or not length:
        for magic, sentence in IMPOSTORS:
            if start.lstrip().startswith(magic) or start.startswith(magic):
                raise ValueError(sentence)
    if size < 8:
        raise ValueError(f"is {size} bytes long, and a safetensors file has 8 at least: download it again")
    if length > MAX_HEADER:
        raise ValueError(
            f"claims a header of {length:,} bytes, over the format's {MAX_HEADER:,}: it is no safetensors file"
        )
    if 8 + length > size:
        raise ValueError(f"is cut short: {8 + length - size:,} bytes of its header are missing, so download it again")
    if not start[8:].startswith(b"{") or not length:
        raise ValueError("has a header that does not begin with '{': it is no safetensors file, or a broken one")
    file.seek(0)
    raw = file.read(8 + length)
    if len(raw) != 8 + length:
        raise ValueError("became shorter while it was read")
    return raw


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("has a __metadata__ that is not an object of strings")
    return value


def _entry(name: str, entry: Any) -> Entry:
    """One tensor by itself: its fields have their types, and its bytes are what its dtype and shape need."""
    if type(entry) is not dict:
        raise ValueError(f"has a tensor {shown(name)} whose entry is not an object")
    for field in ("dtype", "shape", "data_offsets"):
        if field not in entry:
            raise ValueError(f"has a tensor {shown(name)} without {field}")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str):
        raise ValueError(f"has a tensor {shown(name)} whose dtype is not a string")
    if code not in CODES:
        raise ValueError(f"has a tensor {shown(name)} of the unknown dtype {shown(code, 40)}")
    if type(shape) is not list or not all(map(_is_u64, shape)):
        raise ValueError(f"has a tensor {shown(name)} whose shape is not a list of integers from 0 to 2**64 - 1")
    if type(offsets) is not list or len(offsets) != 2 or not all(map(_is_u64, offsets)):
        raise ValueError(f"has a tensor {shown(name)} whose data_offsets are not two integers from 0 to 2**64 - 1")
    begin, end = offsets
    nbytes = _nbytes(name, code, shape)
    if begin > end:
        raise ValueError(f"has a tensor {shown(name)} that ends at {end:,}, before it begins at {begin:,}")
    if end - begin != nbytes:
        raise ValueError(
            f"has a tensor {shown(name)} with {end - begin:,} bytes where {code} {shown_shape(shape)} needs {nbytes:,}"
        )
    return Entry(name, code, tuple(shape), begin, end)


def _is_u64(value: Any) -> bool:
    return type(value) is int and 0 <= value < U64  # not isinstance: True is an int


def _nbytes(name: str, code: str, shape: list[int]) -> int:
    count = 1
    for size in shape:  # from the left, as the reference multiplies: [0, huge, huge] fits and [huge, huge, 0] does not
        count *= size
        if count >= U64:
            break
    bits = count * DTYPES[code].bits
    if bits >= U64:
        raise ValueError(f"has a tensor {shown(name)} whose shape {shown_shape(shape)} overflows 64 bits")
    if bits % 8:
        raise ValueError(f"has a tensor {shown(name)} whose {count:,} values of {code} do not fill whole bytes")
    return bits // 8


def _check_layout(tensors: tuple[Entry, ...], body: int) -> None:
    """All tensors together: no hole, no overlap, and they end where the file ends."""
    at = 0
    for entry in sorted(tensors, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != at:
            what = "with a hole before it" if entry.begin > at else "that overlaps the one before it"
            raise ValueError(f"has a tensor {shown(entry.name)} {what}: it begins at {entry.begin:,} and not at {at:,}")
        at = entry.end
    if at > body:
        raise ValueError(
            f"is cut short: {at - body:,} of the {at:,} bytes of its tensors are missing, so download it again"
        )
    if at < body:
        raise ValueError(f"has {body - at:,} bytes behind its last tensor that no tensor claims")


def _extra_fields(document: dict[str, Any]) -> Iterator[str]:
    """Fields that the format does not have: read by nobody, kept out of deep recursion, and told."""
    names = [name for name, entry in document.items() if type(entry) is dict and not entry.keys() <= FIELDS]
    for name in names:
        if count_depth(document[name]) > MAX_DEPTH:
            raise ValueError(f"has a tensor {shown(name)} whose entry nests its JSON too deeply")
    if names:
        fields = sorted({field for name in names for field in document[name].keys() - FIELDS})
        yield f"{these_have(names)} fields that the format does not have and nothing reads, like {shown(fields[0], 40)}"


def _metadata_oddities(value: Any) -> Iterator[str]:
    if value is None:
        yield "__metadata__ is null instead of an object"
    elif any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for pair in value.items() for t in pair for c in t):
        yield "__metadata__ has control characters in it"


def _odd_bools(file: StoredFile, tensors: tuple[Entry, ...], start: int) -> Iterator[str]:
    """BOOL bytes that are neither 0 nor 1, looked for in the first 16 MiB of BOOL values only: this is no scan."""
    left, names = BOOL_BYTES_LOOKED_AT, []
    for entry in tensors:
        if entry.dtype == "BOOL" and left > 0:
            file.seek(start + entry.begin)
            data = file.read(min(entry.end - entry.begin, left))
            left -= len(data)
            if data.translate(None, b"\0\1"):
                names.append(entry.name)
    if names:
        yield f"{these_have(names)} BOOL bytes other than 0 and 1, which are read as true"


def begins_as_safetensors(start: bytes) -> bool:
    """Whether a file that begins like this has the length of a header, and JSON behind it."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER


def choose_shards(container: Container, folder: str, shards: list[str]) -> tuple[list[str], str]:
    """The safetensors files that are the model, and why the others are not."""
    if container.model in shards:
        return [container.model], f"{container.model} was read"
    # other forms of the same weights, or small ones that go on top of them
    whole = [name for name in shards if not name.startswith(("consolidated", "adapter"))]
    chosen = whole or [name for name in shards if name.startswith("consolidated")] or shards
    return chosen, "they are not counted beside the model's shards"


SAFETENSORS = Container(
    name="safetensors",
    title="safetensors",
    endings=(".safetensors",),
    index=".safetensors.index.json",
    model="model.safetensors",
    read_header=read_header,
    begins=begins_as_safetensors,
    choose_shards=choose_shards,
    is_gapless=True,
)
