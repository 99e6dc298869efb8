"""NAME, one tensor: what the first family that knows its name says of it, and the matrices that it is then. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardscan.anatomy.codes import Quantisation
from shardscan.anatomy.config_sizes import has_lists, holds, sizes_of
from shardscan.anatomy.families.family import NUMBER, Family, Match, Rule
from shardscan.anatomy.matrices import Neighbours, divide_matrices, fits
from shardscan.anatomy.names import canonical, split
from shardscan.anatomy.places import OTHER, WEIGHT, Place, Placed
from shardscan.shards.address import Tensor
from shardscan.shards.dtypes import DTYPES


class FittedFamily:
    """A family as a config completes it; names begin with `prefix` here, before what the family knows itself.

    `beside` another, a tower reads its own sections of the config only.
    """

    def __init__(self, family: Family, config: Mapping[str, Any], *, beside: bool = False, prefix: str = "") -> None:
        self.family, self.config, self.beside, self.prefix = family, config, beside, prefix
        self._sizes: dict[tuple[str | None, int | None], dict[str, int | None]] = {}
        self._by_layer: dict[str | None, bool] = {}

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
        agreeing = [rule for rule in named.rules if holds(rule, self.family, self.config, self.beside)]
        fitting = [r for r in agreeing if r.when_fits and fits(r, shape, self.sizes(r.component))]
        # a shape that fits two of them tells nothing
        rule = next((r for r in agreeing if not r.when_fits or [r] == fitting), None)
        unsure = rule and len(shape) > 1 and not rule.when_fits and any(r.when_fits for r in agreeing)
        return (named, rule, "its shape does not tell how it is stored" if unsure else None) if rule else None

    def _find(self, module: str) -> Match | None:
        if self.prefix and module.startswith(self.prefix):
            return self.family.match_bare(module[len(self.prefix) :])
        return self.family.match(module)


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
        number = NUMBER.search(name)
        where = Place(OTHER, int(number[0]) if number else None, OTHER, None, part)
    codes = quantisation.find_codes(tensor, where.part)
    parameters = 0 if spelled.describes_codes else codes.weights if codes else tensor.parameters
    reason = "statistics are of the moduli" if DTYPES[tensor.dtype].kind == "complex" else reason
    return Named(spelled, name, where, fitted, rule, codes.why if codes else None, parameters, reason)


def divide_named(n: Named, beside: Neighbours) -> Placed:
    """A named tensor with its matrices, by its neighbours where the config does not tell."""
    family, sizes = (n.fitted.family.name, n.fitted.sizes(n.place.component, n.place.layer)) if n.fitted else (None, {})
    # a header may claim billions of channels for a weight that has no values
    is_matrix = n.place.part == WEIGHT and len(n.tensor.shape) > 1 and n.tensor.parameters > 0 and not n.codes
    where = n.place.role, n.place.expert
    matrices, reason = (
        divide_matrices(n.tensor, *where, n.rule, family or "", sizes, beside) if is_matrix else ((), None)
    )
    reason = reason or n.reason
    return Placed(n.tensor, n.canonical_name, n.place, matrices, n.parameters, n.codes, reason, n.rule, family)
