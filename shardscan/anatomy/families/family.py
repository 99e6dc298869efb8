"""NAME, its values: a family of names, and how the table of one becomes its rules, checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

from shardscan.anatomy.axes import COUNTS, FREE, ONE, PARTS, Axes
from shardscan.anatomy.families.schema import EXPERT, LAYER, refuse
from shardscan.errors import shown

# ASCII and short: a stranger's name may hold any digits, and a layer is an int32
NUMBER = re.compile(r"(?<![^.])[0-9]{1,6}(?![^.])")
NUMBERS = 4  # that are looked at in one name
CONFIG_WORDS = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocab_size", "experts")
DERIVED = frozenset({"d", "queries"})  # head_dim, and the query heads of one KV head


@dataclass(frozen=True, slots=True)
class Rule:
    """What one module name means, under the `when` of a config: its role and how its weight is divided.

    With `when_fits` it counts only for a shape that is what the config's sizes make of the axes.

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
    when_fits: bool = False
    source: str = field(default="", compare=False)


class Match(NamedTuple):
    """The rules that a module name has, of which the first whose `when` holds counts, and its numbers."""

    rules: tuple[Rule, ...]
    layer: int | None
    expert: int | None


class Pattern(NamedTuple):
    """The same of all names that differ in numbers only: which of the numbers in them are the layer's and expert's."""

    rules: tuple[Rule, ...]
    layer: int | None
    expert: int | None

    def match(self, numbers: Sequence[str]) -> Match:
        """What a name with these numbers is."""
        layer = None if self.layer is None else int(numbers[self.layer])
        return Match(self.rules, layer, None if self.expert is None else int(numbers[self.expert]))


@dataclass(frozen=True)
class Family:
    """Rules by module name, in which numbers are written `{layer}` and `{expert}`.

    `prefixes` are what its names begin with. `config` has the keys of our words, `of_component` those that one
    component has of its own, `sections` where in the config they may lie, and `defaults` what a model_type has where it
    says nothing. A `tower` stands beside other families, in models of several.
    """

    name: str
    architectures: tuple[str, ...]
    prefixes: tuple[str, ...]
    config: Mapping[str, tuple[str, ...]]
    of_component: Mapping[str, Mapping[str, tuple[str, ...]]]
    sections: tuple[str, ...]
    defaults: Mapping[str, Mapping[str, int]]
    tower: bool
    rules: Mapping[str, tuple[Rule, ...]]

    @cached_property
    def layered(self) -> frozenset[str]:
        """The components that have layers."""
        return frozenset(rule.component for name, rules in self.rules.items() if LAYER in name for rule in rules)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.rules), default=0)  # a number of six digits is shorter than what stands for it

    @cached_property
    def has_numbers(self) -> bool:
        """Whether its own names have numbers that are no layer's and no expert's, as "layer.0.SelfAttention" has."""
        return any(map(NUMBER.search, self.rules))

    def match(self, module: str, *, bare: bool = False) -> Match | None:
        """The rules of a module, and the layer and expert that it is in; None where there are none.

        A `bare` name has none of the family's prefixes, as it has none beneath somebody's own.
        """
        found = self.find_pattern(module, bare=bare)
        return found.match(NUMBER.findall(module)) if found else None

    def find_pattern(self, module: str, *, bare: bool = False) -> Pattern | None:
        """That of a module; without numbers of its own a family has one for all names that differ in those."""
        found = self._find_pattern(module)
        if found or not bare:
            return found
        return next(filter(None, (self._find_under(own, module) for own in self.prefixes)), None)

    def _find_under(self, own: str, module: str) -> Pattern | None:
        """That of a bare module beneath a prefix, whose own numbers are none of the module's."""
        found, before = self._find_pattern(own + module), len(NUMBER.findall(own))
        if found is None or not before:
            return found
        layer, expert = (n if n is None else n - before for n in (found.layer, found.expert))
        return None if min(layer or 0, expert or 0) < 0 else Pattern(found.rules, layer, expert)

    def _find_pattern(self, module: str) -> Pattern | None:
        if "{" in module or len(module) > self._longest:  # as our own keys have it, or longer than any
            return None
        if module in self.rules:
            return Pattern(self.rules[module], None, None)
        numbers = list(islice(NUMBER.finditer(module), NUMBERS))
        for i, layer in enumerate(numbers):
            name = module[: layer.start()] + LAYER + module[layer.end() :]
            if name in self.rules:
                return Pattern(self.rules[name], i, None)
            for j, expert in enumerate(numbers[i + 1 :], i + 1):
                between = module[layer.end() : expert.start()]
                name = module[: layer.start()] + LAYER + between + EXPERT + module[expert.end() :]
                if name in self.rules:
                    return Pattern(self.rules[name], i, j)
        return None


def build_family(table: Mapping[str, Any], source: str) -> Family:
    """A family from its table, checked and complete; FamilyError names `source` and what is wrong."""
    rules: dict[str, tuple[Rule, ...]] = {}
    for component in table["component"]:
        if "prefixes" not in component:
            raise refuse(
                source, f"component {component['name']!r} has no prefixes; write [''] for names that begin with none"
            )
        for prefix in component["prefixes"]:
            _add(rules, _rules(component, "outside", prefix, source), source)
            _add(rules, _rules(component, "inside", prefix + component.get("layer", ""), source), source)
    family = Family(
        name=table["name"],
        architectures=tuple(table["architectures"]),
        prefixes=tuple(dict.fromkeys(own for component in table["component"] for own in component["prefixes"] if own)),
        config=_keys(table["config"]),
        of_component={c["name"]: _keys(c["config"]) for c in table["component"] if "config" in c},
        sections=tuple(table.get("sections", ())),
        defaults=table.get("defaults", {}),
        tower=table.get("tower", False),
        rules=rules,
    )
    _check_words(family)
    return family


def _keys(config: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {word: tuple(keys) for word, keys in config.items()}


def _add(rules: dict[str, tuple[Rule, ...]], more: Mapping[str, tuple[Rule, ...]], source: str) -> None:
    """Put `more` into `rules`; a name that is there already would silently win or lose."""
    twice = next((name for name in more if name in rules), None)
    if twice is not None:
        raise refuse(source, f"two rules are for {twice!r}; take one of them out")
    rules |= more


def _rules(component: Mapping[str, Any], table: str, prefix: str, source: str) -> dict[str, tuple[Rule, ...]]:
    rules = {}
    for module, value in component.get(table, {}).items():
        name, alternatives = prefix + module, value if isinstance(value, list) else [value]
        numbers = (name.count(LAYER), name.count(EXPERT))
        if numbers not in ([(1, 0), (1, 1)] if table == "inside" else [(0, 0)]):
            what = f"{name!r} can match no tensor; a name inside a layer holds {LAYER} once, one outside never"
            raise refuse(source, what)
        rules[name] = tuple(_rule(component["name"], a, f"{source}: {name}") for a in alternatives)
    return rules


def _rule(component: str, value: str | Mapping[str, Any], where: str) -> Rule:
    fields: Mapping[str, Any] = {"role": value} if isinstance(value, str) else value
    lengths = fields.get("parts", {})
    parts = tuple((dict.fromkeys(lengths, "") if isinstance(lengths, list) else lengths).items())
    axes = _axes(fields, where)
    if wrong := _contradiction(axes, parts, EXPERT in where, fields.get("when_fits", False)):
        raise refuse(where, wrong)
    return Rule(
        component,
        fields["role"],
        axes,
        parts,
        fields.get("transposed", False),
        fields.get("part"),
        tuple(fields.get("when", {}).items()),
        fields.get("when_fits", False),
        where,
    )


def _contradiction(
    axes: Axes | None, parts: tuple[tuple[str, str], ...], of_expert: bool, when_fits: bool
) -> str | None:
    """What of a rule cannot be meant together."""
    lengths = {word for _, length in parts for word in length.split()}
    if (axes is not None and PARTS in axes.rows) is not bool(parts):
        return "parts and the word parts in axes go together"
    if axes is None:
        return "when_fits needs axes" if when_fits else None
    rows, cols = set(axes.rows), set(axes.cols)
    if (axes.stacked or of_expert) and (COUNTS & (rows | cols) or {*COUNTS, ONE} & lengths):
        return "experts have no heads of their own here"
    if axes.rows[-1] == PARTS and COUNTS & rows and not all(length for _, length in parts):
        return "the parts of a head need lengths"
    if COUNTS & cols and COUNTS & lengths:
        return "heads divide the rows or the columns"
    if when_fits and (FREE & (rows | cols) or lengths):
        return "when_fits needs axes whose every word is a size, and parts of one length"
    return None


def _axes(fields: Mapping[str, Any], where: str) -> Axes | None:
    if "axes" not in fields:
        return None
    try:
        return Axes.parse(fields["axes"])
    except ValueError as error:
        raise refuse(where, f"{shown(fields['axes'])} are no axes: {error}") from error


def _check_words(family: Family) -> None:
    """Every size that axes or parts speak of has keys in the config."""
    own = {word for config in family.of_component.values() for word in config}
    known = {*family.config, *own, *DERIVED, *COUNTS, *FREE, ONE}
    for rule in (rule for rules in family.rules.values() for rule in rules):
        of_axes = rule.axes.words if rule.axes else set()
        words = {word for _, length in rule.parts for word in length.split()} | of_axes
        missing = next((word for word in sorted(words) if word not in known), None)
        if missing is not None:
            raise refuse(rule.source, f"{missing!r} is no size; say under [config] which keys hold it")
