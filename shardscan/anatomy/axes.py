"""NAME, its shapes: how the axes of a stored weight hold experts, parts and heads, written as one line. Pure.

    "(heads d) m"          rows are heads of d each: q_proj
    "m (heads d)"          columns are: o_proj
    "(parts heads d) m"    one part after the other: GPT-2's c_attn, q, k and v
    "(heads parts d) m"    all parts of one head, then those of the next: GPT-NeoX
    "experts (f parts) m"  a stack of matrices, one for each expert, whose rows alternate: gpt-oss

Rows are outputs; a weight that is stored inputs × outputs is written as it would be after turning. `m` and `f` are
as long as they are; every other word is a size that the family finds in the config, `d` its head_dim. Parts of one
length are a list; a part of length "1" is one head.

A matrix is then a selection of rows and columns of its tensor. How many heads it has follows from its shape, and their
length from the config: a pruned layer has fewer heads than the config says, never shorter ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

PATTERN = re.compile(r"(?:(experts) )?(\([a-z0-9_ ]+\)|[a-z0-9_]+) (\([a-z0-9_ ]+\)|[a-z0-9_]+)")
EXPERTS, PARTS = "experts", "parts"
QUERIES = "q_proj"
FREE = frozenset({"m", "f"})
ONE = "1"
COUNTS = frozenset({"heads", "kv_heads", "queries"})
# what counts the heads of a part, by its own word: the queries of each KV head are heads, one is a KV head
COUNTED_AS = {"heads": "heads", "queries": "heads", "kv_heads": "kv_heads", ONE: "kv_heads"}

Sizes = Mapping[str, int | None]


class Indivisible(ValueError):
    """A shape that axes do not divide; its text completes the sentence "3072 rows, which …"."""


@dataclass(frozen=True, slots=True)
class Axes:
    """One line, parsed: the words of rows and columns, and whether a stack of experts comes before them."""

    text: str
    stacked: bool
    rows: tuple[str, ...]
    cols: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Axes:
        """ValueError where `text` is no such line."""
        match = PATTERN.fullmatch(text)
        if not match:
            raise ValueError('write rows and columns, such as "(heads d) m"')
        rows, cols = (tuple(axis.strip("()").split()) for axis in match.group(2, 3))
        if EXPERTS in (*rows, *cols):
            raise ValueError("experts come first, before rows and columns")
        if PARTS in cols or rows.count(PARTS) > 1:
            raise ValueError("parts divide the rows, once")
        if not all(map(_is_axis, (rows, cols))):
            raise ValueError('an axis is one word, or the number of heads and then their length, such as "(heads d)"')
        if COUNTS & set(rows) and COUNTS & set(cols):
            raise ValueError("heads divide the rows or the columns")
        return cls(text, match[1] is not None, rows, cols)

    @property
    def words(self) -> frozenset[str]:
        """The sizes that it takes from a config."""
        return frozenset({*self.rows, *self.cols}) - FREE - {PARTS, ONE}


def _is_axis(words: tuple[str, ...]) -> bool:
    """Whether the words of an axis, less `parts`, are one, or a count and a length."""
    sizes = [word for word in words if word != PARTS]
    if not COUNTS & set(sizes):
        return len(sizes) == 1 or (not sizes and PARTS in words)
    is_last = words[-1] == sizes[-1]  # a count alone needs parts for a length, a length ends its head
    return sizes[0] in COUNTS and (
        (len(sizes) == 1 and not is_last) or (len(sizes) == 2 and is_last and sizes[1] not in {*COUNTS, *FREE, ONE})
    )


@dataclass(frozen=True, slots=True)
class Run:
    """Indices along one stored axis: `groups` runs of `length`, `stride` apart, the first from `start` on.

    Of the last, `cut` are left out at its end.
    """

    start: int
    length: int
    stride: int
    groups: int
    cut: int = 0

    @classmethod
    def of(cls, start: int, length: int) -> Run:
        """One run."""
        return cls(start, length, length, 1)

    def __len__(self) -> int:
        return self.length * self.groups - self.cut

    def first(self, n: int) -> Run:
        """The first n of them."""
        groups = -(-n // self.length) if self.length else self.groups
        return replace(self, groups=groups, cut=self.length * groups - n)

    def below(self, index: int) -> int:
        """How many of the indices are less than `index`."""
        groups, rest = divmod(max(0, index - self.start), max(1, self.stride))
        return min(groups * self.length + min(rest, self.length), len(self))

    def indices(self, first: int, last: int) -> np.ndarray:
        """The `first` to `last` of the indices."""
        return self.at(np.arange(first, last))

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """The indices of these numbers, in their order."""
        groups, rest = np.divmod(numbers, max(1, self.length))
        indices: np.ndarray = self.start + groups * self.stride + rest
        return indices


@dataclass(frozen=True, slots=True)
class Heads:
    """How heads divide a matrix: `count` heads of `dim` along rows ('out') or columns ('in').

    `queries` is how many query heads each of them serves; None where neither the layer's q_proj nor the config tells.
    """

    axis: str
    count: int
    dim: int
    queries: int | None

    def slice_shape(self, rows: int, cols: int) -> tuple[int, int]:
        """Rows and columns of one head's slice of a (rows, cols) matrix."""
        return (self.dim, cols) if self.axis == "out" else (rows, self.dim)

    def rank(self, rows: int, cols: int) -> int:
        """Singular values of one head's slice of a (rows, cols) matrix."""
        return min(self.slice_shape(rows, cols))


@dataclass(frozen=True, slots=True)
class Part:
    """Rows with a role of their own, None for all rows; the length of their heads, and what counts them."""

    role: str | None
    rows: Run
    dim: int | None
    count: str | None


def divide_rows(axes: Axes, lengths: Mapping[str, str], rows: int, sizes: Sizes, queries: int | None) -> list[Part]:
    """The parts of a matrix of so many rows: `lengths` has the words of each, '' where all are equal.

    `queries` is how many rows q has, by the layer's o_proj, which is what tells a pruned layer's queries from its keys.
    Indivisible where a size is unknown, or the rows do not hold the parts.
    """
    if PARTS not in axes.rows:
        return [Part(None, Run.of(0, rows), *_heads(axes.rows, sizes))]
    at = axes.rows.index(PARTS)
    outer, inner = axes.rows[:at], axes.rows[at + 1 :]
    runs = _runs(outer, inner, lengths, rows, sizes, queries)
    parts, start = [], 0
    stride = rows if not outer else sum(runs)
    for (role, words), run in zip(lengths.items(), runs, strict=True):
        part = Run(start, run, stride, rows // stride if stride else 0) if outer else Run.of(start, run)
        parts.append(Part(role, part, *_heads_of_part(outer, words.split(), inner, run, sizes)))
        start += run
    of_queries = next((len(part.rows) for part in parts if part.role == QUERIES), None)
    if queries is not None and of_queries not in (None, queries):
        raise Indivisible(f"would be {of_queries} of q_proj, where the layer's o_proj has {queries} columns")
    return parts


def _runs(
    outer: Sequence[str],
    inner: Sequence[str],
    lengths: Mapping[str, str],
    rows: int,
    sizes: Sizes,
    queries: int | None,
) -> list[int]:
    """How many rows of each part come in a run."""
    equal = not any(lengths.values())
    if equal and not outer:
        if rows % len(lengths):
            raise Indivisible(f"cannot be {len(lengths)} equal parts")
        return [rows // len(lengths)] * len(lengths)
    unit = _product(inner, sizes)
    runs = [_product(words.split(), sizes) * unit for words in lengths.values()]
    total = sum(runs)
    if outer:
        if rows % total:
            raise Indivisible(f"are no multiple of {total}, the parts of one of the {' '.join(outer)}")
        return runs
    if rows == total:
        return runs
    if rows > total:  # nothing grows: then it is stored in another way
        raise Indivisible(f"are not the {total} that the parts have by config.json")
    # a pruned layer: its o_proj says how many rows are queries, the others are shared as before
    others = total - dict(zip(lengths, runs, strict=True)).get(QUERIES, total)
    if queries is None or not 0 < queries < rows or not others:
        raise Indivisible(f"are not the {total} that the parts have by config.json")
    shared = [
        queries if role == QUERIES else run * (rows - queries) // others
        for role, run in zip(lengths, runs, strict=True)
    ]
    if sum(shared) != rows or any(run % unit for run in shared):
        raise Indivisible(
            f"are not the {total} that the parts have by config.json, nor {queries} of q and equal others"
        )
    return shared


def _heads(words: Sequence[str], sizes: Sizes) -> tuple[int | None, str | None]:
    """The length of heads and what counts them, of an axis that is not in parts: "(heads d)"."""
    if not COUNTS & set(words):
        return None, None
    return sizes.get(words[-1]), words[0]


def _heads_of_part(
    outer: Sequence[str], words: Sequence[str], inner: Sequence[str], run: int, sizes: Sizes
) -> tuple[int | None, str | None]:
    """Likewise of a part, whose own `words` stand where the axis says parts."""
    all_words = (*outer, *words, *inner)
    if not ({*COUNTS, ONE} & set(all_words)):
        return None, None
    own = next((COUNTED_AS[word] for word in words if word in COUNTED_AS), None)
    if ONE in words and "kv_heads" not in outer:
        own = ONE  # the only one, whatever a config says of KV heads: Falcon-7B says 71
    count = own or next(word for word in all_words if word in COUNTS)
    length = [word for word in (*words, *inner) if word not in COUNTS and word != ONE]
    return (sizes.get(length[-1]) if length else run), count


def _product(words: Sequence[str], sizes: Sizes) -> int:
    known = [1 if word == ONE else sizes.get(word) for word in words]
    if None in known:
        unknown = words[known.index(None)]
        raise Indivisible(f"cannot be divided: no config.json says how large {unknown} is")
    return math.prod(size for size in known if size)
