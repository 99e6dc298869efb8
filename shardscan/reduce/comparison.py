"""REDUCE, its comparisons: a block of both sides becomes sums, sums merge in a fixed order, the last become figures.

Everything here is a plain function of picklable values, as in `blocks`. Sums are over the positions where both sides
are finite; Σ(a−b)² and max|a−b| are of the differences themselves, so that nothing cancels. Where a block of float64
values would leave float64's range as squares, it is summed times a power of two, which changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from shardscan.errors import CheckpointError
from shardscan.plan.comparison import SIDES, Block, Pair, Side, Strip, Task, Unit, cols_of_a, rows_of_a
from shardscan.plan.tasks import in_flight
from shardscan.reduce.graph import Done, Progress, Steps, fold_blocks, in_threads, on_workers
from shardscan.reduce.kernels.cpu import comparison as kernels
from shardscan.reduce.kernels.cpu.comparison import AA, AB, BB, CHANGED, DD, FINITE, MOST, NEWLY_ZERO
from shardscan.reduce.values import freeze, kernel_values
from shardscan.shards.address import Window
from shardscan.shards.ahead import DEPTH, Ahead
from shardscan.shards.dtypes import DTYPES

# what is kept of a pair, and of each of its channels
FIGURES = ("changed", "newly_zero", "norm_a", "norm_b", "norm_change", "relative_change", "cosine", "max_change")
NOTHING, SAFE = -4000, 400  # exponents: of a block of zeros; of values whose squares are as exact as others'
LEAST = 1e-140  # of what is squared: below it float64 loses digits

Keep = Callable[[Task, Sequence["Compared"]], None]
Raw = Callable[[Window], AbstractContextManager[np.ndarray]]


@dataclass(frozen=True, slots=True)
class Sums:
    """Of a run of b's stored rows: (SUMS, rows) and (SUMS, cols), squares over 2^(2·exponent)."""

    rows: np.ndarray
    cols: np.ndarray
    exponent: int

    def merge(self, other: Sums) -> Sums:
        """Join two runs: `other` comes after."""
        exponent = max(self.exponent, other.exponent)
        a, b = self.scaled(exponent), other.scaled(exponent)
        cols = a.cols + b.cols
        cols[MOST] = np.maximum(a.cols[MOST], b.cols[MOST])
        return Sums(np.concatenate([a.rows, b.rows], axis=1), cols, exponent)

    def scaled(self, exponent: int) -> Sums:
        """The same over another power of two."""
        by = self.exponent - exponent
        if not by:
            return self
        powers = np.zeros((len(self.rows), 1), np.int64)
        powers[[AA, BB, AB, DD]] = 2 * by
        return Sums(np.ldexp(self.rows, powers), np.ldexp(self.cols, powers), exponent)


@dataclass(frozen=True, slots=True)
class Partial:
    """What a run of blocks is reduced to, pair by pair, or why it could not be read."""

    sums: tuple[Sums, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one pair: FIGURES (8,) of all its values, (8, rows) and (8, cols) of b's channels; NaN where there is none.

    Those of channels are None of vectors, those of columns also where input channels mean nothing. `finite` is at how
    many positions both sides are.
    """

    total: np.ndarray
    finite: int
    channels_out: np.ndarray | None
    channels_in: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Compared:
    """The figures of a unit's pairs in their order, or why there are none."""

    figures: tuple[Figures, ...] = ()
    failure: str | None = None


def compare_tasks(
    tasks: Sequence[Task], keep: Keep, *, workers: int, progress: Callable[[int], None] | None = None
) -> list[Done]:
    """Compare the pairs of every task and `keep` their figures; `progress` is told the bytes of each block.

    As `scan.run_blocks`: threads of this process, or what is set through dask.
    """
    numbered_units = [(task, i, unit) for task in tasks for i, unit in enumerate(task.units)]
    sizes = {
        ("block", task.name, i, j): b.nbytes for task, i, unit in numbered_units for j, b in enumerate(unit.blocks)
    }
    windows = [window for _, _, unit in numbered_units for block in unit.blocks for window in block.windows]
    compile_comparison_kernels({window.dtype for window in windows})
    with Ahead(windows, SIDES * DEPTH) if in_threads() else nullcontext() as ahead:
        steps = Steps(partial(compare_block, ahead=ahead), Partial(), merge_partials, finish_unit)
        return on_workers(
            fold_blocks(tasks, keep, in_flight(workers), steps), tasks, workers, Progress(sizes, progress)
        )


def compile_comparison_kernels(dtypes: set[str]) -> None:
    """Compile what values of these dtypes need, or load it: beside blocks it would take memory that no plan has."""
    for dtype in dtypes:
        values, table = kernel_values(np.zeros(DTYPES[dtype].nbytes(8), np.uint8), dtype, (1, 8))
        for other, table_of_other in ((values, table), (np.zeros((1, 8)), None)):
            other.flags.writeable = False
            kernels.differences(values, table, other, table_of_other, 1.0, True)
    kernels.add_rounding(np.ones((1, 8)), 7, -126, np.zeros(1), np.zeros(8))


def compare_block(block: Block, ahead: Ahead | None = None) -> Partial:
    """Read one block of both sides, and reduce the values of each of its pairs."""
    raw: Raw = ahead.raw if ahead else read_window
    try:
        with read_both_sides(block, raw) as sides_of_pairs:
            return Partial(
                tuple(_sums(pair, *values) for pair, values in zip(block.pairs, sides_of_pairs, strict=True))
            )
    except CheckpointError as error:  # one unreadable tensor costs only itself
        return Partial(failure=str(error))


def read_window(window: Window) -> AbstractContextManager[np.ndarray]:
    """A window that nobody reads ahead."""
    return nullcontext(window.raw())


Values = tuple[np.ndarray, np.ndarray | None]


@contextmanager
def read_both_sides(block: Block, raw: Raw = read_window) -> Iterator[list[tuple[Values, Values]]]:
    """The values of a block as b stores them, pair by pair: of a, and of b, as kernels take them."""
    first, last, pairs = block.first, block.last, block.pairs
    cols = [[cols_of_a(pair, first, last) for pair in pairs], [_all_columns(pair.b) for pair in pairs]]
    rows = rows_of_a(pairs[0], first, last), pairs[0].b.stored_rows.indices(first, last)
    with (
        _cut(pairs[0].a, block.a, rows[0], cols[0], raw, turn=not pairs[0].is_alike) as (values_a, table_a),
        _cut(pairs[0].b, block.b, rows[1], cols[1], raw) as (values_b, table_b),
    ):
        yield [((a, table_a), (b, table_b)) for a, b in zip(values_a, values_b, strict=True)]


def _all_columns(side: Side) -> np.ndarray:
    return side.stored_cols.indices(0, len(side.stored_cols))


@contextmanager
def _cut(
    side: Side, strips: Sequence[Strip], rows: np.ndarray, cols: Sequence[np.ndarray], raw: Raw, *, turn: bool = False
) -> Iterator[tuple[list[np.ndarray], np.ndarray | None]]:
    """Some stored rows of a tensor, once for each selection of its columns; views where they can be.

    Those that are to `turn` are turned as they are read, so that they are held once.
    """

    def cut(values: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
        part = values[_slice(down)][:, _slice(across)]
        return np.ascontiguousarray(part) if turn else part  # whose columns are five times as fast to go through

    def decode(strip: Strip, stored: np.ndarray) -> Values:
        return kernel_values(stored, strip.window.dtype, (strip.window.shape[0], side.width))

    if len(strips) == 1:
        with raw(strips[0].window) as stored:
            values, table = decode(strips[0], stored)
            parts = (cut(values, rows - strips[0].first, across) for across in cols)
            yield [freeze(part.T if turn else part) for part in parts], table
        return
    joined: list[np.ndarray] = []
    for strip in strips:
        with raw(strip.window) as stored:
            values, table = decode(strip, stored)
            order: Literal["F", "C"] = "F" if turn else "C"
            joined = joined or [np.empty((len(rows), len(across)), values.dtype, order) for across in cols]
            inside = np.flatnonzero((rows >= strip.first) & (rows < strip.first + len(values)))
            for part, across in zip(joined, cols, strict=True):
                part[_slice(inside)] = cut(values, rows[inside] - strip.first, across)
    yield [freeze(part.T if turn else part) for part in joined], table


def _slice(indices: np.ndarray) -> slice | np.ndarray:
    """The same as a slice, which gives a view, where they are neighbours."""
    n = len(indices)
    if n and indices[-1] - indices[0] + 1 == n and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _sums(pair: Pair, a: Values, b: Values) -> Sums:
    if pair.is_vector:  # a run of its one row
        a, b = ((freeze(values.reshape(1, -1)), table) for values, table in (a, b))
    exponent = _exponent(pair, a[0], b[0])
    scale = float(np.ldexp(1.0, -exponent)) if exponent != NOTHING else 1.0
    return Sums(*kernels.differences(*a, *b, scale, not pair.is_vector), exponent)


def _exponent(pair: Pair, *values: np.ndarray) -> int:
    """Of the largest finite magnitude, where it is so extreme that squares leave float64's range; else 0."""
    if all(side.placed.tensor.dtype != "F64" for side in (pair.a, pair.b)):
        return 0
    largest = max(float(np.max(np.abs(v), where=np.isfinite(v), initial=0.0)) for v in values)
    exponent = int(np.frexp(largest)[1]) if largest else NOTHING
    return 0 if -SAFE < exponent < SAFE else max(exponent, -1000) if largest else NOTHING


def merge_partials(a: Partial, b: Partial) -> Partial:
    """Two neighbouring runs of blocks as one; the left fold over a unit's blocks is the one order there is."""
    if a.failure or b.failure:
        return Partial(failure=a.failure or b.failure)
    if not a.sums:
        return b
    return Partial(tuple(x.merge(y) for x, y in zip(a.sums, b.sums, strict=True)))


def finish_unit(unit: Unit, partial: Partial) -> Compared:
    """The figures of a unit from the partial of all its blocks."""
    if partial.failure:
        return Compared(failure=partial.failure)
    if any(pair.refusal for pair in unit.pairs):
        return Compared(tuple(Figures(np.full(len(FIGURES), np.nan), 0, None, None) for _ in unit.pairs))
    nothing = Sums(np.zeros((kernels.SUMS, 0)), np.zeros((kernels.SUMS, 0)), 0)
    sums = partial.sums or (nothing,) * len(unit.pairs)
    return Compared(tuple(_figures(pair, s) for pair, s in zip(unit.pairs, sums, strict=True)))


def _figures(pair: Pair, sums: Sums) -> Figures:
    total = sums.rows.sum(axis=1)
    total[MOST] = sums.rows[MOST].max(initial=0.0)
    rows, cols = pair.b.shape if not pair.b.turned else pair.b.shape[::-1]
    down, across = (figures_of_sums(side, n, sums.exponent) for side, n in ((sums.rows, cols), (sums.cols, rows)))
    out, into = (across, down) if pair.b.turned else (down, across)
    is_matrix = not pair.is_vector
    return Figures(
        figures_of_sums(total[:, None], pair.values, sums.exponent)[:, 0],
        int(total[FINITE]),
        out if is_matrix else None,
        into if is_matrix and pair.has_columns else None,
    )


def figures_of_sums(sums: np.ndarray, values: int, exponent: int = 0) -> np.ndarray:
    """FIGURES (8, n) of sums (SUMS, n) of so many values each, NaN where one does not exist or float64 cannot hold it.

    Where there are values and none of them is finite only the counts exist. The relative change is
    ‖a−b‖/‖a‖, 0 where both norms are; the cosine ⟨a,b⟩/(‖a‖‖b‖), where neither is 0, and 1 where all values are equal.
    """
    power = 0 if exponent == NOTHING else exponent
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        a, b, d = (np.sqrt(sums[i]) for i in (AA, BB, DD))
        d[(sums[MOST] > 0) & (np.ldexp(sums[MOST], -power) < LEAST)] = np.nan
        relative = np.where((a == 0) & (b == 0), 0.0, np.where(a == 0, np.nan, d / a))
        cosine = np.clip(sums[AB] / a / b, -1.0, 1.0)
        cosine = np.where((a == 0) | (b == 0), np.nan, np.where(sums[MOST] == 0, 1.0, cosine))
        norms = [np.ldexp(x, power) for x in (a, b, d)]
        out = np.stack([sums[CHANGED], sums[NEWLY_ZERO], *norms, relative, cosine, sums[MOST]])
    if values:
        out[2:, sums[FINITE] == 0] = np.nan
    out[~np.isfinite(out)] = np.nan
    return out
