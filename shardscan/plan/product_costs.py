"""PLAN, its products' costs: bytes that each leaves on disk, and takes in memory while it is made. Pure.

Those on disk are of arrays and catalog, without the rows of channels: together within a tenth of what SmolLM2, the demo
and an 8B left. Those in memory are measured: see `scan_budget`.
"""

from __future__ import annotations

from collections.abc import Iterable

from shardscan.anatomy.composites import Composite, Factor
from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.plan.tasks import PANEL_BYTES, Block, Unit
from shardscan.shards.address import Tensor, Window
from shardscan.shards.dtypes import DTYPES

TYPICAL_BINS = 2048
STORED_CHANNEL, STORED_BIN, STORED_SIGMA = 85, 30, 24
DISTRIBUTION = 65_536 * 8
CHANNEL = 12 * 8  # the moments of one, and its violating groups
EXACT = 8  # matrices of n² that QR and SVD hold at once
SLICES, CORES = 3, 12  # of one head and of d² values, that a composite holds at once


def count_channels(matrix: Matrix) -> int:
    """Rows and columns that have statistics."""
    return matrix.rows + (matrix.cols if matrix.has_columns else 0)


def stored_statistics(p: Placed) -> int:
    """On disk, of the channels of a tensor's matrices and of its distribution."""
    return STORED_CHANNEL * sum(map(count_channels, p.matrices)) + STORED_BIN * min(p.tensor.parameters, TYPICAL_BINS)


def reducing_statistics(block: Block) -> int:
    """Of the sums of a block's rows and columns, twice: as sums and as moments."""
    return 2 * CHANNEL * (block.rows + block.cols)


def partial_statistics(block: Block) -> int:
    """Of one distribution, and of the channels of each piece."""
    return DISTRIBUTION + sum(
        CHANNEL * ((piece.count or block.rows) + (len(piece.matrix.stored_cols) if piece.matrix else block.cols))
        for piece in block.pieces
    )


def result_statistics(unit: Unit) -> int:
    """Of one distribution, and of all channels, twice: as they are made and as they are written."""
    return DISTRIBUTION + 2 * CHANNEL * sum(map(count_channels, unit.matrices))


def stored_spectra(matrices: Iterable[Matrix]) -> int:
    """On disk, of one spectrum of each matrix."""
    return STORED_SIGMA * sum(min(matrix.rows, matrix.cols) for matrix in matrices)


def stored_heads(p: Placed) -> int:
    """On disk, of the spectra of all heads of a tensor."""
    divided = ((matrix, matrix.heads) for matrix in p.matrices if matrix.heads)
    return STORED_SIGMA * sum(heads.count * heads.rank(matrix.rows, matrix.cols) for matrix, heads in divided)


def reducing_heads(block: Block) -> int:
    """Of the float64 values of one head of the largest piece."""
    divided = (piece.matrix.divided for piece in block.pieces if piece.matrix)
    return max((8 * d[1] * (block.cols if d[0] == "out" else block.rows) for d in divided if d), default=0)


def partial_heads(block: Block) -> int:
    """Of the Gram matrices of all heads."""
    divided = (piece.matrix.heads for piece in block.pieces if piece.matrix)
    return sum(8 * heads.count * heads.dim**2 for heads in divided if heads)


def finishing_heads(unit: Unit) -> int:
    """Of what is read once more where a head's Gram matrix does not do: all, where heads are stored as columns."""
    p = unit.placed
    return max((_all(p, matrix) for matrix in unit.matrices if matrix.heads and matrix.stored_axis == "in"), default=0)


def solving_matrix(p: Placed, matrix: Matrix, exact: bool) -> int:
    """Of one matrix while it is solved."""
    rows, cols = len(matrix.stored_rows), len(matrix.stored_cols)
    n = min(rows, cols)
    panels = 2 * min(PANEL_BYTES + 8 * 8 * n, 8 * rows * cols)
    values = min(rows * cols, PANEL_BYTES // 8) if rows >= cols else rows * cols
    stored = read_bytes(p.tensor, values) + (_cut(p, matrix) if rows < cols else 0)
    return panels + stored + 8 * n * n * (EXACT if exact else 1)


def stored_composite(composite: Composite) -> int:
    """On disk, of the spectra of all heads."""
    return STORED_SIGMA * composite.heads * composite.rank


def reducing_composite(composite: Composite) -> int:
    """Of one head while it is reduced; where heads are columns it is cut from all values."""
    factors = (composite.left, composite.right)
    dim = factors[0].heads.dim
    return 8 * dim * (SLICES * max(f.length for f in factors) + CORES * dim) + sum(map(_factor, factors))


def _factor(factor: Factor) -> int:
    """Of what is read to cut one head out."""
    p, matrix = factor.placed, factor.matrix
    if matrix.stored_axis == "in":
        return _all(p, matrix)
    return read_bytes(p.tensor, factor.heads.dim * p.stored_shape[1])


def _all(p: Placed, matrix: Matrix) -> int:
    return read_bytes(p.tensor, matrix.rows * matrix.cols) + _cut(p, matrix)


def read_bytes(tensor: Tensor, values: int) -> int:
    """Of values that are read and not mapped."""
    return 0 if tensor.mapped and tensor.strides is None else -(-values * DTYPES[tensor.dtype].bits // 8)


def copied_bytes(where: Tensor | Window, values: int) -> int:
    """Of values that are no view of their file: unpacked to bytes, or off the border of their dtype."""
    bits = DTYPES[where.dtype].bits
    if bits < 8:
        return values
    return values * bits // 8 if where.offset % (bits // 8) else 0


def _cut(p: Placed, matrix: Matrix) -> int:
    """Of all values of a matrix at once, as they are stored."""
    values, bits = matrix.rows * matrix.cols, DTYPES[p.tensor.dtype].bits
    is_view = matrix.stored_rows.groups == 1 and len(matrix.stored_cols) == p.stored_shape[1]
    return copied_bytes(p.tensor, values) if is_view else values * -(-bits // 8)
