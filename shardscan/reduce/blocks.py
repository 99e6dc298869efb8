"""REDUCE, its pass over blocks: a block becomes partials, these merge in a fixed order, the last become the results.

What is made of a block is for its products to say: see `products`. Everything here is a plain function of picklable
values, so that any thread, process or cluster node can run a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from shardscan.errors import CheckpointError
from shardscan.plan.products import of_blocks
from shardscan.plan.tasks import Block, Piece, Unit
from shardscan.reduce.devices import CPU, Device, DeviceBlock
from shardscan.reduce.products import BlockSteps, Mergeable, steps_of
from shardscan.reduce.result import Result
from shardscan.reduce.values import kernel_values, select_values
from shardscan.shards.ahead import Ahead
from shardscan.shards.dtypes import DTYPES


@dataclass(frozen=True, slots=True)
class Part:
    """What a run of blocks is reduced to for one product: of the tensor, and of each matrix by its number."""

    of_tensor: Any = None
    of_matrices: Mapping[int, Any] = field(default_factory=dict)

    def merge(self, other: Part) -> Part:
        """Join two runs: `other` comes after."""
        matrices = {**self.of_matrices}
        for number, partial in other.of_matrices.items():
            matrices[number] = _merged(matrices.get(number), partial)
        return Part(_merged(self.of_tensor, other.of_tensor), matrices)


def _merged(first: Mergeable | None, second: Mergeable | None) -> Mergeable | None:
    return first.merge(second) if first is not None and second is not None else second if first is None else first


@dataclass(frozen=True, slots=True)
class Partial:
    """What a run of blocks is reduced to, by product, and their digests; or why it could not be read."""

    digests: bytes = b""
    parts: Mapping[str, Part] = field(default_factory=dict)
    failure: str | None = None


def compile_kernels(dtypes: Iterable[str]) -> None:
    """Compile what blocks of these dtypes need, or load it: beside blocks it would take memory that no plan has."""
    for dtype in dtypes:
        values, table = kernel_values(np.zeros(DTYPES[dtype].nbytes(8), np.uint8), dtype, (1, 8))
        for product in of_blocks():
            steps_of(product.name, BlockSteps).compile(values, table)


def reduce_block(block: Block, device: Device = CPU, ahead: Ahead | None = None) -> Partial:
    """Read one block once, or take what was read ahead, and reduce it to whatever its products need of it."""
    try:
        with ahead.raw(block.window) if ahead else nullcontext(block.window.raw()) as raw:
            values, table = kernel_values(raw, block.window.dtype, (block.rows, block.cols))
            # hashed first: on a GPU blocks wait for their turn, and should not wait for the disk within it
            digest = xxhash.xxh3_128_digest(raw.data) if block.hashed else b""
            parts: dict[str, Part] = {}
            for piece in block.pieces:
                for name, part in _reduce_piece(piece, _values_of(piece, block, values), table, device).items():
                    parts[name] = parts[name].merge(part) if name in parts else part
            return Partial(digest, parts)
    except CheckpointError as error:  # one unreadable tensor costs only itself
        return Partial(failure=str(error))


def _values_of(piece: Piece, block: Block, values: np.ndarray) -> np.ndarray:
    if piece.matrix is None:
        return values
    rows = piece.matrix.stored_rows.indices(piece.first, piece.first + piece.count) - block.first_row
    return select_values(values, rows, piece.matrix.stored_cols)


def _reduce_piece(piece: Piece, values: np.ndarray, table: np.ndarray | None, device: Device) -> dict[str, Part]:
    """What each product makes of a piece; all that is made on the device is made of one loading."""
    steps = {product.name: steps_of(product.name, BlockSteps) for product in of_blocks(piece.products)}

    def on_device(block: DeviceBlock) -> dict[str, Any]:
        return {name: own.on_device(block, piece) for name, own in steps.items()}

    made, by = device.on_block(values, table, on_device)
    parts = {}
    for name, own in steps.items():
        reduced = own.reduce(made[name], piece, values, table, by)
        parts[name] = Part(reduced.of_tensor, {} if reduced.of_matrix is None else {piece.index: reduced.of_matrix})
    return parts


def merge_products(a: Partial, b: Partial) -> Partial:
    """Two neighbouring runs of blocks as one; the left fold over a tensor's blocks is the one order there is."""
    if a.failure or b.failure:
        return Partial(failure=a.failure or b.failure)
    parts = {**a.parts}
    for name, part in b.parts.items():
        parts[name] = parts[name].merge(part) if name in parts else part
    return Partial(a.digests + b.digests, parts)


def finish_tensor(unit: Unit, partial: Partial) -> Result:
    """The results of one unit from the partial of all its blocks."""
    if partial.failure:
        return Result(failure=partial.failure)
    try:
        outcomes = {
            name: steps_of(name, BlockSteps).finish(unit, part.of_tensor, part.of_matrices)
            for name, part in partial.parts.items()
        }
    except (CheckpointError, np.linalg.LinAlgError) as error:
        return Result(failure=str(error))
    return Result(outcomes, _digest(unit, partial.digests) if partial.digests else None)


def content_digest(unit: Unit) -> str:
    """The digest that a unit's result would have, from its bytes alone."""
    return _digest(unit, b"".join(xxhash.xxh3_128_digest(block.window.raw().data) for block in unit.blocks))


def _digest(unit: Unit, of_blocks: bytes) -> str:
    tensor = unit.placed.tensor
    return xxhash.xxh3_128_hexdigest(f"{tensor.dtype} {list(tensor.shape)} ".encode() + of_blocks)
