"""NAME, one tensor: what the first family that knows its name says of it, and the matrices that it is then. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardscan.anatomy.adapters import find_underscored
from shardscan.anatomy.codes import Quantisation
from shardscan.anatomy.config_sizes import has_lists, holds, sizes_of
from shardscan.anatomy.families.family import NUMBER, Family, Match, Pattern, Rule
from shardscan.anatomy.matrices import Divided, Matrix, Neighbours, divide_matrices, fits, id_of
from shardscan.anatomy.names import canonical, split
from shardscan.anatomy.places import OTHER, WEIGHT, Place, Placed
from shardscan.shards.address import Tensor
from shardscan.shards.dtypes import DTYPES

BETWEEN_NUMBERS = re.compile(f"({NUMBER.pattern})")  # splits a name into what stands between its numbers, and these


class FittedFamily:
    """A family as a config completes it; names begin with `prefix` here, before what the family knows itself.

    `beside` another, a tower reads its own sections of the config only.
    """

    def __init__(self, family: Family, config: Mapping[str, Any], *, beside: bool = False, prefix: str = "") -> None:
        self.family, self.config, self.beside, self.prefix = family, config, beside, prefix
        self._sizes: dict[tuple[str | None, int | None], dict[str, int | None]] = {}
        self._by_layer: dict[str | None, bool] = {}
        # a checkpoint may have 200,000 tensors, and a few sorts of them: each is answered once
        self._patterns: dict[tuple[bool | str, ...], Pattern | None] = {}
        self._agreed: dict[tuple[int, tuple[int, ...]], tuple[Rule | None, str | None]] = {}
        self._divided: dict[tuple[object, ...], Divided] = {}

    def sizes(self, component: str | None = None, layer: int | None = None) -> Mapping[str, int | None]:
        """The sizes of one of the family's components, in one of its layers, or of the family."""
        if component not in self._by_layer:
            self._by_layer[component] = has_lists(self.family, self.config, component, self.beside)
        key = component, layer if self._by_layer[component] else None
        if key not in self._sizes:
            self._sizes[key] = sizes_of(self.family, self.config, component, self.beside, key[1])
        return self._sizes[key]

    def match(self, module: str, name: str, shape: tuple[int, ...]) -> tuple[Match, Rule, str | None] | None:
        """The first rule for a module, or a whole name, that the config and the shape agree with; what is odd then."""
        named = self._find(module) or self._find(name)
        if not named:
            return None
        key = id(named.rules), shape
        if key not in self._agreed:
            self._agreed[key] = self._agree(named.rules, shape)
        rule, odd = self._agreed[key]
        return (named, rule, odd) if rule else None

    def _agree(self, rules: tuple[Rule, ...], shape: tuple[int, ...]) -> tuple[Rule | None, str | None]:
        agreeing = [rule for rule in rules if holds(rule, self.family, self.config, self.beside)]
        fitting = [r for r in agreeing if r.when_fits and fits(r, shape, self.sizes(r.component))]
        # a shape that fits two of them tells nothing
        rule = next((r for r in agreeing if not r.when_fits or [r] == fitting), None)
        unsure = rule and len(shape) > 1 and not rule.when_fits and any(r.when_fits for r in agreeing)
        return rule, "its shape does not tell how it is stored" if unsure else None

    def _find(self, module: str) -> Match | None:
        bare = bool(self.prefix) and module.startswith(self.prefix)
        own = module[len(self.prefix) :] if bare else module
        if self.family.has_numbers:
            return self.family.match(own, bare=bare)
        words = BETWEEN_NUMBERS.split(own)
        key = bare, *words[::2]
        if key not in self._patterns:
            self._patterns[key] = self.family.find_pattern(own, bare=bare)
        pattern = self._patterns[key]
        return pattern.match(words[1::2]) if pattern else None

    def divide(self, rule: Rule, place: Place, shape: tuple[int, ...], beside: Neighbours) -> Divided:
        """The matrices of a weight of this shape at a place, without a tensor's name and expert."""
        sizes = self.sizes(place.component, place.layer)
        key = id(rule), id(sizes), shape, beside
        if key not in self._divided:
            self._divided[key] = divide_matrices(shape, place.role, rule, self.family.name, sizes, beside)
        return self._divided[key]


@dataclass(frozen=True, slots=True)
class Spelled:
    """What a tensor's name says by itself; `describes_codes` is true of what lies beside quantised ones."""

    tensor: Tensor
    name: str
    module: str
    part: str
    describes_codes: bool


@dataclass(frozen=True)
class Named:
    """A tensor, and the rule that names it, of which family; `parameters` are those of Placed."""

    spelled: Spelled
    canonical_name: str
    place: Place
    fitted: FittedFamily | None
    rule: Rule | None
    codes: str | None
    parameters: int | None
    reason: str | None = None

    @property
    def tensor(self) -> Tensor:
        return self.spelled.tensor


def spell_tensor(tensor: Tensor, quantisation: Quantisation) -> Spelled:
    """The module that a tensor belongs to, and which part of it it is."""
    found = quantisation.find_part(tensor)
    return Spelled(tensor, canonical(tensor.name), *split(tensor, found), found is not None and found.part != WEIGHT)


def name_tensor(spelled: Spelled, quantisation: Quantisation, families: Sequence[FittedFamily]) -> Named:
    """A tensor as the first of some families that knows it names it; `other` where none does."""
    tensor, name, part = spelled.tensor, spelled.name, spelled.part
    fitted, rule, reason = None, None, None
    for candidate in families:
        if matched := candidate.match(spelled.module, name, tensor.shape):
            (match, rule, reason), fitted = matched, candidate
            where = Place(rule.component, match.layer, rule.role, match.expert, rule.part or part)
            break
    else:
        number = NUMBER.search(name) or find_underscored(name)
        where = Place(OTHER, int(number[0]) if number else None, OTHER, None, part)
    codes = quantisation.find_codes(tensor, where.part)
    parameters = 0 if spelled.describes_codes else codes.weights if codes else tensor.parameters
    reason = "statistics are of the moduli" if DTYPES[tensor.dtype].kind == "complex" else reason
    return Named(spelled, name, where, fitted, rule, codes.why if codes else None, parameters, reason)


def divide_named(n: Named, beside: Neighbours) -> Placed:
    """A named tensor with its matrices, by its neighbours where the config does not tell."""
    tensor, place, family = n.tensor, n.place, n.fitted.family.name if n.fitted else None
    matrices: tuple[Matrix, ...] = ()
    reason = n.reason
    # a header may claim billions of channels for a weight that has no values
    if place.part == WEIGHT and len(tensor.shape) > 1 and not n.codes and 0 not in tensor.shape:
        divided = (
            n.fitted.divide(n.rule, place, tensor.shape, beside)
            if n.fitted and n.rule
            else divide_matrices(tensor.shape, place.role, None, "", {}, beside)
        )
        id = id_of(tensor)
        matrices = tuple(matrix.of(id, place.expert) for matrix in divided.matrices)
        reason = divided.reason or n.reason
    return Placed(tensor, n.canonical_name, place, matrices, n.parameters, n.codes, reason, n.rule, family)
