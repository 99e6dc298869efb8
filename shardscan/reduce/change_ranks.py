"""REDUCE, its changes: of what rank the change of a weight is, and how much of that is more than rounding.

σ of a−b from the float64 Gram matrix of the shorter side, one matrix at a time, in a pass of its own as for whole
matrices. A checkpoint stores what its dtype can hold: each entry is off by at most half a unit in the last place, as if
by independent noise of variance ulp²/12. The spectral norm of such noise is at most about

    edge = max_i √(Σ_j s_ij²) + max_j √(Σ_i s_ij²),   s_ij² = ulp(x_ij)²/12

(Bandeira & van Handel, Ann. Probab. 44, 2016), with x the side whose dtype is the coarser, b where both are alike. What
lies above the edge, and above what a Gram matrix can tell (1e-5·σ₁), is signal: a merged LoRA of rank 8 is found as 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shardscan.errors import CheckpointError
from shardscan.plan.comparison import BLOCK_BYTES, Block, Pair, Task, rows_of_a, strips
from shardscan.reduce.comparison import Values, read_both_sides
from shardscan.reduce.graph import Done, Progress, keep_results, on_workers
from shardscan.reduce.kernels import cpu
from shardscan.reduce.kernels.cpu.comparison import add_rounding
from shardscan.reduce.panels import panel_rows
from shardscan.reduce.spectra import GRAM_FLOOR
from shardscan.shards.dtypes import DTYPES, PRECISIONS

WHOLE = 1 << 62  # bytes of a strip: what is mapped takes none, and what is read is read as a whole


@dataclass(frozen=True, slots=True)
class Change:
    """Of a−b: σ above `edge` and the Gram's floor, Σσ²/σ₁² (NaN where σ₁ is 0), σ₁, and the edge of rounding.

    `failure` is why there is none.
    """

    rank: int = 0
    stable_rank: float = np.nan
    sigma_max: float = 0.0
    edge: float = 0.0
    failure: str | None = None


KeepChanges = Callable[[Task, Sequence[Change | None]], None]


def has_rank(pair: Pair) -> bool:
    """Whether the change of a pair has a rank: that of a matrix of floats."""
    floats = all(DTYPES[side.placed.tensor.dtype].kind == "float" for side in (pair.a, pair.b))
    return floats and pair.has_columns and pair.refusal is None and pair.values > 0


def rank_changes(
    asked: Sequence[tuple[Task, Mapping[int, Change | None]]],
    keep: KeepChanges,
    *,
    workers: int,
    blas_threads: int,
    progress: Callable[[int], None] | None = None,
) -> list[Done]:
    """The ranks of some pairs of every task, by their number in it, and `keep` them; None stands for all others.

    What is known already is not read again.
    """
    graph: dict[object, object] = {}
    sizes: dict[object, int] = {}
    for task, known in asked:
        changes: list[object] = [known.get(number) for number in range(len(task.pairs))]
        for number in (number for number, change in known.items() if change is None):
            key = changes[number] = ("rank", task.name, number)
            graph[key] = (rank_change, task.pairs[number])
            sizes[key] = task.nbytes // len(task.pairs)
        graph["keep", task.name] = (keep_results, keep, task, changes)
    tasks = [task for task, _ in asked]
    return on_workers(graph, tasks, workers, Progress(sizes, progress), blas_threads)


def rank_change(pair: Pair) -> Change:
    """The rank of one change."""
    n = min(pair.b.shape)
    rounding = _Rounding(pair)
    try:
        sigma = cpu.full_spectrum(_panels(pair, rounding), n)
    except (CheckpointError, np.linalg.LinAlgError) as error:  # one bad tensor costs only itself
        return Change(failure=str(error))
    if not np.isfinite(sigma).all():
        return Change(failure="a value of the change, or its square, is not finite")
    if sigma[0] <= cpu.LEAST_SIGMA and rounding.changed:
        return Change(failure="the squares of the change vanish")
    first, edge = float(sigma[0]), rounding.edge
    stable = float(np.sum((sigma / first) ** 2)) if first else np.nan
    return Change(int(np.count_nonzero(sigma > max(GRAM_FLOOR * first, edge))) if first else 0, stable, first, edge)


class _Rounding:
    """Sums up, panel by panel, the variances of rounding by stored row and column of b."""

    def __init__(self, pair: Pair) -> None:
        codes = [side.placed.tensor.dtype for side in (pair.a, pair.b)]
        self.of_a = PRECISIONS[codes[0]][0] < PRECISIONS[codes[1]][0]
        self.precision = PRECISIONS[codes[0] if self.of_a else codes[1]]
        self.down, self.across = (np.zeros(len(run)) for run in (pair.b.stored_rows, pair.b.stored_cols))
        self.changed = False

    def change(self, a: np.ndarray, b: np.ndarray, top: int, left: int) -> np.ndarray:
        """a−b of a panel, which takes the place of `a`."""
        rows, cols = a.shape
        add_rounding(
            a if self.of_a else b, *self.precision, self.down[top : top + rows], self.across[left : left + cols]
        )
        with np.errstate(invalid="ignore", over="ignore"):
            a -= b
        self.changed = self.changed or bool(a.any())
        return a

    @property
    def edge(self) -> float:
        return float(np.sqrt(self.down.max()) + np.sqrt(self.across.max()))


def _panels(pair: Pair, rounding: _Rounding) -> Iterator[np.ndarray]:
    """The change in panels (k, n) along the longer stored side."""
    rows, cols = len(pair.b.stored_rows), len(pair.b.stored_cols)
    step = panel_rows(min(rows, cols))
    for first in range(0, rows, step) if rows >= cols else (0,):
        last = min(first + step, rows) if rows >= cols else rows
        stored_rows = rows_of_a(pair, first, last), pair.b.stored_rows.indices(first, last)
        # of a side that is stored the other way round all rows are read for a few of their values
        strips_of_both = (
            strips(pair.a, stored_rows[0], WHOLE if pair.is_alike else BLOCK_BYTES),
            strips(pair.b, stored_rows[1], WHOLE),
        )
        with read_both_sides(Block((pair,), first, last, *strips_of_both)) as ((a, b),):
            if rows >= cols:
                yield rounding.change(_decoded(a, 0, cols), _decoded(b, 0, cols), first, 0)
                continue
            for left in range(0, cols, step):
                width = min(step, cols - left)
                yield rounding.change(_decoded(a, left, width), _decoded(b, left, width), 0, left).T


def _decoded(values: Values, left: int, width: int) -> np.ndarray:
    return cpu.to_float64(*values, 0, left, np.empty((len(values[0]), width)))
