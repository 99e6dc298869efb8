"""What `ls`, and every command that opens a checkpoint, tells of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardscan.cli.prints.sizes import format_count, format_size
from shardscan.output.cells import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from shardscan.anatomy.places import Placed
    from shardscan.jobs.scan.prepare import Prepared

PLACED = 0.9  # the share of parameters below which a hint follows
NOT_PLACED = "`shardscan anatomy` lists the names that no rule knows; --family FILE adds rules of your own."
SHORT = ("tensor", "layer", "role", "part", "heads", "dtype", "shape", "bytes")


def tabulate_tensors(prepared: Prepared, *, long: bool = False) -> pa.Table:
    """One row a tensor: name, place, heads, dtype, shape, bytes; `long` adds component, parameters, file and reason."""
    import pyarrow as pa

    placed = prepared.anatomy.placed
    rows = pa.table({
        "tensor": pa.array([p.tensor.name for p in placed], pa.string()),
        "component": pa.array([p.place.component for p in placed], pa.string()),
        "layer": pa.array([p.place.layer for p in placed], pa.int32()),
        "role": pa.array([p.place.role for p in placed], pa.string()),
        "part": pa.array([p.place.part for p in placed], pa.string()),
        "dtype": pa.array([p.tensor.dtype for p in placed], pa.string()),
        "shape": pa.array([list(p.tensor.shape) for p in placed], pa.list_(pa.uint64())),
        "parameters": pa.array([p.counted for p in placed], pa.int64()),
        "bytes": pa.array([p.tensor.nbytes for p in placed], pa.int64()),
        "heads": pa.array([_count_heads(p) for p in placed], pa.int32()),
        "file": pa.array([p.tensor.file for p in placed], pa.string()),
        "reason": pa.array([p.codes or p.reason for p in placed], pa.string()),
    })  # fmt: skip
    return rows if long else rows.select(SHORT)


def _count_heads(p: Placed) -> int | None:
    """How many heads a tensor's matrix has, of a fused one its first."""
    return next((matrix.heads.count for matrix in p.matrices if matrix.heads), None)


def describe_checkpoint(prepared: Prepared) -> str:
    """The checkpoint in one line, and the device unless it is the CPU; a hint where much of it has no place."""
    checkpoint, anatomy = prepared.checkpoint, prepared.anatomy
    placed, parameters = anatomy.placed_parameters, anatomy.parameters
    share = f"{_format_share(placed, parameters)} of the parameters placed"
    remarks = [f"family {anatomy.family}, {share}" if anatomy.family else "no family fits"]
    if quantised := sum(p.codes is not None for p in anatomy.placed):
        unknown = sum(p.codes is not None and p.parameters is None for p in anatomy.placed)
        uncounted = f", of {unknown:,} of which stored elements count as parameters" if unknown else ""
        remarks.append(f"{quantised:,} quantised{uncounted}")
    if prepared.device.name != "cpu":
        remarks.append(f"on {prepared.device.name}")
    files = f"{format_size(checkpoint.nbytes)} in {format_count(len(checkpoint.files), 'file')}"
    contents = f"{format_count(len(checkpoint), 'tensor')}, {parameters:,} parameters, {files}"
    hint = "" if placed >= PLACED * parameters else f" {NOT_PLACED}"
    return f"{visible(checkpoint.name)}: {contents}; {'; '.join(remarks)}.{hint}"


def _format_share(part: int, whole: int) -> str:
    """A share in per cent, which is 100 % of all alone."""
    return "100 %" if part == whole else f"{part * 1000 // whole / 10:.1f} %"
