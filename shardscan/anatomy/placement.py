"""NAME: every tensor gets a Place (component, layer, role, expert, part) and, if it is a weight, its matrices.

Pure: header facts and config in, frozen values out. What no family names keeps the layer number found in its name and
the role `other`; nothing is dropped. Statistics of quantised codes would be statistics of something else than the
weights, so codes are recognised here and marked.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from shardscan.anatomy.codes import codes_of
from shardscan.anatomy.config_sizes import holds, sizes_of
from shardscan.anatomy.families.family import CONFIG_WORDS, NUMBER, Family, Match, Rule
from shardscan.anatomy.families.loading import load_families
from shardscan.anatomy.lora import pair_factors
from shardscan.anatomy.matrices import READS, WRITES, Matrix, Neighbours, divide_matrices, fits
from shardscan.anatomy.names import canonical, split
from shardscan.anatomy.places import KV_ROLES, OTHER, WEIGHT, Anatomy, Place, Placed
from shardscan.shards.address import Checkpoint, Tensor
from shardscan.shards.dtypes import DTYPES

MOST_PATTERNS = 1000  # of names, by which a family is chosen


class _Reading:
    """A family as a config completes it; `beside` another, a tower reads its own sections of the config only."""

    def __init__(self, family: Family, config: Mapping[str, Any], beside: bool = False) -> None:
        self.family, self.config, self.beside = family, config, beside
        self._sizes: dict[str | None, dict[str, int | None]] = {}

    def sizes(self, component: str | None = None) -> Mapping[str, int | None]:
        """The sizes of one of the family's components, or of the family."""
        if component not in self._sizes:
            self._sizes[component] = sizes_of(self.family, self.config, component, self.beside)
        return self._sizes[component]

    def match(self, module: str, name: str, shape: tuple[int, ...]) -> tuple[Match, Rule, str | None] | None:
        """The first rule for a module, or a whole name, that the config and the shape agree with; what is odd then."""
        named = self.family.match(module) or self.family.match(name)
        if not named:
            return None
        agreeing = [rule for rule in named.rules if holds(rule, self.family, self.config, self.beside)]
        fitting = [r for r in agreeing if r.when_fits and fits(r, shape, self.sizes(r.component))]
        # a shape that fits two of them tells nothing
        rule = next((r for r in agreeing if not r.when_fits or [r] == fitting), None)
        unsure = rule and len(shape) > 1 and not rule.when_fits and any(r.when_fits for r in agreeing)
        return (named, rule, "its shape does not tell how it is stored" if unsure else None) if rule else None


@dataclass(frozen=True)
class _Named:
    """A tensor, and the rule that names it, of which family."""

    tensor: Tensor
    canonical_name: str
    place: Place
    reading: _Reading | None
    rule: Rule | None
    codes: str | None
    reason: str | None = None


def place_tensors(checkpoint: Checkpoint, known: Mapping[str, Family] | None = None) -> Anatomy:
    """Place every tensor; what is odd about one, such as a shape that heads do not divide, is its `reason`.

    `known` are the families to look in, by default those that ship.
    """
    config, known = checkpoint.config or {}, load_families() if known is None else known
    main = _choose(checkpoint, config, known)
    towers = [f for f in known.values() if f.tower and f is not main]
    readings = [_Reading(main, config)] if main else []
    readings += [_Reading(tower, config, beside=main is not None) for tower in towers]
    named = _without_rivals([_name(tensor, checkpoint, readings, config) for tensor in checkpoint.tensors.values()])
    placed = _with_reasons(_with_queries(tuple(_placed(n, beside) for n, beside in _with_neighbours(named))))
    used = dict.fromkeys(p.family for p in placed if p.family and not (main and p.family == main.name))
    return Anatomy(
        "+".join([*([main.name] if main else []), *used]) or None,
        {word: readings[0].sizes()[word] if main else None for word in CONFIG_WORDS},
        placed,
    )


def _choose(checkpoint: Checkpoint, config: Mapping[str, Any], known: Mapping[str, Family]) -> Family | None:
    """By the architecture in the config; else by names, if they name half of the tensors."""
    adapted = config.get("auto_mapping")  # of an adapter's config
    architectures = [adapted.get("base_model_class")] if isinstance(adapted, dict) else config.get("architectures")
    wanted = {a for a in architectures if isinstance(a, str)} if isinstance(architectures, list) else set()
    for family in known.values():
        if wanted & set(family.architectures):
            return family
    # layers are alike: one tensor stands for all whose names differ in numbers
    alike: dict[str, list[Tensor]] = {}
    for tensor in checkpoint.tensors.values():
        alike.setdefault(NUMBER.sub("*", tensor.name), []).append(tensor)
    step = -(-len(alike) // MOST_PATTERNS)  # no model has as many: this is for names without any pattern
    alike = dict(islice(alike.items(), None, None, step or 1))
    readings = {name: _Reading(family, config) for name, family in known.items()}
    towers = [reading for reading in readings.values() if reading.family.tower]
    scores = {name: _score(reading, towers, alike, checkpoint, config) for name, reading in readings.items()}
    best = max(scores, key=lambda name: scores[name])
    return known[best] if scores[best][0] * 2 >= max(1, sum(map(len, alike.values()))) else None


def _score(
    reading: _Reading,
    towers: Sequence[_Reading],
    alike: Mapping[str, Sequence[Tensor]],
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
) -> tuple[int, int, float]:
    """How well a family's names fit, the best first.

    The tensors that it or a tower names, the weights whose axes are as it says, and how much of the family there is.
    """
    others = [tower for tower in towers if tower is not reading]
    named = [(_name(tensors[0], checkpoint, [reading, *others], config), len(tensors)) for tensors in alike.values()]
    own = [n for n, _ in named if n.reading is reading]
    if not own:
        return 0, 0, 0.0
    total = sum(number for n, number in named if n.rule)
    matrices = [matrix for n in own for matrix in _placed(n, Neighbours(None, None)).matrices]
    width = next((matrix.cols for matrix in matrices if matrix.role == "embed_tokens"), None)
    reads = sum(matrix.role in READS and matrix.cols == width for matrix in matrices)
    writes = sum(matrix.role in WRITES and matrix.rows == width for matrix in matrices)
    every = {rule for rules in reading.family.rules.values() for rule in rules}
    return total, reads + writes, len({n.rule for n in own}) / len(every)


def _name(tensor: Tensor, checkpoint: Checkpoint, readings: Sequence[_Reading], config: Mapping[str, Any]) -> _Named:
    module, part = split(tensor)
    name = canonical(tensor.name)
    number = NUMBER.search(name)
    where = Place(OTHER, int(number[0]) if number else None, OTHER, None, part)
    reading, rule, reason = None, None, None
    for candidate in readings:
        if matched := candidate.match(module, name, tensor.shape):
            (match, rule, reason), reading = matched, candidate
            where = Place(rule.component, match.layer, rule.role, match.expert, rule.part or part)
            break
    reason = "statistics are of the moduli" if DTYPES[tensor.dtype].kind == "complex" else reason
    return _Named(tensor, name, where, reading, rule, codes_of(tensor, checkpoint, where.part, config), reason)


def _without_rivals(named: list[_Named]) -> list[_Named]:
    """Tensors that claim one place are all `other`: which of them the model uses cannot be told from names."""
    claims = Counter(claim for n in named for claim in _claims(n))
    rivals = [max((claims[claim] for claim in _claims(n)), default=1) for n in named]
    return [_demoted(n, most) if most > 1 else n for n, most in zip(named, rivals, strict=True)]


def _claims(n: _Named) -> set[Place]:
    """Its own place, and those of its parts."""
    if n.rule is None:
        return set()
    of_parts = n.rule.parts if n.place.part == WEIGHT else ()
    return {n.place, *(dataclasses.replace(n.place, role=role) for role, _ in of_parts)}


def _demoted(n: _Named, rivals: int) -> _Named:
    layer = "" if n.place.layer is None else f" of layer {n.place.layer}"
    reason = f"{rivals} tensors claim to be the {n.place.part} of {n.place.role}{layer}"
    return dataclasses.replace(
        n, place=dataclasses.replace(n.place, role=OTHER), rule=None, reading=None, reason=reason
    )


def _with_neighbours(named: Sequence[_Named]) -> list[tuple[_Named, Neighbours]]:
    """Each with what the others tell: the columns of its component's embedding, and of its layer's o_proj."""
    widths: dict[str, int] = {}
    queries: dict[tuple[str, int | None], int] = {}
    for n in named:
        if n.rule and n.place.part == WEIGHT and len(n.tensor.shape) == 2 and not n.codes:
            columns = n.tensor.shape[0 if n.rule.transposed else 1]
            if n.place.role == "embed_tokens":
                widths[n.place.component] = columns
            elif n.place.role == "o_proj":
                queries[n.place.component, n.place.layer] = columns
    return [
        (n, Neighbours(widths.get(n.place.component), queries.get((n.place.component, n.place.layer)))) for n in named
    ]


def _placed(n: _Named, beside: Neighbours) -> Placed:
    family, sizes = (n.reading.family.name, n.reading.sizes(n.place.component)) if n.reading else (None, {})
    # a header may claim billions of channels for a weight that has no values
    is_matrix = n.place.part == WEIGHT and len(n.tensor.shape) > 1 and n.tensor.parameters > 0 and not n.codes
    where = n.place.role, n.place.expert
    matrices, reason = (
        divide_matrices(n.tensor, *where, n.rule, family or "", sizes, beside) if is_matrix else ((), None)
    )
    return Placed(n.tensor, n.canonical_name, n.place, matrices, n.codes, reason or n.reason, n.rule, family)


def _with_reasons(placed: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """With what is odd about LoRA factors that have no product."""
    odd = {p.tensor.name: pair.reason for pair in pair_factors(placed) if pair.reason for p in (pair.a, pair.b) if p}
    if not odd:
        return placed
    return tuple(dataclasses.replace(p, reason=odd.get(p.tensor.name) or p.reason) for p in placed)


def _with_queries(placed: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """With the query heads of each KV head as the layer's own q_proj has them, where it is there."""
    queries = {
        (p.place.component, p.place.layer): matrix.heads.count if matrix.heads else 0
        for p in placed
        for matrix in p.matrices
        if matrix.role == "q_proj"
    }
    return tuple(
        p if (count := queries.get((p.place.component, p.place.layer))) is None
        else dataclasses.replace(p, matrices=tuple(_served(matrix, count) for matrix in p.matrices))
        for p in placed
    )  # fmt: skip


def _served(matrix: Matrix, query_heads: int) -> Matrix:
    if matrix.heads is None or matrix.role not in KV_ROLES:
        return matrix
    count = matrix.heads.count
    queries = query_heads // count if query_heads and query_heads % count == 0 else None
    return dataclasses.replace(matrix, heads=dataclasses.replace(matrix.heads, queries=queries))
