"""REDUCE, its steps: a block becomes a partial, partials merge in a fixed order, the last one becomes the results.

Everything here is a plain function of picklable values, so that any thread, process or cluster node can run a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import xxhash

from shardscan.dtypes import DTYPES
from shardscan.errors import CheckpointError
from shardscan.kernels import Sums, cpu
from shardscan.plan import Block, Unit
from shardscan.reduce.devices import CPU, Device
from shardscan.reduce.distribution import Tails, magnitude_quantile, tails_of_exact
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
    """Gram matrices (heads, d, d) of a run of rows: whole heads where heads are rows, a share of each where columns.

    `device` made all of them, and is to solve them; the CPU where several did.
    """

    axis: str
    matrices: np.ndarray
    device: Device

    def merge(self, other: Grams) -> Grams:
        """Join two runs of rows: `other` comes after."""
        both = (self.matrices, other.matrices)
        joined = np.concatenate(both) if self.axis == "out" else both[0] + both[1]
        return Grams(self.axis, joined, self.device if self.device == other.device else CPU)


@dataclass(frozen=True, slots=True)
class Partial:
    """What a run of blocks is reduced to, or why it could not be read."""

    statistics: Statistics | None = None
    grams: Grams | None = None
    failure: str | None = None


def compile_kernels(dtypes: Iterable[str]) -> None:
    """Compile what blocks of these dtypes need, or load it: beside blocks it would take memory that no plan has."""
    for dtype in dtypes:
        values, table = kernel_values(np.zeros(DTYPES[dtype].nbytes(8), np.uint8), dtype, (1, 8))
        cpu.statistics(values, table, 0, True)
        cpu.to_float64(values, table, 0, 0, np.empty((1, 8)))
    cpu.spectrum_fits(np.ones((1, 8)), np.zeros(1), 8, 8)


def reduce_block(block: Block, device: Device = CPU, ahead: Ahead | None = None) -> Partial:
    """Read one block once, or take what was read ahead, and reduce it to whatever its unit needs of it."""
    try:
        with ahead.raw(block.window) if ahead else nullcontext(block.window.raw()) as raw:
            values, table = kernel_values(raw, block.window.dtype, (block.rows, block.cols))
            # hashed first: on a GPU blocks wait for their turn, and should not wait for the disk within it
            digest = xxhash.xxh3_128_digest(raw.data) if block.statistics else b""
            sums, grams, by = device.reduce(values, table, block)
            statistics = _statistics(sums, block.columns, digest) if sums else None
            solvable = Grams(block.heads.axis, grams, by) if block.heads and grams is not None else None
            return Partial(statistics, solvable)
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


def _statistics(sums: Sums, columns: bool, digest: bytes) -> Statistics:
    """The statistics of one block from what kernels made of it."""
    return Statistics(
        Moments.from_shifted_sums(sums.row_shifts, sums.row_sums),
        sums.row_prints,
        Moments.from_shifted_sums(sums.column_shifts, sums.column_sums) if columns else None,
        sums.column_prints,
        sums.counts,
        Tails(*sums.tails) if sums.tails else None,
        digest,
    )


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
    sigma, holds, by = grams.device.gram_spectra(grams.matrices, rank, GRAM_FLOOR)
    methods = np.where(holds, METHODS.index(by.gram), METHODS.index("none")).astype(np.uint8)
    for head in np.flatnonzero(~holds):
        exact = cpu.exact_spectrum(head_slice(unit.placed.tensor, heads, int(head)))
        sigma[head] = np.nan if exact is None else exact
        methods[head] = METHODS.index("none" if exact is None else "qr_svd")
    rows, cols = heads.slice_shape(matrix.rows, matrix.cols)
    return fitted(sigma, methods, rows, cols)
