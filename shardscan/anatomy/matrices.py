"""NAME, its matrices: the logical 2-D weights that a tensor holds, each a selection of its rows and columns. Pure.

Most tensors are one matrix. A fused tensor is several parts, a stack one or more of every expert; a weight that is
stored inputs × outputs is turned. What no rule divides is whole, or folded to its first axis × the rest.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from shardscan.anatomy.axes import COUNTS, PARTS, Heads, Indivisible, Part, Run, Sizes, divide_rows
from shardscan.anatomy.families.family import Rule
from shardscan.shards.address import Tensor

WHOLE, PART, EXPERT, FOLDED = "whole", "part", "expert", "folded"
# how ids end, or begin, that are no tensor's: of parts, experts, heads, circuits and deltas
DERIVED = re.compile(r"(#\w*|\[\d+\]|@\d+)\Z|\A(circuit|delta):")
MARKS = "#]@:"  # one is in each of those
MOST_EXPERTS = 1 << 12  # of one layer; a header that claims more has something else in mind
# what reads the residual stream has as many columns as it is wide, what writes to it as many rows
READS = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj"})
WRITES = frozenset({"o_proj", "down_proj"})


@dataclass(frozen=True, slots=True)
class Matrix:
    """A logical 2-D weight (rows = outputs), as a selection of rows and columns of its tensor as it is stored.

    `kind` is whole, part (of a fused tensor), expert (of a stack, or a part of one), or folded, where a tensor that no
    rule divides is seen as first axis × the rest. `turned` ones are stored inputs × outputs.
    """

    id: str
    kind: str
    role: str
    expert: int | None
    rows: int
    cols: int
    heads: Heads | None
    turned: bool
    stored_rows: Run
    stored_cols: Run

    def of(self, id: str, expert: int | None) -> Matrix:
        """The same of a tensor whose ids begin so, and of its expert unless it has its own."""
        return Matrix(
            id + self.id, self.kind, self.role, expert if self.expert is None else self.expert, self.rows, self.cols,
            self.heads, self.turned, self.stored_rows, self.stored_cols,
        )  # fmt: skip

    @property
    def has_columns(self) -> bool:
        """Whether its input channels mean something: those of what is folded do not."""
        return self.kind != FOLDED

    @property
    def stored_axis(self) -> str | None:
        """The axis that heads divide as it is stored, 'out' for rows."""
        if self.heads is None:
            return None
        return self.heads.axis if not self.turned else {"out": "in", "in": "out"}[self.heads.axis]

    @property
    def divided(self) -> tuple[str, int] | None:
        """The stored axis and the length of its heads."""
        return None if self.heads is None else (self.stored_axis or "out", self.heads.dim)


class Neighbours(NamedTuple):
    """What other tensors tell of one: how wide the residual stream is, by the embedding, and of its own layer.

    That is how many rows q has, by o_proj, and how long heads are, by the norms of q and k.
    """

    width: int | None
    queries: int | None
    head_dim: int | None = None


class Divided(NamedTuple):
    """The matrices of a weight, and what is odd about them; `Matrix.of` says whose they are."""

    matrices: tuple[Matrix, ...]
    reason: str | None


def divide_matrices(
    shape: tuple[int, ...], role: str, rule: Rule | None, family: str, sizes: Sizes, beside: Neighbours
) -> Divided:
    """The matrices of any weight of this shape, of two axes or more, at a place with this role."""
    axes = rule.axes if rule else None
    if beside.head_dim and sizes.get("d"):  # a layer's own goes before the model's; alone it might be a gated q's
        sizes = {**sizes, "head_dim": beside.head_dim, "d": beside.head_dim}
    experts = _experts(shape, sizes) if axes and axes.stacked else None
    if axes and axes.stacked and experts is None:
        return Divided((_all_of(shape, role, False),), f"no stack of experts, which family {family} takes it for")
    if len(shape) > 2 and experts is None:
        return Divided((_all_of(shape, role, False),), None)
    if rule is None or axes is None:
        return Divided((_all_of(shape, role, bool(rule and rule.transposed)),), None)
    down, across = math.prod(shape[:-1]) // (experts or 1), shape[-1]
    rows = across if rule.transposed else down
    if _is_turned(role, rows, down if rule.transposed else across, beside.width, sizes.get("hidden_size")):
        return Divided((_all_of(shape, role, False),), f"stored the other way round than family {family} has it")
    reason: str | None = None
    try:
        parts = divide_rows(axes, dict(rule.parts), rows, sizes, beside.queries)
    except Indivisible as error:
        parts, reason = [Part(None, Run.of(0, rows), None, None)], f"{rows} rows, which in family {family} {error}"
    divided = [
        _heads(part, axes.cols, len(part.rows), down if rule.transposed else across, family, sizes) for part in parts
    ]
    made = _cut(role, rule.transposed, experts, (down, across), parts, [heads for heads, _ in divided])
    return Divided(tuple(made), next((odd for odd in (reason, *(odd for _, odd in divided)) if odd), None))


def _is_turned(role: str, rows: int, cols: int, width: int | None, stated: int | None) -> bool:
    """Whether a weight would read or write the residual stream only if it were turned.

    The embedding has its width, but for models that widen it: `stated` is what the config says.
    """
    own, other = (cols, rows) if role in READS else (rows, cols)
    return role in READS | WRITES and own not in (width, stated) and other == width


def fits(rule: Rule, shape: tuple[int, ...], sizes: Sizes) -> bool:
    """Whether rows and columns are as long as the config's sizes make them; not where it does not say."""
    if rule.axes is None or len(shape) < 2:
        return False
    known = {**sizes, PARTS: len(rule.parts)}
    lengths = (shape[-1], shape[-2]) if rule.transposed else (shape[-2], shape[-1])
    axes = [[known.get(word) for word in words] for words in (rule.axes.rows, rule.axes.cols)]
    return all(None not in axis and math.prod(filter(None, axis)) == n for axis, n in zip(axes, lengths, strict=True))


def _experts(shape: tuple[int, ...], sizes: Sizes) -> int | None:
    """How many experts a stack has: its first axis, or, where they lie one below the other, the config's number."""
    experts = shape[0] if len(shape) == 3 else sizes.get("experts")
    if experts is None or experts > MOST_EXPERTS or len(shape) > 3 or shape[0] % experts:
        return None
    return experts


def _all_of(shape: tuple[int, ...], role: str, turned: bool) -> Matrix:
    """A tensor as one matrix."""
    down, across = shape[0], math.prod(shape[1:])
    rows, cols = (across, down) if turned else (down, across)
    kind = FOLDED if len(shape) > 2 else WHOLE
    return Matrix("", kind, role, None, rows, cols, None, turned, Run.of(0, down), Run.of(0, across))


def id_of(tensor: Tensor) -> str:
    """The tensor's name, which ids of parts, experts and heads begin with; marked where it looks like one of those."""
    name = tensor.name
    return f"{name}#" if any(mark in name for mark in MARKS) and DERIVED.search(name) else name


def _cut(
    role: str,
    turned: bool,
    experts: int | None,
    shape: tuple[int, int],
    parts: list[Part],
    heads: list[Heads | None],
) -> Iterator[Matrix]:
    """The parts of a tensor, or of every expert of a stack, whose `shape` is one expert's as it is stored."""
    down, across = shape
    for number in range(experts) if experts else [None]:
        for part, division in zip(parts, heads, strict=True):
            along, other = part.rows, Run.of(0, down if turned else across)
            stored_rows, stored_cols = (other, along) if turned else (along, other)
            if number is not None:
                stored_rows = dataclasses.replace(stored_rows, start=stored_rows.start + number * down)
            yield Matrix(
                id=("" if number is None else f"[{number}]") + (f"#{part.role}" if part.role else ""),
                kind=EXPERT if number is not None else PART if part.role else WHOLE,
                role=part.role or role,
                expert=number,
                rows=len(along),
                cols=len(other),
                heads=division,
                turned=turned,
                stored_rows=stored_rows,
                stored_cols=stored_cols,
            )


def _heads(
    part: Part, columns: tuple[str, ...], rows: int, cols: int, family: str, sizes: Sizes
) -> tuple[Heads | None, str | None]:
    """The heads of an attention weight: as many as its shape holds; a pruned layer has fewer than the config says.

    `queries` are yet those of the config.
    """
    axis, side, length, dim, counted_by = "out", "rows", rows, part.dim, part.count
    if counted_by is None:
        if not COUNTS & set(columns):
            return None, None
        axis, side, length, dim, counted_by = "in", "columns", cols, sizes.get(columns[-1]), columns[0]
    if dim is None:
        return None, "heads unknown: no config.json says how large they are"
    if length % dim:
        return None, f"{length} {side}, which family {family} cannot split into heads of {dim}"
    count, most, stated, reason = length // dim, sizes.get(counted_by), sizes.get(f"stated_{counted_by}"), None
    if most and most < count:
        # nothing adds heads: then their length is not what we take it for
        said = f"config.json says {most}" if stated else f"there should be {most}"
        return None, f"{length} {side}, which are {count} heads of {dim} where {said}"
    if stated and stated != count:
        reason = f"{count} {'head' if count == 1 else 'heads'} where config.json says {stated}"
    return Heads(axis, count, dim, sizes.get("queries") if counted_by == "kv_heads" else 1), reason
