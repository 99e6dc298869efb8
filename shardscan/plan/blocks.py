"""PLAN, its blocks: runs of whole rows of a tensor, and what each holds of which matrix. Pure.

The grid depends on the tensor alone, never on workers, memory or products, so that any machine adds in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from shardscan.anatomy.places import Placed
from shardscan.plan.products import BlockProduct, of_blocks, of_matrices
from shardscan.plan.tasks import ROW_MULTIPLE, Block, Piece
from shardscan.shards.dtypes import DTYPES

BLOCK_BYTES = 16 << 20


def cut_blocks(p: Placed, numbers: range, products: frozenset[str]) -> Iterator[Block]:
    """About 16 MiB of whole rows each, whole heads where heads are rows; a 1-D tensor is cut into runs of values.

    The grid is one for all products: it is in the tensor's digest, and sums are added along it. Nothing is read of
    codes, nor where no product wants anything of the tensor.
    """
    wanted = () if p.codes else of_blocks(products)
    wanted = tuple(product for product in wanted if any(product.wants(p, m) for m in (None, *p.matrices)))
    if not wanted and not of_matrices(products):
        return
    tensor, hashed = p.tensor, any(product.vouches for product in wanted)
    whole = frozenset(product.name for product in wanted if product.wants(p, None))
    if tensor.parameters == 0:
        yield Block(tensor.window(0, 0), 1, 0, 0, hashed, (Piece(0, None, 0, 0, whole),))
        return
    flat = len(tensor.shape) < 2
    first, last, cols = _extent(p, numbers)
    align = math.lcm(ROW_MULTIPLE, 1 if p.is_stack else _whole_heads(p))
    step = max(1, BLOCK_BYTES * 8 // max(1, cols * DTYPES[tensor.dtype].bits) // align) * align
    for start in range(first, last, step):
        stop = min(start + step, last)
        window = tensor.rows(start, stop, cols) if tensor.shape else tensor.window()
        pieces = tuple(_pieces(p, numbers, start, stop, wanted))
        if not pieces:
            pieces = (Piece(0, None, start, 1 if flat else stop - start, whole),)
        yield Block(window, 1 if flat else stop - start, stop - start if flat else cols, start, hashed, pieces)


def _extent(p: Placed, numbers: range) -> tuple[int, int, int]:
    """The first and last of the stored rows that matrices are in, and how many columns there are; 1 of a vector."""
    if len(p.tensor.shape) < 2:
        return 0, max(1, p.tensor.parameters), 1
    rows, cols = p.stored_shape
    if not p.is_stack:
        return 0, rows, cols
    rows_of_expert = rows // (1 + (p.matrices[-1].expert or 0))
    first, last = (p.matrices[n].expert or 0 for n in (numbers[0], numbers[-1]))
    return first * rows_of_expert, (last + 1) * rows_of_expert, cols


def _whole_heads(p: Placed) -> int:
    """Stored rows that a block holds a multiple of, so that no head is in two."""
    divided = [matrix for matrix in p.matrices if matrix.heads and matrix.stored_axis == "out"]
    unit = math.lcm(*(matrix.heads.dim for matrix in divided if matrix.heads))
    edges = [n for m in divided for n in (m.stored_rows.start, m.stored_rows.length, m.stored_rows.stride)]
    return unit if all(n % unit == 0 for n in edges) else math.lcm(*(m.stored_rows.stride for m in divided))


def _pieces(p: Placed, numbers: range, start: int, stop: int, wanted: Sequence[BlockProduct]) -> Iterator[Piece]:
    """What is in the stored rows from `start` to `stop`, matrix by matrix."""
    for number in numbers:
        matrix = p.matrices[number]
        first, last = matrix.stored_rows.below(start), matrix.stored_rows.below(stop)
        if last > first:
            products = frozenset(product.name for product in wanted if product.wants(p, matrix))
            yield Piece(number, matrix, first, last - first, products)
