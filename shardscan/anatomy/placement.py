"""NAME: every tensor gets a Place (component, layer, role, expert, part) and, if it is a weight, its matrices.

Pure: header facts and config in, frozen values out. What no family names keeps the layer number found in its name and
the role `other`; nothing is dropped. Statistics of quantised codes would be statistics of something else than the
weights, so codes are recognised here and marked.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from shardscan.anatomy.adapters import ADAPTER
from shardscan.anatomy.axes import Heads
from shardscan.anatomy.choosing import choose_families
from shardscan.anatomy.codes import Quantisation
from shardscan.anatomy.families.family import CONFIG_WORDS, Family
from shardscan.anatomy.families.loading import load_families
from shardscan.anatomy.lora import describe_others, pair_factors
from shardscan.anatomy.matrices import Matrix, Neighbours
from shardscan.anatomy.naming import FittedFamily, Named, divide_named, name_tensor, spell_tensor
from shardscan.anatomy.places import KV_ROLES, OTHER, WEIGHT, Anatomy, Place, Placed
from shardscan.shards.address import Checkpoint

ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
NORM_OF = {"q_proj": "q_norm", "k_proj": "k_norm"}  # roles of the norms of q and k


def place_tensors(checkpoint: Checkpoint, known: Mapping[str, Family] | None = None) -> Anatomy:
    """Place every tensor; what is odd about one, such as a shape that heads do not divide, is its `reason`.

    `known` are the families to look in, by default those that ship.
    """
    quantisation = Quantisation(checkpoint.tensors, checkpoint.config)
    spelled = [spell_tensor(tensor, quantisation) for tensor in checkpoint.tensors.values()]
    known = load_families() if known is None else known
    main, families = choose_families(spelled, quantisation, checkpoint.config or {}, known)
    named = [name_tensor(spelling, quantisation, families) for spelling in spelled]
    named = _without_rivals(_with_own_names(named))
    divided = tuple(divide_named(n, beside) for n, beside in _with_neighbours(named))
    placed = _with_reasons(_with_queries(_without_contradictions(named, divided)))
    if shared := checkpoint.shared:
        placed = tuple(_with_shared(p, shared.get(p.tensor.name)) for p in placed)
    used = dict.fromkeys([*([main.family.name] if main else []), *(p.family for p in placed if p.family)])
    return Anatomy(
        "+".join(used) or None,
        {word: main.sizes()[word] if main else None for word in CONFIG_WORDS},
        placed,
        {n.place.component: _sizes_of(n.place.component, n.fitted) for n in named if n.fitted},
    )


def _with_shared(p: Placed, first: str | None) -> Placed:
    return dataclasses.replace(p, shared_with=first) if first else p


def _sizes_of(component: str, fitted: FittedFamily) -> Mapping[str, int | None]:
    sizes = fitted.sizes(component)
    return sizes if component in fitted.family.layered else {**sizes, "layers": 0}


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
    """Its own place, and those of its parts; codes may have several scales, adapters factors that are no LoRA's."""
    if n.rule is None or n.spelled.describes_codes or n.place.part == ADAPTER:
        return set()
    of_parts = n.rule.parts if n.place.part == WEIGHT else ()
    return {n.place, *(dataclasses.replace(n.place, role=role) for role, _ in of_parts)}


def _demoted(n: Named, rivals: int) -> Named:
    layer = "" if n.place.layer is None else f" of layer {n.place.layer}"
    reason = f"{rivals} tensors claim to be the {n.place.part} of {n.place.role}{layer}"
    return dataclasses.replace(n, place=dataclasses.replace(n.place, role=OTHER), rule=None, fitted=None, reason=reason)


def _with_neighbours(named: Sequence[Named]) -> list[tuple[Named, Neighbours]]:
    """Each with what the others tell: the columns of its component's embedding, its layer's o_proj and norms."""
    widths: dict[str, int] = {}
    queries: dict[tuple[str, int | None], int] = {}
    lengths: dict[tuple[str, int | None], dict[str, int]] = defaultdict(dict)
    for n in named:
        layer, shape = (n.place.component, n.place.layer), n.tensor.shape
        if not n.rule or n.place.part != WEIGHT or n.codes:
            continue
        if len(shape) == 2:
            rows, columns = reversed(shape) if n.rule.transposed else shape
            if n.place.role == "embed_tokens":
                widths[n.place.component] = columns
            elif n.place.role == "o_proj":
                queries[layer] = columns
            if n.place.role in NORM_OF:
                lengths[layer][n.place.role] = rows
        elif len(shape) == 1 and n.place.role in NORM_OF.values():
            lengths[layer][n.place.role] = shape[0]
    head_dims = {layer: _head_dim(of) for layer, of in lengths.items()}
    beside = {
        (component, layer): Neighbours(widths.get(component), queries.get((component, layer)), head_dim)
        for component, layer in {(n.place.component, n.place.layer) for n in named}
        for head_dim in [head_dims.get((component, layer))]
    }
    return [(n, beside[n.place.component, n.place.layer]) for n in named]


def _head_dim(lengths: Mapping[str, int]) -> int | None:
    """How long a layer's heads are by its norms of q and k, where each is of one head and not of all."""
    pairs = [(lengths[role], lengths[norm]) for role, norm in NORM_OF.items() if role in lengths and norm in lengths]
    found = {length for _, length in pairs}
    if len(found) != 1 or not all(found) or any(rows % length for rows, length in pairs):
        return None
    return None if all(rows == length for rows, length in pairs) else found.pop()


def _with_reasons(placed: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """With what is odd about adapters' factors that have no product."""
    odd = {p.tensor.name: pair.reason for pair in pair_factors(placed) if pair.reason for p in (pair.a, pair.b) if p}
    odd |= describe_others(placed)
    if not odd:
        return placed
    return tuple(dataclasses.replace(p, reason=odd.get(p.tensor.name) or p.reason) for p in placed)


def _without_contradictions(named: Sequence[Named], placed: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """Fewer heads than the config has are those of a pruned layer only if all that tells of them in it agrees."""
    of_layer: dict[tuple[str, int | None], dict[str, Heads | None]] = defaultdict(dict)
    for p in placed:
        for matrix in p.matrices:
            if matrix.role in ATTENTION and matrix.expert is None:
                of_layer[p.place.component, p.place.layer][matrix.role] = matrix.heads
    contradicting = {layer for layer, heads in of_layer.items() if not _agree(heads)}
    return tuple(
        _without_heads(p) if (p.place.component, p.place.layer) in contradicting and _has_fewer_heads(n, p) else p
        for n, p in zip(named, placed, strict=True)
    )


def _has_fewer_heads(n: Named, p: Placed) -> bool:
    """Whether a matrix has fewer heads than the config says, and its reason says that."""
    sizes = n.fitted.sizes(n.place.component, n.place.layer) if n.fitted else {}
    stated = {role: sizes.get("stated_kv_heads" if role in KV_ROLES else "stated_heads") for role in ATTENTION}
    return any(m.heads is not None and m.heads.count < (stated.get(m.role) or 0) for m in p.matrices)


def _agree(heads: Mapping[str, Heads | None]) -> bool:
    """Whether q and o, k and v of a layer have as many heads, and k's serve q's."""
    counts = {role: of.count if of else 0 for role, of in heads.items()}
    pairs = (("q_proj", "o_proj"), ("k_proj", "v_proj"))
    if any(counts[a] != counts[b] for a, b in pairs if a in counts and b in counts):
        return False
    q, k = counts.get("q_proj"), counts.get("k_proj", counts.get("v_proj"))
    return q is None or k is None or (q == 0 and k == 0) or (k > 0 and q > 0 and q % k == 0)


def _without_heads(p: Placed) -> Placed:
    matrices = tuple(dataclasses.replace(m, heads=None) if m.role in ATTENTION else m for m in p.matrices)
    reason = f"{p.reason}, on which q, k, v and o of its layer do not agree"
    return dataclasses.replace(p, matrices=matrices, reason=reason)


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
