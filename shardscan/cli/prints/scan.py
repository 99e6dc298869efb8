"""What `ingest` tells: what a scan would cost, what it leaves out, and what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardscan.cli.prints.sizes import format_size
from shardscan.output.cells import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from shardscan.jobs.scan.job import Summary
    from shardscan.jobs.scan.prepare import Prepared
    from shardscan.plan.scan import Plan
    from shardscan.plan.tasks import Group


def note_missing_channels(prepared: Prepared, channels: str) -> tuple[str, ...]:
    """A sentence where the catalog has not all channels."""
    from shardscan.plan.scan import catalog_rows

    if channels == "all":
        return ()
    rows, total = catalog_rows(prepared.plan, channels), prepared.plan.channels
    return (f"the catalog has {rows:,} of {total:,} rows of channels ({channels}): --channels all brings the others.",)


def note_missing_circuits(prepared: Prepared) -> tuple[str, ...]:
    """A sentence where circuits were asked for and no layer has any."""
    from shardscan.plan.tasks import CIRCUITS

    if CIRCUITS not in prepared.products or any(_has_circuits(group) for group in prepared.plan.groups):
        return ()
    return ("no circuits: no layer has q_proj and k_proj, or v_proj and o_proj, with heads that fit each other.",)


def _has_circuits(group: Group) -> bool:
    from shardscan.anatomy.composites import CIRCUIT

    return any(composite.kind == CIRCUIT for composite in group.composites)


def tabulate_costs(prepared: Prepared, left: Plan, channels: str) -> pa.Table:
    """One row: what a scan would read and need for what is left to do, and what it leaves behind in all."""
    import pyarrow as pa

    from shardscan.plan.scan import CHANNEL_ROW, catalog_rows

    budget, rows = prepared.budget(left), catalog_rows(left, channels)
    return pa.table({
        "model": [prepared.checkpoint.name],
        "tensors": [len(prepared.checkpoint)],
        "tasks": [len(left.tasks) + len(left.composites) + len(left.matrices) + len(left.large_matrices)],
        "bytes_to_read": [left.bytes_to_read],
        "workers": [budget.workers],
        "peak_memory": [budget.peak],
        "channels": [channels],
        "channel_rows": [rows],
        "store_bytes": [left.store_bytes + CHANNEL_ROW * rows],
    })  # fmt: skip


def describe_reading(summary: Summary) -> str:
    """What an ingest read and how fast, in a sentence."""
    if not summary.tasks:
        return f"Everything of {visible(summary.model)} was committed already: nothing was scanned."
    return f"Read {format_size(summary.bytes_read)} and built the catalog in {summary.seconds:.1f} s."


def tabulate_summary(summary: Summary) -> pa.Table:
    """One row: what an ingest did."""
    import pyarrow as pa

    return pa.table({
        "model": [summary.model],
        "store": [summary.store],
        "tensors": [summary.tensors],
        "tasks": [summary.tasks],
        "failed": [len(summary.failures)],
        "bytes_read": [summary.bytes_read],
        "seconds": [round(summary.seconds, 2)],
        "peak_memory": pa.array([summary.peak_memory], pa.int64()),
        "catalog": [summary.catalog],
    })  # fmt: skip
