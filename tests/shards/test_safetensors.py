"""The header reader: a table of wrong and odd files, and the safetensors library as the oracle for many more."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import xxhash
from safetensors.numpy import save_file

from made.sentences import check_sentence
from oracles.safetensors_library import accepts
from shardscan.errors import HeaderError, shown
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.shards.dtypes import DTYPES
from shardscan.shards.formats.kinds import read_header
from shardscan.shards.formats.safetensors import CODES
from shardscan.shards.header import Entry

REFERENCE: Any = safetensors.deserialize  # it has no types


def file_of(header: Any, body: bytes = bytes(4)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: Any = "F32", shape: Any = (1,), begin: Any = 0, end: Any = 4, **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def one(body: bytes = bytes(4), **fields: Any) -> bytes:
    return file_of({"a": {**entry(), **fields}}, body)


def named(name: str) -> bytes:
    return file_of({name: entry()})


def raw(text: str, body: bytes = bytes(4)) -> bytes:
    return file_of(text.encode(), body)


T = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
DEEP = "[" * 100_000 + "]" * 100_000

REFUSED: list[tuple[str, bytes, str]] = [
    # the container
    ("an empty file", b"", "is empty"),
    ("seven bytes", bytes(range(1, 8)), "7 bytes long"),
    ("zeros of a preallocated download", bytes(64), "never finished"),
    ("no header", file_of(b""), "zero bytes"),
    ("a header of over 100 MB", struct.pack("<Q", 100_000_001) + b"{}", "claims a header of 100,000,001 bytes"),
    ("a length that wraps to 0", struct.pack("<Q", 2**64 - 8) + b"{}", "claims a header"),
    ("a cut header", file_of({"a": entry()})[:30], "32 bytes of its header are missing"),
    ("a cut body", file_of({"a": entry()})[:-3], "cut short: 3 of the 4 bytes"),
    ("bytes behind the end", file_of({"a": entry()}) + b"xy", "2 bytes behind its last tensor"),
    ("a git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    ("a web page", b"\n<!DOCTYPE html><html>404</html>", "web page"),
    ("a torch zip", b"PK\x03\x04" + bytes(60), "zip archive"),
    ("a pickle", b"\x80\x02}q\x00.", "pickle"),
    ("a gzip member without a time", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + bytes(20), "gzip"),
    ("a GGUF file", b"GGUF\x03\x00\x00\x00" + bytes(60), "GGUF"),
    ("a JSON error", b'{"error": "not found"}', "JSON text"),
    # JSON
    ("space before the brace", raw(" {}", b""), "does not begin with '{'"),
    ("a byte order mark", file_of(b"\xef\xbb\xbf{}", b""), "does not begin with '{'"),
    ("an array", raw("[]", b""), "does not begin with '{'"),
    ("UTF-16", file_of("{}".encode("utf-16-le"), b""), "not valid JSON"),
    ("bytes that are not UTF-8", file_of(b'{"\xff":1}', b""), "not UTF-8"),
    ("overlong UTF-8", file_of(b'{"\xc0\xaf":1}', b""), "not UTF-8"),
    ("two documents", raw("{}{}", b""), "not valid JSON"),
    ("a comment", raw("{/**/}", b""), "not valid JSON"),
    ("a raw newline in a name", raw('{"a\nb":' + T + "}"), "not valid JSON"),
    ("a lone surrogate in a name", raw('{"\\ud800":' + T + "}"), "lone surrogate"),
    ("a lone surrogate in metadata", raw('{"__metadata__":{"k":"\\udc80"}}', b""), "lone surrogate"),
    ("a key twice", raw('{"a":' + T + ',"a":' + T + "}"), "the key 'a' twice"),
    ("a key twice in disguise", raw('{"t":' + T + ',"\\u0074":' + T + "}"), "the key 't' twice"),
    ("a field twice", raw('{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}'), "'shape' twice"),
    ("metadata twice", raw('{"__metadata__":{},"__metadata__":{}}', b""), "'__metadata__' twice"),
    ("NaN in a field", raw('{"a":' + T[:-1] + ',"x":NaN}}'), "the number NaN"),
    ("a number over every float", raw('{"a":' + T[:-1] + ',"x":1e999}}'), "no 64-bit float"),
    ("an integer of 5,000 digits", raw('{"a":' + T[:-1] + ',"x":' + "9" * 5000 + "}}"), "no 64-bit float"),
    ("a field 20 deep", raw('{"a":' + T[:-1] + ',"x":' + "[" * 20 + "]" * 20 + "}}"), "too deeply"),
    ("a field 100,000 deep", raw('{"a":' + T[:-1] + ',"x":' + DEEP + "}}"), "too deeply"),
    # entries
    ("an entry that is a string", file_of({"a": "x"}), "entry is not an object"),
    ("an entry as an array", file_of({"a": ["F32", [1], [0, 4]]}), "entry is not an object"),
    ("an empty entry", file_of({"a": {}}), "without dtype"),
    ("no offsets", file_of({"a": {"dtype": "F32", "shape": [1]}}), "without data_offsets"),
    (
        "a field in the wrong case",
        file_of({"a": {"Dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}),
        "without dtype",
    ),
    ("a dtype in lower case", one(dtype="f32"), "unknown dtype 'f32'"),
    ("a dtype of another library", one(dtype="O"), "unknown dtype 'O'"),
    ("a dtype as an object", one(dtype={"F32": None}), "dtype is not a string"),
    ("no dtype", one(dtype=None), "dtype is not a string"),
    # shapes
    ("a negative size", one(shape=[-1]), "shape is not a list"),
    ("minus zero", raw('{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', b""), "shape is not a list"),
    ("a float size", one(shape=[1.0]), "shape is not a list"),
    ("true as a size", one(shape=[True]), "shape is not a list"),
    ("a size over 64 bits", one(shape=[0, 2**64]), "shape is not a list"),
    ("a nested shape", one(shape=[[1]]), "shape is not a list"),
    ("a shape that is a number", one(shape=1), "shape is not a list"),
    ("a product over 64 bits", one(shape=[2, 2**64 - 2]), "overflows 64 bits"),
    ("bits over 64 bits", one(dtype="U8", shape=[2**61]), "overflows 64 bits"),
    ("an overflow before a zero", one(shape=[2**62, 2**62, 0]), "overflows 64 bits"),
    ("too few bytes for the shape", one(shape=[2, 2]), "4 bytes where F32 [2, 2] needs 16"),
    ("six bits alone", one(b"\0", dtype="F6_E3M2", data_offsets=[0, 1]), "do not fill whole bytes"),
    # offsets
    ("three offsets", one(data_offsets=[0, 4, 8]), "data_offsets are not two"),
    ("a negative offset", one(data_offsets=[-4, 0]), "data_offsets are not two"),
    ("false as an offset", one(data_offsets=[False, 4]), "data_offsets are not two"),
    ("offsets as strings", one(data_offsets=["0", "4"]), "data_offsets are not two"),
    ("an offset over 64 bits", one(data_offsets=[0, 2**64 + 4]), "data_offsets are not two"),
    ("offsets the wrong way round", one(data_offsets=[4, 0]), "ends at 0, before it begins at 4"),
    ("a hole at the start", file_of({"a": entry(begin=4, end=8)}, bytes(8)), "a hole before it"),
    ("a hole between", file_of({"a": entry(), "b": entry(begin=8, end=12)}, bytes(12)), "a hole before it"),
    ("an overlap", file_of({"a": entry(shape=[2], end=8), "b": entry(begin=4, end=8)}, bytes(8)), "overlaps"),
    ("an empty tensor inside another", file_of({"a": entry(), "e": entry("U8", [0], 2, 2)}), "overlaps"),
    # metadata
    ("metadata that is a string", file_of({"__metadata__": "x"}, b""), "__metadata__"),
    ("metadata of a bool", file_of({"__metadata__": {"a": True}}, b""), "__metadata__"),
]

ODD: list[tuple[str, bytes, str]] = [
    ("an unknown field", one(strides=[1]), "fields that the format does not have"),
    ("null metadata", file_of({"__metadata__": None}, b""), "null"),
    ("an escape sequence in metadata", file_of({"__metadata__": {"k": "\x1b]0;x\x07"}}, b""), "control characters"),
    ("more dimensions than NumPy's", one(shape=[1] * 65), "64 dimensions"),
    ("a shape no array can have", one(b"", shape=[0, 2**62, 2**62], data_offsets=[0, 0]), "no array can have"),
    ("packed values", one(b"\0\0\0", dtype="F6_E3M2", shape=[4], data_offsets=[0, 3]), "below 8 bits"),
    ("a bool that is 2", one(b"\0\1\2\0", dtype="BOOL", shape=[4]), "other than 0 and 1"),
    *(
        (f"the name {name!r}", named(name), "unusual characters")
        for name in ("", " ", "a/b", "..", "-x", "a\nb", "\u202ex")
    ),
    *((f"the name {name!r}", named(name), "reserved") for name in ("c", "zarr.json", "CON", "__proto__")),
    ("a name of 255 bytes", named("x" * 255), "too long"),
]

PLAIN: list[tuple[str, bytes]] = [
    ("no tensors", file_of(b"{}", b"")),
    ("padding of any JSON space", file_of(b"{} \t\r\n", b"")),
    ("metadata", file_of({"__metadata__": {"format": "pt"}, "a": entry()})),
    ("any order", file_of({"b": entry(begin=4, end=8), "a": entry()}, bytes(8))),
    ("an empty tensor between", file_of({"a": entry(), "e": entry(shape=[2, 0], begin=4), "b": entry("U8", [0], 4)})),
    ("64 dimensions", one(shape=[1] * 64)),
    ("letters of other scripts", file_of({"é": entry(), "e\u0301": entry(begin=4, end=8)}, bytes(8))),
    ("clean bools", one(b"\0\1\1\0", dtype="BOOL", shape=[4])),
    ("a scalar", one(shape=[])),
]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], str]:
    def to_file(data: bytes) -> str:
        path = tmp_path / "model.safetensors"
        path.write_bytes(data)
        return str(path)

    return to_file


@pytest.mark.parametrize(("data", "said"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_header_that_breaks_a_rule_is_refused_in_one_sentence(
    data: bytes, said: str, write: Callable[[bytes], str]
) -> None:
    with pytest.raises(HeaderError) as caught:
        read_header(write(data))
    assert said in check_sentence(caught.value)


@pytest.mark.parametrize(("data", "said"), [r[1:] for r in ODD], ids=[r[0] for r in ODD])
def test_a_legal_oddity_is_read_and_said(data: bytes, said: str, write: Callable[[bytes], str]) -> None:
    notes = read_header(write(data)).notes
    assert len(notes) == 1
    assert said in notes[0]
    assert notes[0].isprintable()


@pytest.mark.parametrize("data", [r[1] for r in PLAIN], ids=[r[0] for r in PLAIN])
def test_a_plain_header_is_read_without_a_note(data: bytes, write: Callable[[bytes], str]) -> None:
    assert read_header(write(data)).notes == ()


@pytest.mark.parametrize("data", [r[1] for r in ODD] + [r[1] for r in PLAIN])
def test_whatever_is_read_the_reference_reads_too(data: bytes) -> None:
    assert accepts(data)


def test_a_header_gives_its_tensors_in_its_own_order_with_its_size_and_hash(write: Callable[[bytes], str]) -> None:
    data = file_of({"__metadata__": {"k": "v"}, "b": entry(begin=4, end=8), "a": entry("BF16", [2])}, bytes(8))
    header = read_header(write(data))
    assert header.tensors == (Entry("b", "F32", (1,), 4, 8), Entry("a", "BF16", (2,), 0, 4))
    assert header.header_nbytes == len(data) - 8
    assert header.nbytes == len(data)
    assert header.digest == xxhash.xxh3_128_hexdigest(data[:-8])
    assert header.metadata == {"k": "v"}
    assert pickle.loads(pickle.dumps(header)) == header


def test_a_name_of_a_megabyte_with_escapes_makes_a_short_and_printable_message(write: Callable[[bytes], str]) -> None:
    name = "\x1b[31m" + "x" * 1_000_000
    with pytest.raises(HeaderError) as caught:
        read_header(write(file_of({name: entry("F33")})))
    assert "1,000,005 characters" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
    assert shown("a\u202e\n") == "'a\\u202e\\n'"


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_dtype_comes_back_from_a_real_file_as_the_reference_reads_it(
    code: str, write: Callable[[bytes], str]
) -> None:
    nbytes = DTYPES[code].nbytes(8)
    body = np.random.default_rng(3).integers(0, 256, 4 + nbytes, dtype=np.uint8).tobytes()
    data = file_of({"pad": entry("U8", [4]), "a": entry(code, [2, 4], 4, 4 + nbytes)}, body)
    (reference,) = (bytes(info["data"]) for name, info in REFERENCE(data) if name == "a")
    tensor = open_checkpoint(write(data))["a"]
    assert tensor.window().raw().tobytes() == reference
    assert tensor.window().read().shape == (2, 4)
    np.testing.assert_array_equal(tensor.window(1, 2).read(), tensor.window().read()[1:])


@pytest.mark.parametrize(
    "kind", [np.float16, np.float32, np.float64, np.int8, np.uint16, np.int64, np.bool_, np.complex64]
)
def test_values_saved_by_the_library_come_back_equal(kind: type, tmp_path: Path) -> None:
    values: np.ndarray = np.arange(-6, 6).astype(kind).reshape(3, 4)
    save_file({"w": values, "scalar": np.array(kind(1))}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path / "model.safetensors")
    read = checkpoint["w"].window().read()
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)
    assert checkpoint["scalar"].window().read() == kind(1)
