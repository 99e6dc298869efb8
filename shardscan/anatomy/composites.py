"""NAME, its products: matrices that no file holds, each of two weights that one does. Pure.

The circuits of query head h (Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021): OV,
W_O[:, h] · W_V[kv(h)], is what the head writes for what it reads, and QK, W_Q[h]ᵀ · W_K[kv(h)], where it looks, less
RoPE, biases and the norms of q and k. kv(h) = h // (query heads of a KV head).

The delta of a LoRA pair (Hu et al., arXiv 2106.09685) is B · A, what it adds to a weight before it is scaled by
lora_alpha / r; that of an embedding, which is stored the other way round, is Aᵀ · Bᵀ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from shardscan.anatomy.axes import Heads, Run
from shardscan.anatomy.lora import Pair, pair_factors
from shardscan.anatomy.matrices import WHOLE, Matrix, id_of
from shardscan.anatomy.places import OTHER, Anatomy, Placed
from shardscan.shards.dtypes import DTYPES

CIRCUIT, DELTA = "circuit", "delta"
# the roles whose heads multiply: on the left one head for each query head, on the right one for each KV head
CIRCUITS = {"ov": ("o_proj", "v_proj"), "qk": ("q_proj", "k_proj")}


@dataclass(frozen=True, slots=True)
class Factor:
    """A weight as its heads multiply: each is a (length, heads.dim) matrix, whichever way it is stored."""

    placed: Placed
    matrix: Matrix
    heads: Heads

    @property
    def length(self) -> int:
        return self.matrix.cols if self.heads.axis == "out" else self.matrix.rows

    @property
    def nbytes(self) -> int:
        return DTYPES[self.placed.tensor.dtype].nbytes(self.matrix.rows * self.matrix.cols)


@dataclass(frozen=True, slots=True)
class Composite:
    """Of every head of a layer's weight, left · rightᵀ: the (rows, cols) product of its slice and of its partner's.

    `id` is that of all heads; the id of one circuit ends in its number. A delta has one head.
    """

    id: str
    kind: str
    component: str
    layer: int | None
    role: str
    expert: int | None
    left: Factor
    right: Factor

    @property
    def heads(self) -> int:
        return self.left.heads.count

    @property
    def rows(self) -> int:
        return self.left.length

    @property
    def cols(self) -> int:
        return self.right.length

    @property
    def rank(self) -> int:
        """Singular values of each head that are not 0 by construction."""
        return min(self.rows, self.cols, self.left.heads.dim)

    @property
    def nbytes(self) -> int:
        return self.left.nbytes + self.right.nbytes


def list_composites(anatomy: Anatomy) -> Iterator[Composite]:
    """The circuits of every layer whose weights are there with heads that fit each other, and every pair's delta."""
    factor_of = {(p.place.component, p.place.layer, f.matrix.role): f for p in anatomy.placed for f in _factors(p)}
    for role, factors in CIRCUITS.items():
        for component, layer, first in factor_of:
            left, right = (factor_of.get((component, layer, factor)) for factor in factors)
            if first == factors[0] and left and right and _fit(left, right):
                id = f"{CIRCUIT}:{component}.{_number(layer)}.{role}"
                yield Composite(id, CIRCUIT, component, layer, role, None, left, right)
    seen: Counter[str] = Counter()
    for pair in pair_factors(anatomy.placed):
        if pair.reason is None and pair.a and pair.b:
            where, id = pair.a.place, _delta_id(pair)
            seen[id] += 1
            a, b = _low_rank(pair.a, "out"), _low_rank(pair.b, "in")
            left, right = (a, b) if pair.embedding else (b, a)
            unique = id if seen[id] == 1 else f"{id}~{seen[id]}"
            yield Composite(unique, DELTA, where.component, where.layer, where.role, where.expert, left, right)


def _delta_id(pair: Pair) -> str:
    """By its place where it has one; of several adapters of a module each has its own."""
    assert pair.a
    where = pair.a.place
    expert = "" if where.expert is None else f"[{where.expert}]"
    place = f"{where.component}.{_number(where.layer)}.{where.role}{expert}"
    adapter = f".{pair.adapter}" if pair.adapter and pair.rivals else ""
    return f"{DELTA}:{(pair.module if where.role == OTHER else place) + adapter}"


def _number(layer: int | None) -> str:
    return "-" if layer is None else str(layer)


def _factors(p: Placed) -> Iterator[Factor]:
    """Its float matrices with heads; those of experts have no circuits of their own."""
    for matrix in p.matrices:
        if matrix.heads and matrix.expert is None and DTYPES[p.tensor.dtype].kind == "float":
            yield Factor(p, matrix, matrix.heads)


def _fit(left: Factor, right: Factor) -> bool:
    queries = right.heads.queries
    return left.heads.dim == right.heads.dim and queries is not None and left.heads.count == queries * right.heads.count


def _low_rank(p: Placed, axis: str) -> Factor:
    """A LoRA factor as one head: the rows of A, the columns of B."""
    rows, cols = p.tensor.shape
    heads = Heads(axis, 1, rows if axis == "out" else cols, 1)
    runs = Run.of(0, rows), Run.of(0, cols)
    return Factor(p, Matrix(id_of(p.tensor), WHOLE, p.place.role, None, rows, cols, heads, False, *runs), heads)
