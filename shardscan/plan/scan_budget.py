"""PLAN, its memory: what a plan takes at its peak, and how many workers a given memory has room for. Pure.

Bytes of anonymous memory, by the largest of four phases: blocks in every worker, then composites, then whole matrices,
of which large ones come one at a time, then the catalog. The constants are measured: within 1.5 times of what SmolLM2,
the demo and an 8B took, and not below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardscan.anatomy.places import Anatomy
from shardscan.plan.product_costs import copied_bytes
from shardscan.plan.products import of_blocks, of_composites, of_matrices
from shardscan.plan.scan import Plan
from shardscan.plan.tasks import Block, CompositeTask, Task, Unit, in_flight
from shardscan.shards.ahead import DEPTH
from shardscan.shards.dtypes import DTYPES

BASELINE = 112 << 20  # libraries, kernels and BLAS, and what the heaps of all threads keep of small objects
LEAST = BASELINE + (96 << 20)  # below it nothing is promised
WRITING = 16 << 20  # chunks on their way to their files
COMPILING = 92 << 20  # LLVM's, where kernels are not in numba's cache yet
DUCKDB = 80 << 20
CATALOG_ROW, CATALOG_MOST = 60, 136 << 20  # its buffers and two pieces of rows: no more, however many there are


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


def budget_scan(plan: Plan, anatomy: Anatomy, workers: int, exact: bool, compiles: bool) -> Budget:
    """What a plan takes with this many workers, in a process that `compiles` its kernels or finds them."""
    baseline = BASELINE + COMPILING * compiles
    units = [unit for task in plan.tasks for unit in task.units if unit.blocks]
    blocks = [block for unit in units for block in unit.blocks]
    scratch = max(map(_scratch, blocks), default=0)
    partial = max(map(_partial, blocks), default=0)
    finishing = max(map(_finishing, units), default=0)
    read = max((block.window.nbytes for block in blocks), default=0)
    # beside what is in flight: what is read ahead, the tensors that those blocks are parts of, and one task kept
    running = workers * (scratch + finishing) + in_flight(workers) * (partial + read) + DEPTH * read
    running += 2 * max(map(_results, plan.tasks), default=0)
    rows = plan.channels + sum(min(p.tensor.parameters, 8192) for p in anatomy.placed)
    return Budget(
        workers=workers,
        blocks=baseline + (running + WRITING if units else 0),
        composites=baseline + (workers * max(map(_composite, plan.composites)) + WRITING if plan.composites else 0),
        matrices=baseline + max(workers * _largest(plan.matrices, exact), _largest(plan.large_matrices, exact)),
        catalog=baseline + DUCKDB + min(rows * CATALOG_ROW, CATALOG_MOST),
    )


def _scratch(block: Block) -> int:
    """Of one block while it is reduced, one piece after the other."""
    dtype = DTYPES[block.window.dtype]
    values = block.rows * block.cols
    decoded = values * 8 if dtype.bits > 16 and dtype.kind != "float" else copied_bytes(block.window, values)
    cut = values * -(-dtype.bits // 8) if len(block.pieces) > 1 else 0  # a copy of one piece, at most of all
    return decoded + cut + sum(product.reducing(block) for product in of_blocks(block.products))


def _partial(block: Block) -> int:
    """Of one block once it is reduced."""
    return sum(product.partial(block) for product in of_blocks(block.products))


def _finishing(unit: Unit) -> int:
    """Of what becomes arrays beside a block."""
    return max((product.finishing(unit) for product in of_blocks(unit.blocks[0].products)), default=0)


def _results(task: Task) -> int:
    """Of a task's tensors; written one array after the other, each with as many experts as there are."""
    return sum(product.result(unit) for product in of_blocks(task.products) for unit in task.units)


def _composite(task: CompositeTask) -> int:
    """Of one head while it is reduced."""
    return max(product.reducing(task.composite) for product in of_composites(task.composite.kind))


def _largest(tasks: Sequence[Task], exact: bool) -> int:
    """Of the matrix that takes most while it is solved."""
    return max(
        (
            product.solving(unit.placed, matrix, exact)
            for task in tasks
            for product in of_matrices(task.products)
            for unit in task.units
            for matrix in unit.matrices
        ),
        default=0,
    )
