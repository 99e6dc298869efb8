"""NAME: every tensor gets a Place (component, layer, role, expert, part) and, if it is a weight, its matrices.

Pure: header facts and config in, frozen values out. What no family names keeps the layer number found in its name and
the role `other`; nothing is dropped. Statistics of quantised codes would be statistics of something else than the
weights, so codes are recognised here and marked.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from shardscan.anatomy.choosing import choose_readings
from shardscan.anatomy.codes import Quantisation
from shardscan.anatomy.families.family import CONFIG_WORDS, Family
from shardscan.anatomy.families.loading import load_families
from shardscan.anatomy.lora import pair_factors
from shardscan.anatomy.matrices import Matrix, Neighbours
from shardscan.anatomy.naming import Named, Reading, divide_named, name_tensor, spell_tensor
from shardscan.anatomy.places import KV_ROLES, OTHER, WEIGHT, Anatomy, Place, Placed
from shardscan.shards.address import Checkpoint


def place_tensors(checkpoint: Checkpoint, known: Mapping[str, Family] | None = None) -> Anatomy:
    """Place every tensor; what is odd about one, such as a shape that heads do not divide, is its `reason`.

    `known` are the families to look in, by default those that ship.
    """
    quantisation = Quantisation(checkpoint.tensors, checkpoint.config)
    spelled = [spell_tensor(tensor, quantisation) for tensor in checkpoint.tensors.values()]
    known = load_families() if known is None else known
    main, readings = choose_readings(spelled, quantisation, checkpoint.config or {}, known)
    named = [name_tensor(spelling, quantisation, readings) for spelling in spelled]
    named = _without_rivals(_with_own_names(named))
    placed = _with_reasons(_with_queries(tuple(divide_named(n, beside) for n, beside in _with_neighbours(named))))
    used = dict.fromkeys([*([main.family.name] if main else []), *(p.family for p in placed if p.family)])
    return Anatomy(
        "+".join(used) or None,
        {word: main.sizes()[word] if main else None for word in CONFIG_WORDS},
        placed,
        {n.place.component: _sizes_of(n.place.component, n.reading) for n in named if n.reading},
    )


def _sizes_of(component: str, reading: Reading) -> Mapping[str, int | None]:
    sizes = reading.sizes(component)
    return sizes if component in reading.family.layered else {**sizes, "layers": 0}


def _with_own_names(named: list[Named]) -> list[Named]:
    """Where two names are one without their wrappers, those words are no wrappers."""
    counts = Counter(n.canonical_name for n in named)
    return [n if counts[n.canonical_name] == 1 else dataclasses.replace(n, canonical_name=n.tensor.name) for n in named]


def _without_rivals(named: list[Named]) -> list[Named]:
    """Tensors that claim one place are all `other`: which of them the model uses cannot be told from names."""
    claims = Counter(claim for n in named for claim in _claims(n))
    rivals = [max((claims[claim] for claim in _claims(n)), default=1) for n in named]
    return [_demoted(n, most) if most > 1 else n for n, most in zip(named, rivals, strict=True)]


def _claims(n: Named) -> set[Place]:
    """Its own place, and those of its parts; codes may have several scales."""
    if n.rule is None or n.spelled.describes_codes:
        return set()
    of_parts = n.rule.parts if n.place.part == WEIGHT else ()
    return {n.place, *(dataclasses.replace(n.place, role=role) for role, _ in of_parts)}


def _demoted(n: Named, rivals: int) -> Named:
    layer = "" if n.place.layer is None else f" of layer {n.place.layer}"
    reason = f"{rivals} tensors claim to be the {n.place.part} of {n.place.role}{layer}"
    return dataclasses.replace(
        n, place=dataclasses.replace(n.place, role=OTHER), rule=None, reading=None, reason=reason
    )


def _with_neighbours(named: Sequence[Named]) -> list[tuple[Named, Neighbours]]:
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
