"""NAME, its data's form: what a family's TOML table may hold. `check` says in a sentence what is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from typing import Any

from shardscan.errors import FamilyError, shown

WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")
LAYER, EXPERT = "{layer}", "{expert}"
RESERVED = frozenset({"other", "ov", "qk"})  # what has no rule, and circuits
TENSOR_PARTS = ("weight", "bias", "scale", "zero", "index", "buffer")

Check = Callable[[Any, str], None]


def check(data: Mapping[str, Any], source: str) -> None:
    """FamilyError, which begins with `source`, where a table is no family's."""
    _table(data, source, required={"name", "architectures", "config", "component"}, **FAMILY)


def refuse(where: str, what: str) -> FamilyError:
    """The error that says what is wrong, and where."""
    return FamilyError(f"{where}: {what}.")


def _table(value: Any, where: str, *, required: Set[str] = frozenset(), **keys: Check) -> None:
    if not isinstance(value, dict):
        raise refuse(where, f"{shown(str(value))} stands where a table should")
    missing = next((key for key in sorted(required) if key not in value), None)
    if missing:
        raise refuse(where, f"{missing!r} is missing; shardscan/anatomy/families/llama.toml is an example")
    for key, found in value.items():
        if key not in keys:
            raise refuse(where, f"{shown(key)} is none of {', '.join(keys)}")
        keys[key](found, f"{where}: {key}")


def _word(value: Any, where: str) -> None:
    if not isinstance(value, str) or not WORD.fullmatch(value):
        raise refuse(
            where,
            f"{shown(str(value))} is not a name of a family, component or role; write a letter, then up to 39 "
            "lower-case letters, digits or _",
        )


def _role(value: Any, where: str) -> None:
    _word(value, where)
    if value in RESERVED:
        raise refuse(where, f"{value!r} is a role of our own; choose another word")


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise refuse(where, f"{shown(str(value))} stands where a text should")


def _flag(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise refuse(where, f"{shown(str(value))} stands where true or false should")


def _number(value: Any, where: str) -> None:
    if type(value) is not int or not 0 < value < 2**31:
        raise refuse(where, f"{shown(str(value))} stands where a number should")


def _scalar(value: Any, where: str) -> None:
    if not isinstance(value, str | int | float):
        raise refuse(where, f"{shown(str(value))} can be no value of a config; write a dotted key in quotes")


def _part(value: Any, where: str) -> None:
    if value not in TENSOR_PARTS:
        raise refuse(where, f"{shown(str(value))} is none of {', '.join(TENSOR_PARTS)}")


def _list(of: Check) -> Check:
    def check_list(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise refuse(where, f"{shown(str(value))} stands where a list should")
        for found in value:
            of(found, where)

    return check_list


def _names(of: Check) -> Check:
    """A table from names that are free to values of one kind."""

    def check_names(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise refuse(where, f"{shown(str(value))} stands where a table should")
        for key, found in value.items():
            of(found, f"{where}: {shown(key)}")

    return check_names


def _parts(value: Any, where: str) -> None:
    (_list(_role) if isinstance(value, list) else _names(_text))(value, where)
    for role in value:
        _role(role, where)
    if len(set(value)) < len(value):
        raise refuse(where, "a role stands there twice")


def _rule(value: Any, where: str) -> None:
    if isinstance(value, str):
        _role(value, where)
    elif isinstance(value, list):
        _list(lambda found, at: _table(found, at, required={"role"}, **RULE))(value, where)
    else:
        _table(value, where, required={"role"}, **RULE)


RULE: Mapping[str, Check] = {
    "role": _role, "axes": _text, "parts": _parts, "transposed": _flag, "part": _part, "when": _names(_scalar),
    "when_fits": _flag,
}  # fmt: skip
SIZES = _names(_list(_text))
COMPONENT: Mapping[str, Check] = {
    "name": _word, "prefixes": _list(_text), "layer": _text, "config": SIZES,
    "outside": _names(_rule), "inside": _names(_rule),
}  # fmt: skip


def _component(value: Any, where: str) -> None:
    _table(value, where, required={"name"}, **COMPONENT)


FAMILY: Mapping[str, Check] = {
    "name": _word, "architectures": _list(_text), "extends": _word, "sections": _list(_text), "tower": _flag,
    "config": SIZES, "defaults": _names(_names(_number)), "component": _list(_component),
}  # fmt: skip
