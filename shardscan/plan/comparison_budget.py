"""PLAN, its pairs' memory: what a comparison takes at its peak, and how many workers a given memory has room for. Pure.

Bytes of anonymous memory, by the larger of two phases: blocks in every worker, then the ranks of changes, of which the
large come one at a time. The baseline is that of a scan, and as there nothing is promised below `budget.LEAST`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardscan.plan.comparison import SIDES, Block, Pair, Side, Strip, Task, Unit
from shardscan.plan.scan import LARGE_ORDER
from shardscan.plan.scan_budget import BASELINE, COMPILING, LEAST, WRITING
from shardscan.plan.tasks import PANEL_BYTES, in_flight
from shardscan.shards.ahead import DEPTH
from shardscan.shards.dtypes import DTYPES

CHANNEL = 8 * 8  # the sums of one
NUMBERS = 6 * 8  # of one row: which it is in both sides, and what is made of that
SCRATCH = 1 << 20  # two tiles, and what sums them


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes at the peak of each phase, the baseline included, with as many workers."""

    workers: int
    blocks: int
    ranks: int

    @property
    def peak(self) -> int:
        return max(self.blocks, self.ranks)


def budget_comparison(tasks: Sequence[Task], ranks: Sequence[Pair], workers: int, compiles: bool) -> Budget:
    """What comparing the tasks takes, and the ranks of these pairs' changes, with this many workers."""
    baseline = BASELINE + COMPILING * compiles
    units = [unit for task in tasks for unit in task.units if unit.blocks]
    reducing = max((_reducing(block) for unit in units for block in unit.blocks), default=0) + SCRATCH
    partial = max((_partial(block) for unit in units for block in unit.blocks), default=0)
    ahead = max((window.nbytes for unit in units for block in unit.blocks for window in block.windows), default=0)
    running = workers * reducing + in_flight(workers) * partial + SIDES * DEPTH * ahead
    # joined sums of one unit, before and after, its figures, and the figures of a task while they are written
    running += 4 * max(map(_results, units), default=0) + 3 * max(
        (CHANNEL * task.channels for task in tasks), default=0
    )
    small = [_rank(pair) for pair in ranks if not is_large(pair)]
    large = [_rank(pair) for pair in ranks if is_large(pair)]
    return Budget(
        workers=workers,
        blocks=baseline + (running + WRITING if units else 0),
        ranks=baseline + max(workers * max(small, default=0), max(large, default=0)),
    )


def least_memory(compiles: bool) -> int:
    """What a comparison takes at its peak however small it is."""
    return max(LEAST, BASELINE + COMPILING * compiles + WRITING + SCRATCH)


def is_large(pair: Pair) -> bool:
    """Whether the Gram matrix of its change is too large to have one in every worker."""
    return min(pair.b.shape) > LARGE_ORDER


def _reducing(block: Block) -> int:
    """Of both sides of a block while it is reduced."""
    strips = max(s.window.nbytes + _decoded(s) for s in block.a), max(s.window.nbytes + _decoded(s) for s in block.b)
    copies = 0
    for pair in block.pairs:
        values = (block.last - block.first) * pair.values // len(pair.b.stored_rows)
        if not pair.is_alike or len(block.a) > 1 or _is_cut(pair.a) or not (pair.rows is pair.cols is None):
            copies += values * _value(pair.a)
        if len(block.b) > 1 or _is_cut(pair.b):
            copies += values * _value(pair.b)
        if not pair.is_alike:  # what is picked of a strip is a copy before it is turned
            copies += min(values * _value(pair.a), strips[0])
    return sum(strips) + copies + NUMBERS * (block.last - block.first)


def _is_cut(side: Side) -> bool:
    """Whether its columns are some of its tensor's."""
    return len(side.stored_cols) != side.width


def _value(side: Side) -> int:
    """Bytes of one value as kernels take it."""
    return _as_taken(side.placed.tensor.dtype)


def _as_taken(code: str) -> int:
    dtype = DTYPES[code]
    return 8 if dtype.kind == "int" and dtype.bits > 16 else -(-dtype.bits // 8)


def _decoded(strip: Strip) -> int:
    """Of a strip whose values are no view of its bytes, or are looked at once more."""
    window = strip.window
    if window.dtype == "F64":  # a view, and its magnitudes
        return window.nbytes * 9 // 8
    bits, taken = DTYPES[window.dtype].bits, _as_taken(window.dtype)
    is_view = bits == 8 * taken and window.offset % taken == 0 and DTYPES[window.dtype].kind != "int"
    return 0 if is_view else window.nbytes * 8 * taken // bits


def _partial(block: Block) -> int:
    across = sum(len(pair.b.stored_cols) for pair in block.pairs)
    return CHANNEL * (len(block.pairs) * (block.last - block.first) + across)


def _results(unit: Unit) -> int:
    return sum(CHANNEL * sum(pair.b.shape) for pair in unit.pairs if not pair.is_vector)


def _rank(pair: Pair) -> int:
    """Of one change while it is solved: the next panels of both sides are made while the last is still held."""
    rows, cols = len(pair.b.stored_rows), len(pair.b.stored_cols)
    n = min(rows, cols)
    panels = 3 * min(PANEL_BYTES + 8 * 8 * n, 8 * rows * cols)
    values = min(rows * cols, PANEL_BYTES // 8) if rows >= cols else rows * cols
    return panels + sum(_stored(pair, side, values) for side in (pair.a, pair.b)) + 8 * n * n


def _stored(pair: Pair, side: Side, values: int) -> int:
    """Of what is read or copied of one side before it is decoded."""
    tensor = side.placed.tensor
    is_view = (
        tensor.mapped
        and not _is_cut(side)
        and pair.is_alike
        and _as_taken(tensor.dtype) * 8 == DTYPES[tensor.dtype].bits
    )
    is_view = (
        is_view and (side is pair.b or (pair.down is None and pair.across is None)) and side.stored_rows.groups == 1
    )
    return 0 if is_view else 2 * values * _as_taken(tensor.dtype)
