"""ASK: how one value looks, as JSON can hold it and as a person, a spreadsheet or a Markdown page reads it. Pure.

Promises: `to_json_value` keeps every digit and is valid JSON; `show_value` shows six digits; and text from a stranger's
checkpoint comes out as text, never as something that a terminal, a page or a spreadsheet obeys.
"""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from shardscan.errors import cut

NULL = "–"

# C0, C1, and what moves, hides or reorders text without being seen: bidi controls, zero widths, separators, tags
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd"
    "\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_FORMULA = re.compile(r"[\s\x00-\x1f\u200b\u2060\ufeff]*[=+\-@＝＋－＠]|[\t\r]")
# what GitHub's Markdown would read as markup; an underscore inside a word is none, and q_proj stays readable
_MARKUP = re.compile(r"[\\`*<|~$]|&(?=[#A-Za-z])|\](?=[(\[])|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")


def visible(text: str) -> str:
    r"""`text` with every character that a terminal would obey or hide written out: `\x1b`, `\n`, `\u202e`."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def to_json_value(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities as null, bytes in hex, times in ISO 8601, every digit kept."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, Decimal):
        return _decimal_to_json_value(value)
    if isinstance(value, dict):
        return {key: to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _decimal_to_json_value(value: Decimal) -> int | float | str:
    """A number where a JSON reader's double holds it; text where it would lose digits."""
    text = f"{value:f}"
    if "." not in text:
        return int(text)
    return float(text) if Decimal(repr(float(text))) == value else text


def show_value(value: Any, limit: int | None = None) -> str:
    """`value` as a person reads it in a table or in Markdown; a long text is cut to `limit` characters."""
    if value is None:
        return NULL
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool | list | tuple | dict):
        return visible(cut(json.dumps(_round_floats(to_json_value(value)), ensure_ascii=False), limit))
    if isinstance(value, Decimal):
        return f"{value:f}"
    return visible(cut(str(value) if isinstance(value, datetime) else str(to_json_value(value)), limit))


def _round_floats(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    return [_round_floats(item) for item in value] if isinstance(value, list) else value


def escape_markup(text: str) -> str:
    """`text` as Markdown shows it literally, inside a cell of a table."""
    return _MARKUP.sub(r"\\\g<0>", visible(text))


def show_csv(value: Any, terminal: bool) -> str:
    """`value` as the text of a CSV cell: structures as JSON; every character kept, but not on a terminal."""
    if isinstance(value, str):
        return disarm_formula(visible(value) if terminal else value)
    value = to_json_value(value)
    return value if isinstance(value, str) else json.dumps(value)


def disarm_formula(text: str) -> str:
    """An apostrophe before what a spreadsheet would run as a formula, blanks before it or not."""
    return f"'{text}" if _FORMULA.match(text) else text
