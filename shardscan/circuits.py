"""NAME, its products: which heads of a layer's weights multiply. Pure.

The circuits of query head h (Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021): OV,
W_O[:, h] · W_V[kv(h)], is what the head writes for what it reads, and QK, W_Q[h]ᵀ · W_K[kv(h)], where it looks, less
RoPE, biases and the norms of q and k. kv(h) = h // (query heads of a KV head).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shardscan.anatomy import Anatomy, Placed
from shardscan.axes import Heads
from shardscan.dtypes import DTYPES
from shardscan.matrices import Matrix

# the roles whose heads multiply: on the left one head for each query head, on the right one for each KV head
KINDS = {"ov": ("o_proj", "v_proj"), "qk": ("q_proj", "k_proj")}


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
class Circuit:
    """Of every query head of a layer, left · rightᵀ: the (rows, cols) product of its slice and that of its KV head."""

    component: str
    layer: int | None
    kind: str
    left: Factor
    right: Factor

    @property
    def id(self) -> str:
        """Of all heads; that of one ends in its number."""
        return f"circuit:{self.component}.{'-' if self.layer is None else self.layer}.{self.kind}"

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


def circuits(anatomy: Anatomy) -> Iterator[Circuit]:
    """The circuits of every layer whose weights are there with heads that fit each other."""
    found = {(p.place.component, p.place.layer, f.matrix.role): f for p in anatomy.placed for f in _factors(p)}
    for kind, roles in KINDS.items():
        for component, layer, role in found:
            left, right = (found.get((component, layer, other)) for other in roles)
            if role == roles[0] and left and right and _fit(left, right):
                yield Circuit(component, layer, kind, left, right)


def _factors(p: Placed) -> Iterator[Factor]:
    """Its float matrices with heads; those of experts have no circuits of their own."""
    for matrix in p.matrices:
        if matrix.heads and matrix.expert is None and DTYPES[p.tensor.dtype].kind == "float":
            yield Factor(p, matrix, matrix.heads)


def _fit(left: Factor, right: Factor) -> bool:
    queries = right.heads.queries
    return left.heads.dim == right.heads.dim and queries is not None and left.heads.count == queries * right.heads.count
