"""OPEN, its gate: bytes and JSON that strangers wrote, read without hanging, guessing or running out of stack.

`opened` never blocks and takes regular files only. `parse` is JSON as serde_json has it, which the format's own reader
uses (no NaN, no infinities, no lone surrogates, integers are integers), and stricter: no key twice in one object.
Both raise ValueError with the end of a sentence; the callers know which file it is about and raise the tree's errors.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from shardscan.errors import shown

MAX_DEPTH = 16
LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open a regular file for reading; ValueError for anything else, without ever waiting for it."""
    try:
        # a plain open of a FIFO waits for a writer for ever
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ValueError(
            "is not there" if not Path(path).is_symlink() else "is a link to a file that is not there"
        ) from None
    except OSError as error:
        raise ValueError(f"cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("is not a regular file")
    with open(fd, "rb") as file:
        yield file


def read_text(path: str, limit: int) -> str:
    """Read a small UTF-8 text file of at most `limit` bytes; a byte order mark stays in it."""
    with opened(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"is longer than the {limit:,} bytes that such a file may have")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start:,})") from None


def parse(text: str, *, lenient: bool = False) -> Any:
    """Parse one JSON document; `lenient`, for configs, keeps the last of equal keys and has NaN as a string."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=None if lenient else _unique,
            parse_constant=str if lenient else _no_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("nests its JSON too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON ({error.msg} at character {error.pos:,})") from None
    if LONE_SURROGATE.search(text):
        _refuse_lone_surrogates(value)
    return value


def depth(value: Any) -> int:
    """How many arrays and objects lie inside each other, counted only to just over MAX_DEPTH."""
    level, deep = [value], 0
    while level and deep <= MAX_DEPTH:
        containers = [v for v in level if isinstance(v, dict | list)]
        deep += bool(containers)
        level = [child for c in containers for child in (c.values() if isinstance(c, dict) else c)]
    return deep


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"has the key {shown(twice)} twice in one JSON object")
    return unique


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"has the number {name}, which JSON does not allow")


def _integer(digits: str) -> int | float:
    # as serde_json: -0, and what no 64-bit integer holds, are floats; it also keeps 5,000 digits away from int()
    return _finite(digits) if digits == "-0" or len(digits) > 20 else int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"has the number {shown(digits, 20)}, which no 64-bit float holds")
    return number


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("has a lone surrogate in a string, which is no Unicode text") from None
    except RecursionError:
        raise ValueError("nests its JSON too deeply") from None
