"""REDUCE, its steps: a block becomes a partial, partials merge in a fixed order, the last one becomes the results.

Everything here is a plain function of picklable values, so that any thread, process or cluster node can run a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import xxhash

from shardscan.anatomy.matrices import Matrix
from shardscan.errors import CheckpointError
from shardscan.plan.tasks import Block, Piece, Unit
from shardscan.reduce import sparsity, tensors
from shardscan.reduce.devices import CPU, Device
from shardscan.reduce.distribution import Tails
from shardscan.reduce.kernels import Sums, cpu
from shardscan.reduce.moments import Moments
from shardscan.reduce.result import MatrixResult, Result
from shardscan.reduce.sparsity import Violations
from shardscan.reduce.spectra import GRAM_FLOOR, METHODS, Spectra, fitted
from shardscan.reduce.values import head_slices, kernel_values, selected
from shardscan.shards.ahead import Ahead
from shardscan.shards.dtypes import DTYPES


@dataclass(frozen=True, slots=True)
class Values:
    """Of a run of whole rows: counts of bit patterns, and content digests."""

    counts: np.ndarray
    tails: Tails | None
    digests: bytes

    def merge(self, other: Values) -> Values:
        """Join two runs: `other` comes after."""
        tails = self.tails.merge(other.tails) if self.tails and other.tails else None
        return Values(self.counts + other.counts, tails, self.digests + other.digests)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of a run of a matrix's stored rows: moments and fingerprints of rows and columns, and its N:M sparsity."""

    rows: Moments
    row_fingerprints: np.ndarray
    columns: Moments | None
    column_fingerprints: np.ndarray
    violations: Violations | None

    def merge(self, other: Statistics) -> Statistics:
        """Join two runs of rows: `other` comes after."""
        return Statistics(
            self.rows.concatenate(other.rows),
            np.concatenate([self.row_fingerprints, other.row_fingerprints]),
            self.columns.merge(other.columns) if self.columns and other.columns else None,
            self.column_fingerprints + other.column_fingerprints,
            self.violations.merge(other.violations) if self.violations and other.violations else None,
        )


@dataclass(frozen=True, slots=True)
class Grams:
    """Gram matrices (heads, d, d) of a run of stored rows: whole heads where heads are rows, else a share of each.

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
class Part:
    """What a run of blocks is reduced to of one matrix."""

    statistics: Statistics | None
    grams: Grams | None

    def merge(self, other: Part) -> Part:
        """Join two runs of rows: `other` comes after."""
        statistics = self.statistics.merge(other.statistics) if self.statistics and other.statistics else None
        return Part(statistics, self.grams.merge(other.grams) if self.grams and other.grams else None)


@dataclass(frozen=True, slots=True)
class Partial:
    """What a run of blocks is reduced to, matrix by matrix, or why it could not be read."""

    values: Values | None = None
    parts: Mapping[int, Part] = field(default_factory=dict)
    failure: str | None = None


def compile_kernels(dtypes: Iterable[str]) -> None:
    """Compile what blocks of these dtypes need, or load it: beside blocks it would take memory that no plan has."""
    for dtype in dtypes:
        values, table = kernel_values(np.zeros(DTYPES[dtype].nbytes(8), np.uint8), dtype, (1, 8))
        cpu.statistics(values, table, 0, True)
        cpu.group_violations(values, table, np.zeros(1), True)
        cpu.to_float64(values, table, 0, 0, np.empty((1, 8)))
    cpu.spectrum_fits(np.ones((1, 8)), np.zeros(1), 8, 8)


def reduce_block(block: Block, device: Device = CPU, ahead: Ahead | None = None) -> Partial:
    """Read one block once, or take what was read ahead, and reduce it to whatever its unit needs of it."""
    try:
        with ahead.raw(block.window) if ahead else nullcontext(block.window.raw()) as raw:
            values, table = kernel_values(raw, block.window.dtype, (block.rows, block.cols))
            # hashed first: on a GPU blocks wait for their turn, and should not wait for the disk within it
            digest = xxhash.xxh3_128_digest(raw.data) if block.statistics else b""
            found = [_reduce_piece(piece, _values_of(piece, block, values), table, device) for piece in block.pieces]
            sums = [each for _, each in found if each]
            whole = reduce(Values.merge, sums) if sums else None
            parts = {piece.index: part for piece, (part, _) in zip(block.pieces, found, strict=True)}
            return Partial(whole and dataclasses.replace(whole, digests=digest), parts)
    except CheckpointError as error:  # one unreadable tensor costs only itself
        return Partial(failure=str(error))


def _values_of(piece: Piece, block: Block, values: np.ndarray) -> np.ndarray:
    if piece.matrix is None:
        return values
    rows = piece.matrix.stored_rows.indices(piece.first, piece.first + piece.count) - block.first_row
    return selected(values, rows, piece.matrix.stored_cols)


def _reduce_piece(
    piece: Piece, values: np.ndarray, table: np.ndarray | None, device: Device
) -> tuple[Part, Values | None]:
    sums, grams, by = device.reduce(values, table, piece)
    solvable = Grams(piece.divided[0], grams, by) if piece.divided and grams is not None else None
    if sums is None:
        return Part(None, solvable), None
    of_values = Values(sums.counts, Tails(*sums.tails) if sums.tails else None, b"")
    return Part(_statistics(sums, piece, values, table), solvable), of_values


def merge(a: Partial, b: Partial) -> Partial:
    """Two neighbouring runs of blocks as one; the left fold over a tensor's blocks is the one order there is."""
    if a.failure or b.failure:
        return Partial(failure=a.failure or b.failure)
    parts = {**a.parts}
    for index, part in b.parts.items():
        parts[index] = parts[index].merge(part) if index in parts else part
    return Partial(a.values.merge(b.values) if a.values and b.values else b.values, parts)


def finish(unit: Unit, partial: Partial) -> Result:
    """The results of one unit from the partial of all its blocks."""
    if partial.failure:
        return Result(failure=partial.failure)
    try:
        found = [
            _finish_matrix(unit, matrix, partial.parts[number])
            for number, matrix in zip(unit.numbers, unit.matrices, strict=True)
        ]
    except (CheckpointError, np.linalg.LinAlgError) as error:
        return Result(failure=str(error))
    values, tensor = partial.values, unit.placed.tensor
    if values is None:
        return Result(matrices=tuple(found))
    rows = reduce(Moments.concatenate, (part.statistics.rows for part in partial.parts.values() if part.statistics))
    moments = tensors.stored(rows, values.tails, tensor.dtype, values.counts)
    return Result(moments, values.counts, _digest(unit, values.digests), tuple(found))


def content_digest(unit: Unit) -> str:
    """The digest that a unit's result would have, from its bytes alone."""
    return _digest(unit, b"".join(xxhash.xxh3_128_digest(block.window.raw().data) for block in unit.blocks))


def _digest(unit: Unit, of_blocks: bytes) -> str:
    tensor = unit.placed.tensor
    return xxhash.xxh3_128_hexdigest(f"{tensor.dtype} {list(tensor.shape)} ".encode() + of_blocks)


def _statistics(sums: Sums, piece: Piece, values: np.ndarray, table: np.ndarray | None) -> Statistics:
    """The statistics of one piece from what kernels made of it, and its groups."""
    rows = Moments.from_shifted_sums(sums.row_shifts, sums.row_sums)
    return Statistics(
        rows,
        sums.row_prints,
        Moments.from_shifted_sums(sums.column_shifts, sums.column_sums) if piece.columns else None,
        sums.column_prints,
        sparsity.violations(piece.matrix, values, table, rows.zeros),
    )


def _finish_matrix(unit: Unit, matrix: Matrix, part: Part) -> MatrixResult:
    """The results of one matrix, its axes as they are after turning."""
    heads = _head_spectra(unit, matrix, part.grams) if part.grams else None
    s = part.statistics
    if s is None:
        return MatrixResult(heads=heads)
    down = s.rows.statistics(), s.row_fingerprints
    across = (s.columns.statistics(), s.column_fingerprints) if s.columns else (None, None)
    (out, out_prints), (into, in_prints) = (across, down) if matrix.turned else (down, across)
    violations = sparsity.of_channels(matrix, s.violations)
    return MatrixResult(out, into, out_prints, in_prints, violations, heads)


def _head_spectra(unit: Unit, matrix: Matrix, grams: Grams) -> Spectra:
    heads = matrix.heads
    assert heads
    rank = heads.rank(matrix.rows, matrix.cols)
    sigma, holds, by = grams.device.gram_spectra(grams.matrices, rank, GRAM_FLOOR)
    methods = np.where(holds, METHODS.index(by.gram), METHODS.index("none")).astype(np.uint8)
    unsure = np.flatnonzero(~holds).tolist()
    for head, w in zip(unsure, head_slices(unit.placed, matrix, unsure), strict=True):
        exact = cpu.exact_spectrum(w)
        sigma[head] = np.nan if exact is None else exact
        methods[head] = METHODS.index("none" if exact is None else "qr_svd")
    rows, cols = heads.slice_shape(matrix.rows, matrix.cols)
    return fitted(sigma, methods, rows, cols)
