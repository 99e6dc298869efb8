"""PLAN, its memory: what a plan takes at its peak, and how many workers a given memory has room for. Pure.

Bytes of anonymous memory, by the largest of four phases: blocks in every worker, then circuits, then whole matrices, of
which large ones come one at a time, then the catalog. The constants are measured: within 1.5 times of what SmolLM2, the
demo and an 8B took, and not below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardscan.anatomy import Anatomy, Placed
from shardscan.dtypes import DTYPES
from shardscan.plan import PANEL_BYTES, CircuitTask, Plan, Task, Unit, in_flight
from shardscan.shards.address import Tensor
from shardscan.shards.ahead import DEPTH

BASELINE = 112 << 20  # libraries, kernels and BLAS, and what the heaps of all threads keep of small objects
LEAST = BASELINE + (96 << 20)  # below it nothing is promised
WRITING = 16 << 20  # chunks on their way through zarr
DISTRIBUTION = 65_536 * 8
CHANNEL = 10 * 8  # the moments of one
COMPILING = 92 << 20  # LLVM's, where kernels are not in numba's cache yet
DUCKDB = 80 << 20
CATALOG_ROW, CATALOG_MOST = 60, 136 << 20  # its buffers and two pieces of rows: no more, however many there are
EXACT = 8  # matrices of n² that QR and SVD hold at once
SLICES, CORES = 3, 12  # of one head and of d² values, that a circuit holds at once


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes at the peak of each phase, the baseline included, with as many workers."""

    workers: int
    blocks: int
    circuits: int
    matrices: int
    catalog: int

    @property
    def peak(self) -> int:
        return max(self.blocks, self.circuits, self.matrices, self.catalog)


def budget(plan: Plan, anatomy: Anatomy, workers: int, exact: bool, compiles: bool) -> Budget:
    """What a plan takes with this many workers, in a process that `compiles` its kernels or finds them."""
    baseline = BASELINE + COMPILING * compiles
    units = [unit for task in plan.tasks for unit in task.units if unit.blocks]
    scratch = max(map(_scratch, units), default=0)
    partial = max(map(_partial, units), default=0)
    read = max((block.window.nbytes for unit in units for block in unit.blocks), default=0)
    # beside what is in flight: what is read ahead, the tensors that those blocks are parts of, and one task kept
    running = workers * scratch + in_flight(workers) * (partial + read) + DEPTH * read
    running += 2 * max(map(_results, plan.tasks), default=0)
    rows = sum(sum(channels(p)) + min(p.tensor.parameters, 8192) for p in anatomy.placed)
    return Budget(
        workers=workers,
        blocks=baseline + (running + WRITING if units else 0),
        circuits=baseline + (workers * max(map(_circuit, plan.circuits)) + WRITING if plan.circuits else 0),
        matrices=baseline + max(workers * _largest(plan.matrices, exact), _largest(plan.large_matrices, exact)),
        catalog=baseline + DUCKDB + min(rows * CATALOG_ROW, CATALOG_MOST),
    )


def within(plan: Plan, anatomy: Anatomy, workers: int, exact: bool, compiles: bool, memory: int | None) -> Budget:
    """The most workers, of at most so many, that `memory` has room for; where there is none, one that does not fit."""
    for fewer in range(workers, 1, -1):
        found = budget(plan, anatomy, fewer, exact, compiles)
        if memory is None or found.peak <= memory:
            return found
    return budget(plan, anatomy, 1, exact, compiles)


def channels(p: Placed) -> tuple[int, int]:
    """Rows and columns that have statistics."""
    if p.matrix is None:
        return 0, 0
    return p.matrix.rows, p.matrix.cols if p.matrix.kind == "whole" else 0


def _scratch(unit: Unit) -> int:
    """Of one block while it is reduced."""
    block = max(unit.blocks, key=lambda b: b.rows * b.cols)
    dtype = DTYPES[block.window.dtype]
    values = block.rows * block.cols
    decoded = values * 8 if dtype.bits > 16 and dtype.kind != "float" else _copied(unit.placed.tensor, values)
    head = 8 * block.heads.dim * (block.cols if block.heads.axis == "out" else block.rows) if block.heads else 0
    return decoded + head + 2 * CHANNEL * (block.rows + block.cols)


def _copied(tensor: Tensor, values: int) -> int:
    """Of values that are no view of their file: unpacked to bytes, or off the border of their dtype."""
    bits = DTYPES[tensor.dtype].bits
    if bits < 8:
        return values
    return values * bits // 8 if tensor.offset % (bits // 8) else 0


def _partial(unit: Unit) -> int:
    """Of one block once it is reduced."""
    block = max(unit.blocks, key=lambda b: b.rows * b.cols)
    grams = 8 * block.heads.count * block.heads.dim**2 if block.heads else 0
    return DISTRIBUTION + CHANNEL * (block.rows + block.cols) + grams


def _results(task: Task) -> int:
    return sum(DISTRIBUTION + 2 * CHANNEL * sum(channels(unit.placed)) for unit in task.units)


def _circuit(task: CircuitTask) -> int:
    """Of one head while it is reduced; where heads are columns it is cut from all values."""
    factors = (task.circuit.left, task.circuit.right)
    copied = [_copied(f.tensor, f.tensor.parameters if f.heads.axis == "in" else 0) for f in factors]
    dim = factors[0].heads.dim
    return 8 * dim * (SLICES * max(f.length for f in factors) + CORES * dim) + max(copied)


def _largest(tasks: Sequence[Task], exact: bool) -> int:
    return max((_matrix(unit, exact) for task in tasks for unit in task.units), default=0)


def _matrix(unit: Unit, exact: bool) -> int:
    """Of one matrix while it is solved."""
    matrix = unit.placed.matrix
    assert matrix
    n = min(matrix.rows, matrix.cols)
    panels = 2 * min(PANEL_BYTES + 8 * 8 * n, 8 * matrix.rows * matrix.cols)
    wide = _copied(unit.placed.tensor, matrix.rows * matrix.cols) if matrix.rows < matrix.cols else 0
    return panels + wide + 8 * n * n * (EXACT if exact else 1)
