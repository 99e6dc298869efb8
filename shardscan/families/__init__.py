"""NAME, its data: naming families, read from TOML files and checked when they load.

A family says which architectures it covers, which config keys hold its sizes, and which module names have which role.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from shardscan.errors import FamilyError

WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")
# ASCII and short: a stranger's name may hold any digits, and a layer is an int32
NUMBER = re.compile(r"(?<![^.])[0-9]{1,6}(?![^.])")
LAYER = "{layer}"
HEAD_PLACES = {"(heads d) m": ("out", "heads"), "(kv_heads d) m": ("out", "kv_heads"), "m (heads d)": ("in", "heads")}
CONFIG_WORDS = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocab_size")


@dataclass(frozen=True, slots=True)
class Rule:
    """What one module name means: its role and, for attention, which axis its heads divide and their count."""

    component: str
    role: str
    axis: str | None = None
    count: str | None = None


@dataclass(frozen=True)
class Family:
    """Rules by module name; a layer's number is written `{layer}` in the names of `inside`."""

    name: str
    architectures: tuple[str, ...]
    config: Mapping[str, tuple[str, ...]]
    outside: Mapping[str, Rule]
    inside: Mapping[str, Rule]

    def match(self, module: str) -> tuple[Rule, int | None] | None:
        """The rule of a module and the layer it is in, or None."""
        if module in self.outside:
            return self.outside[module], None
        for number in NUMBER.finditer(module):
            rule = self.inside.get(module[: number.start()] + LAYER + module[number.end() :])
            if rule:
                return rule, int(number[0])
        return None


@cache
def families() -> Mapping[str, Family]:
    """The families that ship with shardscan, by name."""
    folder = resources.files(__name__)
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {family.name: family for family in (parse(f.read_text("utf-8"), f.name) for f in files)}


def parse(text: str, source: str) -> Family:
    """A family from the text of its TOML file; FamilyError names `source` and what is wrong."""
    try:
        data = tomllib.loads(text)
        outside: dict[str, Rule] = {}
        inside: dict[str, Rule] = {}
        for component in data["component"]:
            for prefix in component["prefixes"]:
                _add(outside, _rules(component, "outside", prefix, source), source)
                _add(inside, _rules(component, "inside", prefix + component.get("layer", ""), source), source)
        return Family(
            name=data["name"],
            architectures=tuple(data["architectures"]),
            config={word: tuple(data["config"].get(word, ())) for word in CONFIG_WORDS},
            outside=outside,
            inside=inside,
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise FamilyError(
            f"{source} is not a family file ({error!r}); shardscan/families/llama.toml is an example."
        ) from error


def _add(rules: dict[str, Rule], more: Mapping[str, Rule], source: str) -> None:
    """Put `more` into `rules`; a name that is there already would silently win or lose."""
    twice = next((name for name in more if name in rules), None)
    if twice is not None:
        raise FamilyError(f"{source}: two rules are for {twice!r}; take one of them out.")
    rules |= more


def _rules(component: Mapping[str, Any], table: str, prefix: str, source: str) -> dict[str, Rule]:
    rules = {prefix + module: _rule(component["name"], v, source) for module, v in component.get(table, {}).items()}
    misplaced = next((name for name in rules if (table == "inside") is not (name.count(LAYER) == 1)), None)
    if misplaced is not None:
        raise FamilyError(
            f"{source}: {misplaced!r} can match no tensor; a name inside a layer holds {LAYER} once, one outside never."
        )
    return rules


def _rule(component: str, value: str | Mapping[str, str], source: str) -> Rule:
    fields = {"role": value} if isinstance(value, str) else value
    for word in (component, fields["role"]):
        if not WORD.fullmatch(word):
            raise FamilyError(
                f"{source}: {word!r} is not a name of a component or role; write a letter, then up to 39 lower-case "
                "letters, digits or _."
            )
    heads = fields.get("heads")
    if heads is not None and heads not in HEAD_PLACES:
        raise FamilyError(f"{source}: {heads!r} is not a place of heads; use one of {', '.join(HEAD_PLACES)}.")
    axis, count = HEAD_PLACES[heads] if heads else (None, None)
    return Rule(component, fields["role"], axis, count)
