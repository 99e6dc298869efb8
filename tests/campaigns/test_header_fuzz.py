"""Mutated headers, each read by our reader and by the safetensors library: none may be laxer.

Ten thousand in every run and a hundred thousand with `--campaigns=full`; `pytest -m hostile --headers 1000000` is
longer.
"""

from __future__ import annotations

import json
import os
import random
import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oracles.safetensors_library import accepts
from oracles.tally import Tally
from shardscan.errors import HeaderError
from shardscan.shards.formats.kinds import read_header

pytestmark = pytest.mark.hostile

# what we refuse and the library reads, by design: everything else that it reads must be read
STRICTER = re.compile(r"has the key .* twice|entry is not an object|nests its JSON too deeply|not begin with '\{'")


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SEEDS: list[tuple[dict[str, Any], int]] = [
    ({"a": entry("F32", [1], 0, 4)}, 4),
    ({"a": entry("U8", [2, 0, 3], 0, 0), "b": entry("BF16", [2, 1], 0, 4)}, 4),
    ({"__metadata__": {"format": "pt"}, "w": entry("F4", [2, 4], 0, 4), "e": entry("U8", [0], 4, 4)}, 4),
    ({"é": entry("F6_E2M3", [4], 0, 3), "\u202e": entry("BOOL", [], 3, 4)}, 4),
    ({"b": entry("I16", [2, 2], 8, 16), "a": entry("F64", [], 0, 8), "c": entry("C64", [1], 16, 24)}, 24),
    ({"__metadata__": {}, "x" * 40: entry("F8_E4M3", [16], 0, 16), "y": entry("U64", [1, 1, 1], 16, 24)}, 24),
]
BYTES = b'{}[]":,\\0123456789-.eE+ntrufalsdypho_NFBIU \t\n\r\x00\x1f\x7f\x80\xc3\xe2\xed\xf4\xff'
CODES = (b"F32", b"I32", b"U32", b"F64", b"I64", b"U64", b"C64", b"U8", b"I8", b"BOOL", b"F8_E4M3", b"F8_E8M0", b"BF16")
PIECES = (
    *(b"0", b"-0", b"1", b"-1", b"1.0", b"1e0", b"true", b"null", b"9223372036854775808", b"18446744073709551615"),
    *(b"18446744073709551616", b"4294967296", b"[]", b"{}", b'""', b'"F32"', b'"F4"', b'"BOOL"', b'"BF16"', b'"a"'),
    *(b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\u0061"', b"\xef\xbb\xbf", b'"shape":[1],', b'"__metadata__":{"a":"b"},'),
    *(b'"__metadata__":null,', b",", b'"x":1e400,', b'"x":[[1,{}]],', b'"x":' + b"[" * 130 + b"]" * 130 + b",", b" "),
)


def mutants(seed: int) -> Iterator[bytes]:
    """Files with up to three edits in their header; its length put right, but for one in fifty, and the body mostly."""
    choose = random.Random(seed)
    texts = [json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode() for header, _ in SEEDS]
    while True:
        number = choose.randrange(len(SEEDS))
        text = bytearray(texts[number])
        for _ in range(choose.choice((1, 1, 2, 3))):
            edit(text, choose)
        length = len(text) + (
            choose.choice((-1, 1, 8, 2**40, 2**64 - 9 - len(text))) if not choose.randrange(50) else 0
        )
        body = SEEDS[number][1] if choose.randrange(20) else choose.choice((0, 1, 3, 4, 5, 8, 16, 23, 24))
        yield struct.pack("<Q", max(0, length)) + text + bytes(body)


def edit(text: bytearray, choose: random.Random) -> None:
    at, kind = choose.randrange(len(text) + 1), choose.randrange(9)
    if kind == 0 and at < len(text):
        text[at] = choose.choice(BYTES)
    elif kind == 1:
        del text[at : at + choose.randint(1, 6)]
    elif kind == 2:
        at = choose.choice([i + 1 for i, byte in enumerate(text) if byte in b"{[,:"] or [0])
        text[at:at] = choose.choice(PIECES)
    elif kind == 3:  # a number becomes another
        numbers = [found.span() for found in re.finditer(rb"\d+", bytes(text))] or [(0, 0)]
        start, stop = choose.choice(numbers)
        text[start:stop] = choose.choice((b"0", b"1", b"2", b"3", b"4", b"8", b"16", b"01", b"1.5", b"4294967296"))
    elif kind == 4:  # a piece of it once more, or in another place
        start = choose.randrange(len(text) + 1)
        piece = text[start : start + choose.randint(1, 60)]
        if choose.randrange(2):
            del text[start : start + len(piece)]
        text[min(at, len(text)) : min(at, len(text))] = piece
    elif kind == 5:  # another dtype
        old, new = choose.sample(CODES, 2)
        text[:] = text.replace(old, new, 1)
    elif kind == 6:  # space, and what JSON does not take for it
        place = choose.choice([i for i, byte in enumerate(text) if byte in b"{}[],:"] or [0])
        text[place:place] = choose.choice((b" ", b"\n", b"\t", b"\r", b"\x0b", b"\xc2\xa0"))
    elif kind == 7:  # a letter as an escape sequence
        place = choose.choice([i for i, byte in enumerate(text) if chr(byte).isascii() and chr(byte).isalpha()] or [0])
        text[place : place + 1] = b"".join(b"\\u%04x" % byte for byte in text[place : place + 1])
    elif at < len(text):
        text[at] ^= 1 << choose.randrange(8)


def test_no_mutated_header_is_read_that_the_library_refuses(tmp_path: Path, headers: int, tally: Tally) -> None:
    path, tried, laxer, stricter = tmp_path / "model.safetensors", Counter[str](), list[bytes](), list[str]()
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    for data, _ in zip(mutants(2026), range(headers), strict=False):
        os.pwrite(file, data, 0)
        os.truncate(file, len(data))
        accepted = accepts(data)
        try:
            read_header(str(path))
        except HeaderError as error:
            tried["refused"] += 1
            message = str(error)
            assert message.isprintable() and len(message) < 1000
            if accepted and not STRICTER.search(message):
                stricter.append(message)
        else:
            tried["read"] += 1
            if not accepted:
                laxer.append(data)
    tally(inputs=tried.total(), laxer=len(laxer))
    assert laxer == []
    assert stricter == []
    assert tried["read"] > headers // 50
    assert tried["refused"] > headers // 4
