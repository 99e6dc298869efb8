"""REDUCE, its steps: a block becomes a partial, partials merge in a fixed order, the last one becomes the results.

Everything here is a plain function of picklable values, so that any thread, process or cluster node can run a step.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import xxhash

from shardscan.errors import CheckpointError
from shardscan.kernels import cpu
from shardscan.plan import Block, Unit
from shardscan.reduce.distribution import BINS, Tails, magnitude_quantile, tails_of_exact
from shardscan.reduce.fits import fitted
from shardscan.reduce.moments import Moments
from shardscan.reduce.result import GRAM_FLOOR, METHODS, Result, Spectra
from shardscan.reduce.values import head_slice, kernel_values
from shardscan.shards.ahead import Ahead


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of a run of whole rows: moments and fingerprints of rows and columns, counts of bit patterns, content digests."""

    rows: Moments
    row_fingerprints: np.ndarray
    columns: Moments | None
    column_fingerprints: np.ndarray
    counts: np.ndarray
    tails: Tails | None
    digests: bytes

    def merge(self, other: Statistics) -> Statistics:
        """Join two runs of rows: `other` comes after."""
        return Statistics(
            self.rows.concatenate(other.rows),
            np.concatenate([self.row_fingerprints, other.row_fingerprints]),
            self.columns.merge(other.columns) if self.columns and other.columns else None,
            self.column_fingerprints + other.column_fingerprints,
            self.counts + other.counts,
            self.tails.merge(other.tails) if self.tails and other.tails else None,
            self.digests + other.digests,
        )


@dataclass(frozen=True, slots=True)
class Grams:
    """Gram matrices (heads, d, d) of a run of rows: whole heads where heads are rows, a share of each where columns."""

    axis: str
    matrices: np.ndarray

    def merge(self, other: Grams) -> Grams:
        """Join two runs of rows: `other` comes after."""
        both = (self.matrices, other.matrices)
        return Grams(self.axis, np.concatenate(both) if self.axis == "out" else both[0] + both[1])


@dataclass(frozen=True, slots=True)
class Partial:
    """What a run of blocks is reduced to, or why it could not be read."""

    statistics: Statistics | None = None
    grams: Grams | None = None
    failure: str | None = None


def reduce_block(block: Block, ahead: Ahead | None = None) -> Partial:
    """Read one block once, or take what was read ahead, and reduce it to whatever its unit needs of it."""
    try:
        with ahead.raw(block.window) if ahead else nullcontext(block.window.raw()) as raw:
            values, table = kernel_values(raw, block.window.dtype, (block.rows, block.cols))
            statistics = _statistics(raw, values, table, block) if block.statistics else None
            return Partial(statistics, _grams(values, table, block))
    except (OSError, CheckpointError) as error:  # one unreadable tensor costs only itself
        return Partial(failure=str(error))


def merge(a: Partial, b: Partial) -> Partial:
    """Two neighbouring runs of blocks as one; the left fold over a tensor's blocks is the one order there is."""
    if a.failure or b.failure:
        return Partial(failure=a.failure or b.failure)
    if a == Partial():
        return b
    statistics = a.statistics.merge(b.statistics) if a.statistics and b.statistics else None
    grams = a.grams.merge(b.grams) if a.grams and b.grams else None
    return Partial(statistics, grams)


def finish(unit: Unit, partial: Partial) -> Result:
    """The results of one tensor from the partial of all its blocks."""
    if partial.failure:
        return Result(failure=partial.failure)
    result = _finish_statistics(unit, partial.statistics) if partial.statistics else Result()
    if partial.grams is None:
        return result
    try:
        heads = _head_spectra(unit, partial.grams)
    except (OSError, CheckpointError, np.linalg.LinAlgError) as error:
        return Result(failure=str(error))
    return dataclasses.replace(result, heads=heads)


def content_digest(unit: Unit) -> str:
    """The digest that a unit's result would have, from its bytes alone."""
    return _digest(unit, b"".join(xxhash.xxh3_128_digest(block.window.raw().data) for block in unit.blocks))


def _digest(unit: Unit, of_blocks: bytes) -> str:
    tensor = unit.placed.tensor
    return xxhash.xxh3_128_hexdigest(f"{tensor.dtype} {list(tensor.shape)} ".encode() + of_blocks)


def _statistics(raw: np.ndarray, values: np.ndarray, table: np.ndarray | None, block: Block) -> Statistics:
    rows, cols = values.shape
    row_keys, column_keys = cpu.keys(block.first_row, block.first_row + rows), cpu.keys(0, cols)
    out = cpu.channel_sums(values, table, row_keys, column_keys, block.columns)
    row_shifts, row_sums, row_prints, column_shifts, column_sums, column_prints = out
    counts, tails = np.zeros(BINS, np.uint64), None
    if values.dtype.kind == "u":
        cpu.count_patterns(values.ravel(), counts)
    else:
        tails = Tails(*cpu.count_truncated(values.ravel(), counts))
    return Statistics(
        Moments.from_shifted_sums(row_shifts, row_sums),
        row_prints,
        Moments.from_shifted_sums(column_shifts, column_sums) if block.columns else None,
        column_prints,
        counts,
        tails,
        xxhash.xxh3_128_digest(raw.data),
    )


def _grams(values: np.ndarray, table: np.ndarray | None, block: Block) -> Grams | None:
    if block.heads is None:
        return None
    function = cpu.row_grams if block.heads.axis == "out" else cpu.column_grams
    return Grams(block.heads.axis, function(values, table, block.heads.dim))


def _finish_statistics(unit: Unit, s: Statistics) -> Result:
    matrix = unit.placed.matrix
    return Result(
        tensor=_tensor_statistics(s, unit.placed.tensor.dtype),
        channels_out=s.rows.statistics() if matrix else None,
        channels_in=s.columns.statistics() if matrix and s.columns else None,
        fingerprints_out=s.row_fingerprints if matrix else None,
        fingerprints_in=s.column_fingerprints if matrix and s.columns else None,
        counts=s.counts,
        digest=_digest(unit, s.digests),
    )


def _tensor_statistics(s: Statistics, dtype: str) -> np.ndarray:
    """TENSOR_STATISTICS: float64 (15,), NaN where one does not exist."""
    tails = s.tails or tails_of_exact(dtype, s.counts)
    p99, p999 = (magnitude_quantile(dtype, s.counts, per_mille) for per_mille in (990, 999))
    absmin = tails.absmin if np.isfinite(tails.absmin) else np.nan
    moments = s.rows.total().statistics()[:, 0]
    return np.array([*moments, absmin, tails.near_zeros, tails.nans, tails.infs, p99, p999])


def _head_spectra(unit: Unit, grams: Grams) -> Spectra:
    matrix = unit.placed.matrix
    assert matrix and matrix.heads
    heads = matrix.heads
    rank = heads.rank(matrix.rows, matrix.cols)
    sigma, holds = cpu.gram_spectra(grams.matrices, rank, GRAM_FLOOR)
    methods = np.where(holds, METHODS.index("gram"), METHODS.index("none")).astype(np.uint8)
    for head in np.flatnonzero(~holds):
        exact = cpu.exact_spectrum(head_slice(unit.placed.tensor, heads, int(head)))
        sigma[head] = np.nan if exact is None else exact
        methods[head] = METHODS.index("none" if exact is None else "qr_svd")
    rows, cols = heads.slice_shape(matrix.rows, matrix.cols)
    return fitted(sigma, methods, rows, cols)
