"""REDUCE, its statistics: moments and fingerprints of rows and columns, and the distribution of a tensor's values.

moments_PART, distribution_PART       of a tensor: TENSOR_MOMENTS, and the count of every bit pattern
channels_out, channels_in             of a matrix: STORED_STATISTICS of its rows and columns
fingerprints_out, fingerprints_in     and what tells one channel from another
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.plan.tasks import Piece, Unit
from shardscan.reduce import tensors
from shardscan.reduce.devices import Device, DeviceBlock
from shardscan.reduce.distribution import BINS, Tails
from shardscan.reduce.kernels import Sums, cpu
from shardscan.reduce.moments import CHANNEL_STATISTICS, Moments
from shardscan.reduce.products import BlockSteps, Reduced, Stack, StackedArray, StackedArrays, Weights
from shardscan.reduce.result import Outcome
from shardscan.reduce.sparsity import SPARSITY
from shardscan.reduce.tensors import TENSOR_MOMENTS

CONTRIBUTORS = (SPARSITY,)
# of one channel, as they are stored; of an input channel there are none of the contributors'
STORED_STATISTICS = (*CHANNEL_STATISTICS, *(name for contributor in CONTRIBUTORS for name in contributor.names))


@dataclass(frozen=True, slots=True)
class Values:
    """Of a run of values: counts of their bit patterns (65536,) uint64, and tails where those are not exact."""

    counts: np.ndarray
    tails: Tails | None

    def merge(self, other: Values) -> Values:
        """Join two runs: `other` comes after."""
        return Values(self.counts + other.counts, self.tails.merge(other.tails) if self.tails and other.tails else None)


@dataclass(frozen=True, slots=True)
class Channels:
    """Of a run of a matrix's stored rows: moments and fingerprints of rows and columns, and the contributors'."""

    rows: Moments
    row_fingerprints: np.ndarray
    columns: Moments | None
    column_fingerprints: np.ndarray
    contributed: tuple[Any, ...]

    def merge(self, other: Channels) -> Channels:
        """Join two runs of rows: `other` comes after."""
        return Channels(
            self.rows.concatenate(other.rows),
            np.concatenate([self.row_fingerprints, other.row_fingerprints]),
            self.columns.merge(other.columns) if self.columns and other.columns else None,
            self.column_fingerprints + other.column_fingerprints,
            tuple(a and b and a.merge(b) for a, b in zip(self.contributed, other.contributed, strict=True)),
        )


class _Side(NamedTuple):
    """Statistics (9 or 11, n) and fingerprints (n,) of one side's channels."""

    statistics: np.ndarray | None
    fingerprints: np.ndarray


def _on_device(block: DeviceBlock, piece: Piece) -> Sums:
    return block.statistics(piece.first, piece.columns)


def _reduce(sums: Sums, piece: Piece, values: np.ndarray, table: np.ndarray | None, device: Device) -> Reduced:
    rows = Moments.from_shifted_sums(sums.row_shifts, sums.row_sums)
    channels = Channels(
        rows,
        sums.row_prints,
        Moments.from_shifted_sums(sums.column_shifts, sums.column_sums) if piece.columns else None,
        sums.column_prints,
        tuple(contributor.reduce(piece.matrix, values, table, rows) for contributor in CONTRIBUTORS),
    )
    return Reduced(Values(sums.counts, Tails(*sums.tails) if sums.tails else None), channels)


def _finish(unit: Unit, values: Values, channels: Mapping[int, Channels]) -> Outcome:
    of_matrices = tuple(_of_matrix(m, channels[n]) for n, m in zip(unit.numbers, unit.matrices, strict=True))
    rows = reduce(Moments.concatenate, (merged.rows for merged in channels.values()))
    tensor = unit.placed.tensor
    moments = tensors.stored_moments(rows, values.tails, tensor.dtype, values.counts)
    return Outcome(
        {"moments": moments, "distribution": values.counts}, of_matrices, _degenerate(moments, tensor.parameters)
    )


def _degenerate(moments: np.ndarray, parameters: int) -> str | None:
    """What to say of a tensor without a finite value."""
    if not parameters or moments[TENSOR_MOMENTS.index("count")]:
        return None
    return f"none of its {parameters:,} values is finite" if parameters > 1 else "its value is not finite"


def _of_matrix(matrix: Matrix, channels: Channels) -> dict[str, np.ndarray]:
    """The arrays of one matrix, its axes as they are after turning."""
    down = _Side(channels.rows.statistics(), channels.row_fingerprints)
    columns = channels.columns.statistics() if channels.columns else None
    across = _Side(columns, channels.column_fingerprints)
    out, into = (across, down) if matrix.turned else (down, across)
    arrays = {}
    if out.statistics is not None:
        arrays["channels_out"] = np.concatenate([out.statistics, *_contributed(matrix, channels.contributed)])
        arrays["fingerprints_out"] = out.fingerprints
    if into.statistics is not None:
        arrays["channels_in"] = into.statistics
        arrays["fingerprints_in"] = into.fingerprints
    return arrays


def _contributed(matrix: Matrix, merged: Sequence[Any]) -> list[np.ndarray]:
    """What contributors tell of a matrix's output channels, up to the last that tells anything."""
    contributing = [i for i, own in enumerate(merged) if own is not None]
    return [
        np.full((len(contributor.names), matrix.rows), np.nan) if own is None else contributor.finish(matrix, own)
        for contributor, own in zip(CONTRIBUTORS[: max(contributing, default=-1) + 1], merged, strict=False)
    ]


def _compile(values: np.ndarray, table: np.ndarray | None) -> None:
    cpu.statistics(values, table, 0, True)
    for contributor in CONTRIBUTORS:
        contributor.compile(values, table)


def _tensor_arrays(stack: Stack) -> StackedArrays:
    return {
        "moments": StackedArray(("layer", "expert", "tensor_moment"), (*stack, len(TENSOR_MOMENTS)), "float64", 2),
        "distribution": StackedArray(("layer", "expert", "pattern"), (*stack, BINS), "uint64", 2),
    }


def _matrix_arrays(stack: Stack, weights: Weights) -> StackedArrays:
    sides = {"out": [m.rows for _, m in weights], "in": [m.cols for _, m in weights if m.has_columns]}
    arrays = {}
    for side, lengths in sides.items():
        if lengths:
            dims = ("layer", "expert", "channel_statistic", f"{side}_channel")
            shape = (*stack, len(STORED_STATISTICS), max(lengths))
            arrays[f"channels_{side}"] = StackedArray(dims, shape, "float64", 2)
            arrays[f"fingerprints_{side}"] = StackedArray((*dims[:2], dims[3]), (*stack, max(lengths)), "uint64", 2)
    return arrays


STEPS = BlockSteps(
    words={"tensor_moment": TENSOR_MOMENTS, "channel_statistic": STORED_STATISTICS},
    tensor_arrays=_tensor_arrays,
    matrix_arrays=_matrix_arrays,
    on_device=_on_device,
    reduce=_reduce,
    finish=_finish,
    compile=_compile,
)
