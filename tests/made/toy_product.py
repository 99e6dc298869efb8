"""A product that nobody has: of each row of a matrix the number of sign changes, and of each tensor their sum.

It is registered at the three seams as one of ours is: what it wants and costs, its steps, its rows; and its table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pyarrow as pa

from shardscan.catalog.rows.columns import Rows, repeat_values
from shardscan.catalog.scans import Contents, cut_regions
from shardscan.cli import main as command
from shardscan.plan.products import BlockProduct, register
from shardscan.plan.tasks import Block, Piece, Unit
from shardscan.reduce.devices import Device
from shardscan.reduce.kernels import cpu
from shardscan.reduce.products import BlockSteps, Reduced, Stack, StackedArray, StackedArrays, Weights
from shardscan.reduce.result import Outcome

NAME = "signs/1"
STORED = 8  # bytes of one row
SCHEMA = """
-- key: model, matrix, channel
-- summed: changes
-- of: a scan
CREATE TABLE sign_changes (
    model VARCHAR NOT NULL, matrix VARCHAR NOT NULL, channel INTEGER NOT NULL, changes BIGINT, of_tensor BIGINT
);
COMMENT ON TABLE sign_changes IS 'How often the sign changes along each row of a matrix.';
COMMENT ON COLUMN sign_changes.changes IS 'Neighbours in a row of which one is negative and the other not.';
"""


@dataclass(frozen=True, slots=True)
class Rowwise:
    """Counts of a run of rows, int64 (n,)."""

    counts: np.ndarray

    def merge(self, other: Rowwise) -> Rowwise:
        """Join two runs: `other` comes after."""
        return Rowwise(np.concatenate([self.counts, other.counts]))


@dataclass(frozen=True, slots=True)
class Total:
    """Of a tensor."""

    count: int

    def merge(self, other: Total) -> Total:
        """Join two runs."""
        return Total(self.count + other.count)


def sign_changes(w: np.ndarray) -> np.ndarray:
    """Of each row of a matrix."""
    counts: np.ndarray = np.count_nonzero(np.diff(np.signbit(w), axis=1), axis=1)
    return counts


def _reduce(_: None, piece: Piece, values: np.ndarray, table: np.ndarray | None, device: Device) -> Reduced:
    counts = sign_changes(cpu.to_float64(values, table, 0, 0, np.empty(values.shape)))
    return Reduced(Total(int(counts.sum())), Rowwise(counts))


def _finish(unit: Unit, total: Total, rows: Mapping[int, Rowwise]) -> Outcome:
    of_matrices = tuple({"signs": rows[number].counts.astype(np.float64)} for number in unit.numbers)
    return Outcome({"sign_total": np.array(float(total.count))}, of_matrices)


def _tensor_arrays(stack: Stack) -> StackedArrays:
    return {"sign_total": StackedArray(("layer", "expert"), stack, "float64", 2)}


def _matrix_arrays(stack: Stack, weights: Weights) -> StackedArrays:
    shape = (*stack, max((m.rows for _, m in weights), default=0))
    return {"signs": StackedArray(("layer", "expert", "sign_channel"), shape, "float64", 2)}


def rows(scanned: Contents) -> Iterator[Rows]:
    """A row for every row of every matrix."""
    for folder, stacked in scanned.stacks.items():
        done = [m for m in stacked if m.has(NAME)]
        for region in cut_regions(folder, done, max(m.stored.rows for m in done)) if done else ():
            signs, totals = scanned.array(region, "signs"), scanned.array(region, "sign_total_weight")
            lengths = [m.stored.rows for m in region.members]
            counts = [signs[region.slot(m)][: m.stored.rows] for m in region.members]
            yield "sign_changes", pa.table({
                "model": repeat_values([scanned.model], [sum(lengths)]),
                "matrix": repeat_values([m.stored.id for m in region.members], lengths),
                "channel": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
                "changes": np.concatenate(counts).astype(np.int64),
                "of_tensor": repeat_values([int(totals[region.slot(m)]) for m in region.members], lengths, pa.int64()),
            })  # fmt: skip


def _reducing(block: Block) -> int:
    return 8 * block.rows * block.cols


STEPS = BlockSteps(tensor_arrays=_tensor_arrays, matrix_arrays=_matrix_arrays, reduce=_reduce, finish=_finish)
SIGNS = BlockProduct(
    name=NAME,
    steps="made.toy_product:STEPS",
    rows="made.toy_product:rows",
    schema=SCHEMA,
    wants=lambda p, matrix: matrix is not None and not matrix.turned,
    stored=lambda p: STORED * sum(matrix.rows for matrix in p.matrices),
    reducing=_reducing,
)


def main(words: list[str]) -> NoReturn:
    """Run a command that knows this product, as one does that may be killed."""
    register(SIGNS)
    command(words, prog_name="shardscan")
    sys.exit(0)
