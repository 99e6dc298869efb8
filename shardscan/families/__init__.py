"""NAME, its data: naming families, read from TOML files and checked when they load.

A family says which architectures it covers, which config keys hold its sizes, and which module names have which role,
with the axes of their weights. llama.toml explains the form by example.
"""

from __future__ import annotations

import errno
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from shardscan.axes import COUNTS, FREE, ONE, PARTS, Axes
from shardscan.errors import FamilyError, shown

WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")
# ASCII and short: a stranger's name may hold any digits, and a layer is an int32
NUMBER = re.compile(r"(?<![^.])[0-9]{1,6}(?![^.])")
LAYER, EXPERT = "{layer}", "{expert}"
CONFIG_WORDS = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocab_size", "experts")
DERIVED = frozenset({"d", "queries"})  # head_dim, and the query heads of one KV head
RULE_KEYS = frozenset({"role", "axes", "parts", "transposed", "part", "when"})
LARGEST = 1_000_000  # bytes of a family file


@dataclass(frozen=True, slots=True)
class Rule:
    """What one module name means, under the `when` of a config: its role and how its weight is divided.

    `parts` are roles with the words that say how long each is; `part` is that of a tensor whose name does not say.
    `source` is where the rule stands, for people.
    """

    component: str
    role: str
    axes: Axes | None = None
    parts: tuple[tuple[str, str], ...] = ()
    transposed: bool = False
    part: str | None = None
    when: tuple[tuple[str, Any], ...] = ()
    source: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Match:
    """The rules that a module name has, of which the first whose `when` holds counts, and its numbers."""

    rules: tuple[Rule, ...]
    layer: int | None
    expert: int | None


@dataclass(frozen=True)
class Family:
    """Rules by module name, in which numbers are written `{layer}` and `{expert}`.

    `config` has the keys of our words, `sections` where in the config they may lie. A `tower` stands beside other
    families, in models of several.
    """

    name: str
    architectures: tuple[str, ...]
    config: Mapping[str, tuple[str, ...]]
    sections: tuple[str, ...]
    tower: bool
    rules: Mapping[str, tuple[Rule, ...]]

    def match(self, module: str) -> Match | None:
        """The rules of a module, and the layer and expert that it is in; None where there are none."""
        if module in self.rules:
            return Match(self.rules[module], None, None)
        numbers = list(NUMBER.finditer(module))
        for i, layer in enumerate(numbers):
            name = module[: layer.start()] + LAYER + module[layer.end() :]
            if name in self.rules:
                return Match(self.rules[name], int(layer[0]), None)
            for expert in numbers[i + 1 :]:
                between = module[layer.end() : expert.start()]
                name = module[: layer.start()] + LAYER + between + EXPERT + module[expert.end() :]
                if name in self.rules:
                    return Match(self.rules[name], int(layer[0]), int(expert[0]))
        return None


def families(paths: Iterable[str | os.PathLike[str]] = ()) -> Mapping[str, Family]:
    """The families in the TOML files, or folders of them, at `paths`, then those that ship with shardscan, by name.

    A file that has the name of a family of ours takes its place. FamilyError where one cannot be read or is wrong.
    """
    given = {str(file): _text(file) for path in paths for file in _files(Path(path))}
    if not given:
        return _shipped()
    texts = {_name(text, source): (text, source) for source, text in given.items()}
    theirs = _parsed(texts, {**_tables(_texts()), **_tables(texts)})
    return {**theirs, **{name: family for name, family in _shipped().items() if name not in theirs}}


def parse(text: str, source: str, bases: Mapping[str, Any] | None = None) -> Family:
    """A family from the text of its TOML file; FamilyError names `source` and what is wrong.

    `bases` are the tables of families that it may extend.
    """
    data = _extended(_table(text, source), bases or {}, source)
    try:
        rules: dict[str, tuple[Rule, ...]] = {}
        for component in data["component"]:
            for prefix in component["prefixes"]:
                _add(rules, _rules(component, "outside", prefix, source), source)
                _add(rules, _rules(component, "inside", prefix + component.get("layer", ""), source), source)
        family = Family(
            name=data["name"],
            architectures=tuple(data["architectures"]),
            config={word: tuple(keys) for word, keys in data["config"].items()},
            sections=tuple(data.get("sections", ())),
            tower=bool(data.get("tower", False)),
            rules=rules,
        )
        _check_words(family, source)
        return family
    except (KeyError, TypeError, AttributeError) as error:
        raise FamilyError(_not_a_family(source, error)) from error


@cache
def _shipped() -> Mapping[str, Family]:
    return _parsed(_texts(), _tables(_texts()))


@cache
def _texts() -> Mapping[str, tuple[str, str]]:
    """Text and file name of every family that ships, by its name."""
    files = sorted((f for f in resources.files(__name__).iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {file.name.removesuffix(".toml"): (file.read_text("utf-8"), file.name) for file in files}


def _parsed(texts: Mapping[str, tuple[str, str]], bases: Mapping[str, Any]) -> dict[str, Family]:
    return {name: parse(text, source, bases) for name, (text, source) in texts.items()}


def _tables(texts: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, Any]]:
    return {name: _table(text, source) for name, (text, source) in texts.items()}


def _files(path: Path) -> list[Path]:
    """A file, or the TOML files of a folder."""
    found = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    if not found:
        raise FamilyError(f"{shown(str(path), 400)} holds no .toml file: give the files of families.")
    return found


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
        raise FamilyError(f"{source}: a family needs a name of lower-case letters, digits and _.")
    return name


def _table(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FamilyError(_not_a_family(source, error)) from error


def _not_a_family(source: str, error: Exception) -> str:
    return f"{source} is not a family file ({error!r}); shardscan/families/llama.toml is an example."


def _extended(data: dict[str, Any], bases: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A family's table with what it does not say itself taken from the one that it extends."""
    if "extends" not in data:
        return data
    name = data["extends"]
    if name not in bases:
        raise FamilyError(f"{source}: there is no family {name!r} to extend.")
    # without itself: a family of ours may be extended by one that takes its place, and no circle closes
    base = _extended(bases[name], {other: table for other, table in bases.items() if other != name}, source)
    own = {component["name"]: component for component in data.get("component", ())}
    joined = [_joined(component, own.pop(component["name"], {})) for component in base["component"]]
    return {
        **{key: base[key] for key in ("sections",) if key in base},
        **data,
        "config": {**base["config"], **data.get("config", {})},
        "component": [*joined, *own.values()],
    }


def _joined(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    tables = {key: {**base.get(key, {}), **own.get(key, {})} for key in ("outside", "inside")}
    return {**base, **own, **tables}


def _add(rules: dict[str, tuple[Rule, ...]], more: Mapping[str, tuple[Rule, ...]], source: str) -> None:
    """Put `more` into `rules`; a name that is there already would silently win or lose."""
    twice = next((name for name in more if name in rules), None)
    if twice is not None:
        raise FamilyError(f"{source}: two rules are for {twice!r}; take one of them out.")
    rules |= more


def _rules(component: Mapping[str, Any], table: str, prefix: str, source: str) -> dict[str, tuple[Rule, ...]]:
    rules = {}
    for module, value in component.get(table, {}).items():
        name, alternatives = prefix + module, value if isinstance(value, list) else [value]
        numbers = (name.count(LAYER), name.count(EXPERT))
        if numbers not in ([(1, 0), (1, 1)] if table == "inside" else [(0, 0)]):
            raise FamilyError(
                f"{source}: {name!r} can match no tensor; a name inside a layer holds {LAYER} once, one outside never."
            )
        rules[name] = tuple(_rule(component["name"], a, f"{source}: {name}", source) for a in alternatives)
    return rules


def _rule(component: str, value: str | Mapping[str, Any], where: str, source: str) -> Rule:
    fields: Mapping[str, Any] = {"role": value} if isinstance(value, str) else value
    unknown = next((key for key in fields if key not in RULE_KEYS), None)
    if unknown is not None:
        raise FamilyError(f"{where}: {unknown!r} is none of {', '.join(sorted(RULE_KEYS))}.")
    lengths = fields.get("parts", {})
    parts = tuple((dict.fromkeys(lengths, "") if isinstance(lengths, list) else lengths).items())
    for word in (component, fields["role"], *(role for role, _ in parts)):
        if not WORD.fullmatch(word):
            raise FamilyError(
                f"{source}: {word!r} is not a name of a component or role; write a letter, then up to 39 lower-case "
                "letters, digits or _."
            )
    axes = _axes(fields, where)
    if (PARTS in axes.rows if axes else False) is not bool(parts):
        raise FamilyError(f"{where}: parts and the word parts in axes go together.")
    return Rule(
        component,
        fields["role"],
        axes,
        parts,
        bool(fields.get("transposed", False)),
        fields.get("part"),
        tuple(fields.get("when", {}).items()),
        where,
    )


def _axes(fields: Mapping[str, Any], where: str) -> Axes | None:
    if "axes" not in fields:
        return None
    try:
        return Axes.parse(fields["axes"])
    except ValueError as error:
        raise FamilyError(f"{where}: {fields['axes']!r} are no axes: {error}.") from error


def _check_words(family: Family, source: str) -> None:
    """Every size that axes or parts speak of has keys in the config."""
    known = {*family.config, *DERIVED, *COUNTS, *FREE, ONE}
    for rule in (rule for rules in family.rules.values() for rule in rules):
        words = {word for _, length in rule.parts for word in length.split()} | (
            rule.axes.words if rule.axes else set()
        )
        missing = next((word for word in sorted(words) if word not in known), None)
        if missing is not None:
            raise FamilyError(f"{rule.source}: {missing!r} is no size; say under [config] which keys hold it.")
    if not WORD.fullmatch(family.name):
        raise FamilyError(f"{source}: {family.name!r} is not a name of a family.")
