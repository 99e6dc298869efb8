"""NAME, its choice: which families a checkpoint is of, and what their names begin with in it. Pure.

The architecture in the config says which family, if that one names layers; else names and shapes do. A model that is a
part of a larger one has a prefix of somebody's own before its names (`policy.`, `llm.`, `pretrained_model.`): where a
family names no layer, whatever stands before all of the names that it would know is tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from shardscan.anatomy.codes import Quantisation
from shardscan.anatomy.families.family import NUMBER, Family, Match
from shardscan.anatomy.matrices import READS, WRITES, Neighbours
from shardscan.anatomy.naming import FittedFamily, Spelled, divide_named, name_tensor

MOST_PATTERNS = 1000  # of names, by which a family is chosen
MOST_WORDS = 8  # that stand before what a family knows
OF_MAIN, OF_TOWER = 0.5, 0.9  # how many of the names that begin with a prefix a family must know under it


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A tensor that stands for all whose names differ from its own in numbers only: layers are alike."""

    spelled: Spelled
    count: int

    @property
    def module(self) -> str:
        return self.spelled.module

    def is_named(self, fitted: FittedFamily) -> bool:
        return self._match(fitted) is not None

    def has_layer(self, fitted: FittedFamily) -> bool:
        found = self._match(fitted)
        return found is not None and found.layer is not None

    def _match(self, fitted: FittedFamily) -> Match | None:
        found = fitted.match(self.module, self.spelled.name, self.spelled.tensor.shape)
        return found[0] if found else None


def choose_families(
    spelled: Iterable[Spelled], quantisation: Quantisation, config: Mapping[str, Any], known: Mapping[str, Family]
) -> tuple[FittedFamily | None, list[FittedFamily]]:
    """The family that names most, None where none fits; and all that tensors are looked up in, that one first.

    What describes codes counts neither for a family nor against it.
    """
    patterns = _list_patterns(spelling for spelling in spelled if not spelling.describes_codes)
    main = _choose_main(patterns, quantisation, config, known)
    families = [main] if main else []
    own = main.family if main else None
    towers = [tower for tower in _list_towers(known, config, main is not None) if tower.family is not own]
    left = _leave_named(patterns, families)
    there = [tower for tower in towers if _is_there(tower, left)]
    return main, [*families, *there, *_find_towers(towers, _leave_named(left, there))]


def _is_there(tower: FittedFamily, left: Sequence[_Pattern]) -> bool:
    """Whether a tower is one of what the family leaves: of layers it names half, not a norm that anybody might have."""
    stems = {stem for pattern in left if pattern.has_layer(tower) and (stem := _stem(pattern.module)) is not None}
    of_layers = [pattern for pattern in left if _stem(pattern.module) in stems]
    return not stems or 2 * _count(p for p in of_layers if p.is_named(tower)) >= _count(of_layers)


def _stem(module: str) -> str | None:
    """What stands before the first number of a name."""
    number = NUMBER.search(module)
    return module[: number.start()] if number else None


def _list_towers(known: Mapping[str, Family], config: Mapping[str, Any], beside: bool) -> list[FittedFamily]:
    return [FittedFamily(family, config, beside=beside) for family in known.values() if family.tower]


def _list_patterns(spelled: Iterable[Spelled]) -> list[_Pattern]:
    alike: dict[str, list[Spelled]] = {}
    for spelling in spelled:
        alike.setdefault(NUMBER.sub("*", spelling.tensor.name), []).append(spelling)
    step = -(-len(alike) // MOST_PATTERNS) or 1  # no model has as many: this is for names without any pattern
    return [_Pattern(of[0], len(of)) for of in islice(alike.values(), None, None, step)]


def _choose_main(
    patterns: Sequence[_Pattern], quantisation: Quantisation, config: Mapping[str, Any], known: Mapping[str, Family]
) -> FittedFamily | None:
    """By the architecture in the config; else by names, if they name half of the tensors."""
    stated = next((FittedFamily(family, config) for family in known.values() if _is_stated(family, config)), None)
    towers = _list_towers(known, config, stated is not None)
    if stated and any(pattern.has_layer(fitted) for pattern in patterns for fitted in (stated, *towers)):
        return stated
    left = _leave_named(patterns, towers)
    if stated and (prefix := _find_prefix(stated, left, OF_MAIN)):
        return FittedFamily(stated.family, config, prefix=prefix)
    plain = [FittedFamily(family, config) for family in known.values()]
    found = _best(plain, quantisation, patterns)
    if found is None:
        prefixes = ((fitted.family, _find_prefix(fitted, left, OF_MAIN)) for fitted in plain)
        under = [FittedFamily(family, config, prefix=prefix) for family, prefix in prefixes if prefix]
        found = _best(under, quantisation, patterns)
    return found or stated


def _leave_named(patterns: Iterable[_Pattern], families: Sequence[FittedFamily]) -> list[_Pattern]:
    """What none of them names."""
    return [pattern for pattern in patterns if not any(map(pattern.is_named, families))]


def _is_stated(family: Family, config: Mapping[str, Any]) -> bool:
    adapted = config.get("auto_mapping")  # of an adapter's config
    architectures = [adapted.get("base_model_class")] if isinstance(adapted, dict) else config.get("architectures")
    return isinstance(architectures, list) and any(a in family.architectures for a in architectures)


def _best(
    families: Sequence[FittedFamily], quantisation: Quantisation, patterns: Sequence[_Pattern]
) -> FittedFamily | None:
    """The one that fits best, if it and towers name half of the tensors."""
    towers = [fitted for fitted in families if fitted.family.tower]
    scores = [_score(fitted, towers, patterns, quantisation) for fitted in families]
    best = max(range(len(families)), key=lambda i: scores[i], default=None)
    if best is None or scores[best][0] * 2 < max(1, sum(pattern.count for pattern in patterns)):
        return None
    return families[best]


def _score(
    fitted: FittedFamily, towers: Sequence[FittedFamily], patterns: Sequence[_Pattern], quantisation: Quantisation
) -> tuple[int, int, float]:
    """How well a family's names fit, the best first.

    The tensors that it or a tower names, the weights whose axes are as it says, and how much of the family there is.
    """
    others = [tower for tower in towers if tower is not fitted]
    named = [(name_tensor(pattern.spelled, quantisation, [fitted, *others]), pattern.count) for pattern in patterns]
    own = [n for n, _ in named if n.fitted is fitted]
    if not own:
        return 0, 0, 0.0
    total = sum(count for n, count in named if n.rule)
    matrices = [matrix for n in own for matrix in divide_named(n, Neighbours(None, None)).matrices]
    width = next((matrix.cols for matrix in matrices if matrix.role == "embed_tokens"), None)
    reads = sum(matrix.role in READS and matrix.cols == width for matrix in matrices)
    writes = sum(matrix.role in WRITES and matrix.rows == width for matrix in matrices)
    every = {rule for rules in fitted.family.rules.values() for rule in rules}
    return total, reads + writes, len({n.rule for n in own}) / len(every)


# ---- prefixes


def _find_prefix(fitted: FittedFamily, patterns: Sequence[_Pattern], least: float) -> str:
    """What stands before the names of a family that names no layer without it; "" where nothing, or no one thing, does.

    Under it the family names layers, and `least` of all that begins with it.
    """
    counts: Counter[str] = Counter()
    for pattern in patterns:
        for prefix in _list_prefixes(pattern.module):
            found = fitted.family.match(pattern.module[len(prefix) :], bare=True)
            if found and found.layer is not None:
                counts[prefix] += pattern.count
    totals = {}
    for prefix in counts:
        under = FittedFamily(fitted.family, fitted.config, beside=fitted.beside, prefix=prefix)
        below = [pattern for pattern in patterns if pattern.module.startswith(prefix)]
        named = _count(pattern for pattern in below if pattern.is_named(under))
        if named >= least * _count(below):
            totals[prefix] = named
    best = sorted((prefix for prefix in totals if totals[prefix] == max(totals.values())), key=len)
    # of "policy." and "policy.model." the shorter one leaves the family its own; "policy." and "reference." are two
    return best[0] if best and all(prefix.startswith(best[0]) for prefix in best) else ""


def _list_prefixes(module: str) -> Iterator[str]:
    """What may stand before a name that begins at a word of its own, outside the layers."""
    number = NUMBER.search(module)
    at = 0
    for _ in range(MOST_WORDS):
        at = module.find(".", at) + 1
        if not at or (number and at >= number.start()):
            return
        yield module[:at]


def _find_towers(towers: Iterable[FittedFamily], left: Sequence[_Pattern]) -> list[FittedFamily]:
    """The towers that name nearly all of what no family names under a prefix, of several the one that names most."""
    best: dict[str, tuple[int, FittedFamily]] = {}
    for tower in towers:
        if prefix := _find_prefix(tower, left, OF_TOWER):
            found = FittedFamily(tower.family, tower.config, beside=tower.beside, prefix=prefix)
            named = _count(pattern for pattern in left if pattern.is_named(found))
            if named > best.get(prefix, (0,))[0]:
                best[prefix] = named, found
    return [found for _, found in best.values()]


def _count(patterns: Iterable[_Pattern]) -> int:
    return sum(pattern.count for pattern in patterns)
