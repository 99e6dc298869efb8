"""OPEN, its gate: JSON that strangers wrote, read without guessing or running out of stack.

`parse_json` is JSON as serde_json has it, which the format's own reader
uses (no NaN, no infinities, no lone surrogates, integers are integers), and stricter: no key twice in one object.
It raises ValueError with the end of a sentence; the callers know which file it is about and raise the tree's errors.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from shardscan.errors import shown

MAX_DEPTH = 16
ODD_INTEGER = re.compile(r"-0|[0-9]{20}")  # perhaps: `_integer` knows; without any a header takes half the time
LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, *, lenient: bool = False) -> Any:
    """Parse one JSON document; `lenient`, for configs, keeps the last of equal keys and has NaN as a string."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=None if lenient else _unique,
            parse_constant=str if lenient else _no_constant,
            parse_int=_integer if ODD_INTEGER.search(text) else None,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("nests its JSON too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON ({error.msg} at character {error.pos:,})") from None
    if LONE_SURROGATE.search(text):
        _refuse_lone_surrogates(value)
    return value


def count_depth(value: Any) -> int:
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
