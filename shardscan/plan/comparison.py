"""PLAN, its pairs: two weights that are compared value by value, and what of them is read together. Pure.

A comparison is cut as a scan is: a task is the unit of commit, a unit is what is read together, a block is a run of
whole rows of b, as they are stored, with the strips of a that hold the same values. So both are read once; but of
sides that are stored different ways round, all of a is read for each block, which is why those are larger. The grid
depends on the pairs alone, so that any machine adds in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from shardscan.anatomy.axes import Run
from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.errors import CheckpointError, shown
from shardscan.plan.tasks import ROW_MULTIPLE
from shardscan.shards.address import Window
from shardscan.shards.dtypes import DTYPES

SIDES = 2
BLOCK_BYTES = 8 << 20  # of either side
ACROSS = 4  # times as many where sides are stored different ways round: so often all of a is read less
BLOCK_ROWS = 1 << 18  # whose numbers, 8 bytes each, are to stay small beside the values
TASK_BYTES = 128 << 20  # of both: what a killed run does again
CHUNK = 1 << 15  # channels in one file; a task has its own
GAP_BYTES = 64 << 10  # between rows that are needed: less is read through


@dataclass(frozen=True, slots=True)
class Side:
    """One weight of one model: a matrix of a tensor; a tensor that has none is seen as one row of all its values.

    Or what comes first of it: `rows` and `cols` are how many, all where they are None.
    """

    placed: Placed
    matrix: Matrix | None
    rows: int | None = None
    cols: int | None = None

    def first(self, *, rows: int | None = None, cols: int | None = None) -> Side:
        """The same without what comes after so many rows, and after so many columns."""
        return replace(self, rows=rows, cols=cols)

    @property
    def id(self) -> str:
        """The matrix's id, else the tensor's name."""
        return self.matrix.id if self.matrix else self.placed.tensor.name

    @property
    def whole_shape(self) -> tuple[int, int]:
        """Rows (outputs) and columns (inputs) of all of it."""
        return (self.matrix.rows, self.matrix.cols) if self.matrix else (1, self.placed.tensor.parameters)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are compared."""
        rows, cols = self.whole_shape
        return rows if self.rows is None else self.rows, cols if self.cols is None else self.cols

    @property
    def turned(self) -> bool:
        """Whether it is stored inputs × outputs, as values in one row are: they are cut between any two."""
        return self.matrix.turned if self.matrix else True

    @property
    def stored_rows(self) -> Run:
        """Where what is compared lies along the first stored axis."""
        run = self.matrix.stored_rows if self.matrix else Run.of(0, self.placed.tensor.parameters)
        return run.first(self.shape[self.turned])

    @property
    def stored_cols(self) -> Run:
        """Likewise along the second."""
        run = self.matrix.stored_cols if self.matrix else Run.of(0, 1)
        return run.first(self.shape[not self.turned])

    @property
    def width(self) -> int:
        """Values in a whole row of its tensor, as it is stored."""
        return self.placed.stored_shape[1] if self.matrix else 1


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A weight of model a and the weight of model b that came of it, of one shape once a is restricted.

    Row i of b's matrix is row `rows[i]` of a's, int64 in any order, or row i where `rows` is None; so the columns by
    `cols`. CheckpointError where the shapes do not allow it.
    """

    a: Side
    b: Side
    rows: np.ndarray | None = None
    cols: np.ndarray | None = None

    def __post_init__(self) -> None:
        for what, kept, n, m in zip(
            ("rows", "columns"), (self.rows, self.cols), self.a.shape, self.b.shape, strict=True
        ):
            if kept is None and n == m:
                continue
            if kept is None or len(kept) != m or (m and not 0 <= kept.min() <= kept.max() < n):
                raise CheckpointError(
                    f"{shown(self.b.id)} has {m:,} {what} and {shown(self.a.id)} {n:,}: say which of them are which."
                )

    @property
    def is_alike(self) -> bool:
        """Whether both are stored the same way round."""
        return self.a.turned == self.b.turned

    @property
    def is_vector(self) -> bool:
        """Whether it has no channels."""
        return self.b.matrix is None

    @property
    def has_columns(self) -> bool:
        """Whether input channels mean something."""
        return all(side.matrix is not None and side.matrix.has_columns for side in (self.a, self.b))

    @property
    def channels(self) -> int:
        """Rows and columns that have figures of their own."""
        return 0 if self.is_vector else self.b.shape[0] + self.b.shape[1] * self.has_columns

    @property
    def values(self) -> int:
        return self.b.shape[0] * self.b.shape[1]

    @property
    def down(self) -> np.ndarray | None:
        """Of `rows` and `cols`, what goes along b's stored rows."""
        return self.cols if self.b.turned else self.rows

    @property
    def across(self) -> np.ndarray | None:
        """Of `rows` and `cols`, what goes along b's stored columns."""
        return self.rows if self.b.turned else self.cols

    @property
    def refusal(self) -> str | None:
        """Why nothing is compared: codes are no weights, and of complex values only moduli could be."""
        codes = next((side.placed.codes for side in (self.a, self.b) if side.placed.codes), None)
        is_complex = any(DTYPES[side.placed.tensor.dtype].kind == "complex" for side in (self.a, self.b))
        return codes or ("complex values are not compared" if is_complex else None)


@dataclass(frozen=True, slots=True)
class Strip:
    """A run of whole stored rows of a tensor, the first of which is its row `first`."""

    window: Window
    first: int


@dataclass(frozen=True, slots=True)
class Block:
    """The stored rows `first` to `last` of the matrices of b, and where the values of both sides are."""

    pairs: tuple[Pair, ...]
    first: int
    last: int
    a: tuple[Strip, ...]
    b: tuple[Strip, ...]

    @property
    def windows(self) -> tuple[Window, ...]:
        """What is read, in that order."""
        return tuple(strip.window for strip in (*self.a, *self.b))

    @property
    def nbytes(self) -> int:
        return sum(window.nbytes for window in self.windows)


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Pairs that lie in the same stored rows of the same two tensors, and are read together; mostly one."""

    pairs: tuple[Pair, ...]
    blocks: tuple[Block, ...]

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A large unit, or a run of small ones: what is committed together; `first` is where its channels are stored."""

    name: str
    first: int
    units: tuple[Unit, ...]

    @property
    def nbytes(self) -> int:
        return sum(unit.nbytes for unit in self.units)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(pair for unit in self.units for pair in unit.pairs)

    @property
    def channels(self) -> int:
        return sum(pair.channels for pair in self.pairs)


def plan_comparison(pairs: Sequence[Pair]) -> tuple[Task, ...]:
    """Every task of a comparison, in the order of its pairs. CheckpointError where a weight of b comes twice."""
    seen: set[str] = set()
    for pair in pairs:
        if pair.b.id in seen:
            raise CheckpointError(f"{shown(pair.b.id)} is compared twice: a weight comes of one other.")
        seen.add(pair.b.id)
    tasks: list[Task] = []
    run: list[Unit] = []
    nbytes = channels = 0
    for unit in _units(pairs):
        more = sum(pair.channels for pair in unit.pairs)
        if run and (nbytes + unit.nbytes > TASK_BYTES or channels + more > CHUNK):
            tasks.append(_task(tasks, run))
            run, nbytes, channels = [], 0, 0
        run.append(unit)
        nbytes, channels = nbytes + unit.nbytes, channels + more
    return (*tasks, *([_task(tasks, run)] if run else []))


def _task(before: Sequence[Task], units: Sequence[Unit]) -> Task:
    first = before[-1].first + -(-before[-1].channels // CHUNK) * CHUNK if before else 0
    return Task(f"{len(before):06d}", first, tuple(units))


def _units(pairs: Sequence[Pair]) -> Iterator[Unit]:
    """Neighbours are read together where that is one reading instead of several: the parts of a turned fused weight."""
    for _, neighbours in groupby(pairs, _beside):
        together = tuple(neighbours)
        refused = any(pair.refusal for pair in together)
        yield Unit(together, () if refused or not together[0].values else tuple(_blocks(together)))


def _beside(pair: Pair) -> tuple[object, ...]:
    """What is equal of pairs that can be read together."""
    a, b = pair.a, pair.b
    if not pair.is_alike or (pair.a.matrix is None) != (pair.b.matrix is None):
        return (b.id,)
    down = None if pair.down is None else pair.down.tobytes()
    places = tuple((side.placed.tensor.path, side.placed.tensor.name, side.stored_rows) for side in (a, b))
    return (*places, a.turned, a.shape[a.turned], down)


def _blocks(pairs: tuple[Pair, ...]) -> Iterator[Block]:
    """About 8 MiB of the wider side each, 32 MiB where sides are not alike, or less where rows are short."""
    pair = pairs[0]
    widths = pair.a.width if pair.is_alike else pair.b.width, pair.b.width
    bits = max(n * DTYPES[s.placed.tensor.dtype].bits for n, s in zip(widths, (pair.a, pair.b), strict=True))
    nbytes = BLOCK_BYTES if pair.is_alike else ACROSS * BLOCK_BYTES
    step = max(1, nbytes * 8 // max(1, bits) // ROW_MULTIPLE) * ROW_MULTIPLE
    step = min(step, BLOCK_ROWS)
    for first in range(0, len(pair.b.stored_rows), step):
        last = min(first + step, len(pair.b.stored_rows))
        yield Block(
            pairs,
            first,
            last,
            strips(pair.a, rows_of_a(pair, first, last)),
            strips(pair.b, pair.b.stored_rows.indices(first, last)),
        )


def rows_of_a(pair: Pair, first: int, last: int) -> np.ndarray:
    """The stored rows of a's tensor that rows `first` to `last` of b need, in their order; all if stored otherwise."""
    kept = pair.down if pair.is_alike else pair.across
    if not pair.is_alike:
        first, last = 0, len(pair.b.stored_cols)
    return pair.a.stored_rows.indices(first, last) if kept is None else pair.a.stored_rows.at(kept[first:last])


def cols_of_a(pair: Pair, first: int, last: int) -> np.ndarray:
    """Likewise the stored columns: all of them if both are stored the same way round."""
    kept = pair.across if pair.is_alike else pair.down
    if pair.is_alike:
        first, last = 0, len(pair.b.stored_cols)
    return pair.a.stored_cols.indices(first, last) if kept is None else pair.a.stored_cols.at(kept[first:last])


def strips(side: Side, wanted: np.ndarray, nbytes: int = BLOCK_BYTES) -> tuple[Strip, ...]:
    """What is read so as to have these stored rows: runs of neighbours, and small gaps between them where they ascend.

    None is of more than about so many bytes. Rows in any other order are read one by one, as the same gap would be read
    for many blocks.
    """
    tensor, width = side.placed.tensor, side.width
    bits = DTYPES[tensor.dtype].bits
    align = ROW_MULTIPLE if bits < 8 else 1
    steps = np.diff(wanted)
    through = GAP_BYTES * 8 // max(1, bits * width) if (steps > 0).all() else 0
    rows = wanted if through else np.unique(wanted)
    cuts = np.flatnonzero(np.diff(rows // align) > through + 1) + 1
    most = max(1, nbytes * 8 // max(1, bits * width) // ROW_MULTIPLE) * ROW_MULTIPLE
    total = tensor.parameters // max(1, width)
    bounds = []
    for run in np.split(rows, cuts):
        start, stop = int(run[0]) // align * align, min(-(-(int(run[-1]) + 1) // align) * align, total)
        bounds += [(first, min(first + most, stop)) for first in range(start, stop, most)]
    return tuple(Strip(tensor.rows(first, last, width), first) for first, last in bounds)
