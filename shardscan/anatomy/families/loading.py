"""NAME, its data: families are read from TOML files, ours and whoever else's, and extended where they say so."""

from __future__ import annotations

import errno
import os
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from shardscan.anatomy.families.family import Family, build_family
from shardscan.anatomy.families.schema import WORD, check, refuse
from shardscan.errors import FamilyError, shown

FOLDER = "shardscan.anatomy.families"  # of those that ship
LARGEST = 1_000_000  # bytes of a family file


def load_families(paths: Iterable[str | os.PathLike[str]] = ()) -> Mapping[str, Family]:
    """The families in the TOML files, or folders of them, at `paths`, then those that ship with shardscan, by name.

    A file that has the name of a family of ours takes its place. FamilyError where one cannot be read or is wrong.
    """
    given = {str(file): _text(file) for path in paths for file in _files(Path(path))}
    if not given:
        return _shipped()
    texts: dict[str, tuple[str, str]] = {}
    for source, text in given.items():
        name = _name(text, source)
        if name in texts:
            raise refuse(source, f"there is a family {name!r} in {shown(texts[name][1], 400)} already")
        texts[name] = text, source
    theirs = _parsed(texts, {**_tables(_texts()), **_tables(texts)})
    return {**theirs, **{name: family for name, family in _shipped().items() if name not in theirs}}


def parse_family(text: str, source: str, bases: Mapping[str, Any] | None = None) -> Family:
    """A family from the text of its TOML file; FamilyError names `source` and what is wrong.

    `bases` are the tables of families that it may extend.
    """
    table = _extended(_table(text, source), bases or {}, source)
    check(table, source)
    return build_family(table, source)


@cache
def _shipped() -> Mapping[str, Family]:
    return _parsed(_texts(), _tables(_texts()))


@cache
def _texts() -> Mapping[str, tuple[str, str]]:
    """Text and file name of every family that ships, by its name."""
    files = sorted((f for f in resources.files(FOLDER).iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {file.name.removesuffix(".toml"): (file.read_text("utf-8"), file.name) for file in files}


def _parsed(texts: Mapping[str, tuple[str, str]], bases: Mapping[str, Any]) -> dict[str, Family]:
    return {name: parse_family(text, source, bases) for name, (text, source) in texts.items()}


def _tables(texts: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, Any]]:
    return {name: _table(text, source) for name, (text, source) in texts.items()}


def _files(path: Path) -> list[Path]:
    """A file, or the TOML files of a folder."""
    files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    if not files:
        raise FamilyError(f"{shown(str(path), 400)} holds no .toml file: give the files of families.")
    return files


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        if path.stat().st_size > LARGEST:
            raise FamilyError(f"{shown(str(path), 400)} is too large for a family file.")
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise FamilyError(f"{shown(str(path), 400)} cannot be read ({why}): give the TOML file of a family.") from error


def _name(text: str, source: str) -> str:
    name = _table(text, source).get("name")
    if not isinstance(name, str) or not WORD.fullmatch(name):
        raise refuse(source, "a family needs a name of lower-case letters, digits and _")
    return name


def _table(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise refuse(source, f"not a family file: {why}") from error


def _extended(data: dict[str, Any], bases: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A family's table with what it does not say itself taken from the one that it extends."""
    if "extends" not in data:
        check(data, source)
        return data
    name = data["extends"]
    if not isinstance(name, str) or name not in bases:
        raise refuse(source, f"there is no family {shown(str(name))} to extend")
    check({"architectures": [], "config": {}, "component": [], **data}, source)
    # without itself: a family of ours may be extended by one that takes its place, and no circle closes
    others = {other: table for other, table in bases.items() if other != name}
    base = _extended(bases[name], others, f"{source}: {name}, which it extends")
    own = {component["name"]: component for component in data.get("component", ())}
    if len(own) < len(data.get("component", ())):
        raise refuse(source, "one component stands there twice")
    joined = [_joined(component, own.pop(component["name"], {})) for component in base["component"]]
    return {
        **{key: base[key] for key in ("sections", "defaults") if key in base},
        **data,
        "config": {**base["config"], **data.get("config", {})},
        "component": [*joined, *own.values()],
    }


def _joined(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    tables = {key: {**base.get(key, {}), **own.get(key, {})} for key in ("outside", "inside")}
    return {**base, **own, **tables}
