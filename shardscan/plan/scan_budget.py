"""PLAN, its memory: what a plan takes at its peak, and how many workers a given memory has room for. Pure.

Bytes of anonymous memory, by the largest of four phases: blocks in every worker, then composites, then whole matrices,
of which large ones come one at a time, then the catalog. The constants are measured: within 1.5 times of what SmolLM2,
the demo and an 8B took, and not below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardscan.anatomy.composites import Factor
from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Anatomy, Placed
from shardscan.plan.scan import Plan, channels
from shardscan.plan.tasks import PANEL_BYTES, Block, CompositeTask, Task, Unit, in_flight
from shardscan.shards.address import Tensor, Window
from shardscan.shards.ahead import DEPTH
from shardscan.shards.dtypes import DTYPES

BASELINE = 112 << 20  # libraries, kernels and BLAS, and what the heaps of all threads keep of small objects
LEAST = BASELINE + (96 << 20)  # below it nothing is promised
WRITING = 16 << 20  # chunks on their way through zarr
DISTRIBUTION = 65_536 * 8
CHANNEL = 12 * 8  # the moments of one, and its violating groups
COMPILING = 92 << 20  # LLVM's, where kernels are not in numba's cache yet
DUCKDB = 80 << 20
CATALOG_ROW, CATALOG_MOST = 60, 136 << 20  # its buffers and two pieces of rows: no more, however many there are
EXACT = 8  # matrices of n² that QR and SVD hold at once
SLICES, CORES = 3, 12  # of one head and of d² values, that a composite holds at once


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes at the peak of each phase, the baseline included, with as many workers."""

    workers: int
    blocks: int
    composites: int
    matrices: int
    catalog: int

    @property
    def peak(self) -> int:
        return max(self.blocks, self.composites, self.matrices, self.catalog)


def budget(plan: Plan, anatomy: Anatomy, workers: int, exact: bool, compiles: bool) -> Budget:
    """What a plan takes with this many workers, in a process that `compiles` its kernels or finds them."""
    baseline = BASELINE + COMPILING * compiles
    units = [unit for task in plan.tasks for unit in task.units if unit.blocks]
    scratch = max(map(_scratch, units), default=0)
    redone = max(map(_redone, units), default=0)
    partial = max(map(_partial, units), default=0)
    read = max((block.window.nbytes for unit in units for block in unit.blocks), default=0)
    # beside what is in flight: what is read ahead, the tensors that those blocks are parts of, and one task kept
    running = workers * (scratch + redone) + in_flight(workers) * (partial + read) + DEPTH * read
    running += 2 * max(map(_results, plan.tasks), default=0)
    rows = plan.channels + sum(min(p.tensor.parameters, 8192) for p in anatomy.placed)
    return Budget(
        workers=workers,
        blocks=baseline + (running + WRITING if units else 0),
        composites=baseline + (workers * max(map(_composite, plan.composites)) + WRITING if plan.composites else 0),
        matrices=baseline + max(workers * _largest(plan.matrices, exact), _largest(plan.large_matrices, exact)),
        catalog=baseline + DUCKDB + min(rows * CATALOG_ROW, CATALOG_MOST),
    )


def _redone(unit: Unit) -> int:
    """Of what is read once more where the Gram matrix of a head does not do: all, where heads are stored as columns."""
    p = unit.placed
    wanted = [piece.matrix for block in unit.blocks for piece in block.pieces if piece.divided and piece.matrix]
    return max((_all(p, matrix) for matrix in wanted if matrix.stored_axis == "in"), default=0)


def _scratch(unit: Unit) -> int:
    """Of one block while it is reduced, one piece after the other."""
    return max(map(_scratch_of_block, unit.blocks))


def _scratch_of_block(block: Block) -> int:
    dtype = DTYPES[block.window.dtype]
    values = block.rows * block.cols
    decoded = values * 8 if dtype.bits > 16 and dtype.kind != "float" else _copied(block.window, values)
    cut = [values * -(-dtype.bits // 8)] * (len(block.pieces) > 1)  # a copy of one piece, at most of all
    divided = [(piece.divided, piece) for piece in block.pieces if piece.divided]
    heads = [8 * d[1] * (block.cols if d[0] == "out" else block.rows) for d, _ in divided if d]
    return decoded + sum(cut) + max(heads, default=0) + 2 * CHANNEL * (block.rows + block.cols)


def _copied(where: Tensor | Window, values: int) -> int:
    """Of values that are no view of their file: unpacked to bytes, or off the border of their dtype."""
    bits = DTYPES[where.dtype].bits
    if bits < 8:
        return values
    return values * bits // 8 if where.offset % (bits // 8) else 0


def _partial(unit: Unit) -> int:
    """Of one block once it is reduced."""
    return max(map(_partial_of_block, unit.blocks))


def _partial_of_block(block: Block) -> int:
    found = DISTRIBUTION
    for piece in block.pieces:
        rows, cols = piece.count or block.rows, len(piece.matrix.stored_cols) if piece.matrix else block.cols
        found += CHANNEL * (rows + cols)
        if piece.matrix and piece.matrix.heads and piece.divided:
            found += 8 * piece.matrix.heads.count * piece.matrix.heads.dim**2
    return found


def _results(task: Task) -> int:
    """Of a task's tensors; written one array after the other, each with as many experts as there are."""
    return sum(DISTRIBUTION + 2 * CHANNEL * sum(map(channels, unit.matrices)) for unit in task.units)


def _composite(task: CompositeTask) -> int:
    """Of one head while it is reduced; where heads are columns it is cut from all values."""
    factors = (task.composite.left, task.composite.right)
    dim = factors[0].heads.dim
    return 8 * dim * (SLICES * max(f.length for f in factors) + CORES * dim) + sum(map(_factor, factors))


def _factor(factor: Factor) -> int:
    """Of what is read to cut one head out."""
    p, matrix = factor.placed, factor.matrix
    if matrix.stored_axis == "in":
        return _all(p, matrix)
    return _read(p.tensor, factor.heads.dim * p.stored_shape[1])


def _all(p: Placed, matrix: Matrix) -> int:
    return _read(p.tensor, matrix.rows * matrix.cols) + _cut(p, matrix)


def _read(tensor: Tensor, values: int) -> int:
    """Of values that are read and not mapped."""
    return 0 if tensor.mapped and tensor.strides is None else -(-values * DTYPES[tensor.dtype].bits // 8)


def _largest(tasks: Sequence[Task], exact: bool) -> int:
    matrices = ((unit.placed, matrix) for task in tasks for unit in task.units for matrix in unit.matrices)
    return max((_matrix(p, matrix, exact) for p, matrix in matrices), default=0)


def _matrix(p: Placed, matrix: Matrix, exact: bool) -> int:
    """Of one matrix while it is solved."""
    rows, cols = len(matrix.stored_rows), len(matrix.stored_cols)
    n = min(rows, cols)
    panels = 2 * min(PANEL_BYTES + 8 * 8 * n, 8 * rows * cols)
    values = min(rows * cols, PANEL_BYTES // 8) if rows >= cols else rows * cols
    stored = _read(p.tensor, values) + (_cut(p, matrix) if rows < cols else 0)
    return panels + stored + 8 * n * n * (EXACT if exact else 1)


def _cut(p: Placed, matrix: Matrix) -> int:
    """Of all values of a matrix at once, as they are stored."""
    values, bits = matrix.rows * matrix.cols, DTYPES[p.tensor.dtype].bits
    is_view = matrix.stored_rows.groups == 1 and len(matrix.stored_cols) == p.stored_shape[1]
    return _copied(p.tensor, values) if is_view else values * -(-bits // 8)
