"""CATALOG, its rows of statistics: tensors, matrices with sums over their channels, and their channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from shardscan.anatomy.matrices import FOLDED
from shardscan.catalog.rows.columns import Rows, repeat_values, statistics_column
from shardscan.catalog.rows.tensors import tensor_rows
from shardscan.catalog.scans import Contents, Region, StackedMatrix, cut_regions
from shardscan.plan.products import STATS
from shardscan.plan.scan import keeps_channels_of
from shardscan.plan.tasks import Slot
from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.statistics import STORED_STATISTICS

TOTALS = ("zeros", *STORED_STATISTICS[len(CHANNEL_STATISTICS) :])  # of a matrix, summed over its output channels


def statistics_rows(scanned: Contents) -> Iterator[Rows]:
    """A row for every tensor and matrix of the headers, and for every channel that the catalog keeps."""
    yield from tensor_rows(scanned)
    for folder, matrices in scanned.stacks.items():
        width = len(STORED_STATISTICS) * max(max(m.stored.rows, m.stored.cols) for m in matrices)
        for region in cut_regions(folder, matrices, width):
            yield from _region_rows(scanned, region)


def _region_rows(scanned: Contents, region: Region[StackedMatrix]) -> Iterator[Rows]:
    known = [m for m in region.members if m.has(STATS)]
    values = scanned.array(region, "channels_out") if known else np.empty(0)
    yield _matrices(scanned.model, region, values)
    if not keeps_channels_of(scanned.kept, region.members[0].stored.expert is not None):
        return
    if known:
        yield _channels(scanned, region, known, "out", values)
    unfolded = [m for m in known if m.stored.kind != FOLDED]
    if unfolded:
        values = scanned.array(region, "channels_in")
        yield _channels(scanned, region, unfolded, "in", values)


def _matrices(model: str, region: Region[StackedMatrix], channels: np.ndarray) -> Rows:
    matrices = region.members
    stored = [m.stored for m in matrices]
    totals = np.array([_totals(m, region.slot(m), channels) for m in matrices])
    heads = [m.heads for m in stored]
    return "matrices", pa.table({
        "model": repeat_values([model], [len(matrices)]),
        "matrix": pa.array([m.id for m in stored], pa.string()),
        "kind": pa.array([m.kind for m in stored], pa.string()),
        "tensor": pa.array([m.tensor for m in matrices], pa.string()),
        "component": pa.array([m.component for m in matrices], pa.string()),
        "layer": pa.array([m.layer for m in matrices], pa.int32()),
        "role": pa.array([m.role for m in stored], pa.string()),
        "expert": pa.array([m.expert for m in stored], pa.int32()),
        "rows": pa.array([m.rows for m in stored], pa.int64()),
        "cols": pa.array([m.cols for m in stored], pa.int64()),
        "heads": pa.array([h and h.count for h in heads], pa.int32()),
        "queries_per_head": pa.array([h and h.queries for h in heads], pa.int32()),
        **{name: statistics_column(totals[:, i], name) for i, name in enumerate(TOTALS)},
    })  # fmt: skip


def _totals(m: StackedMatrix, slot: Slot, channels: np.ndarray) -> np.ndarray:
    """TOTALS (3,) of a matrix, from the statistics of all output channels in its region."""
    if not m.has(STATS):
        return np.full(len(TOTALS), np.nan)
    rows = [STORED_STATISTICS.index(name) for name in TOTALS]
    sums: np.ndarray = channels[slot][rows, : m.stored.rows].sum(axis=1)
    return sums


def _channels(
    scanned: Contents, region: Region[StackedMatrix], matrices: Sequence[StackedMatrix], side: str, values: np.ndarray
) -> Rows:
    """The channels of one side of some of a region's matrices, whose stacked statistics are `values`."""
    fingerprints = scanned.array(region, f"fingerprints_{side}")
    lengths = [m.stored.rows if side == "out" else m.stored.cols for m in matrices]
    indices = [np.arange(n, dtype=np.int32) for n in lengths]
    heads = [_heads_of_channels(m, side, channel) for m, channel in zip(matrices, indices, strict=True)]
    pieces = [values[region.slot(m)][:, :n] for m, n in zip(matrices, lengths, strict=True)]
    prints = [fingerprints[region.slot(m)][:n] for m, n in zip(matrices, lengths, strict=True)]
    joined = np.concatenate(pieces, axis=1)
    return "channels", pa.table({
        "model": repeat_values([scanned.model], [sum(lengths)]),
        "matrix": repeat_values([m.stored.id for m in matrices], lengths),
        "axis": repeat_values([side], [sum(lengths)]),
        "channel": np.concatenate(indices),
        "layer": repeat_values([m.layer for m in matrices], lengths, pa.int32()),
        "role": repeat_values([m.stored.role for m in matrices], lengths),
        "head": pa.concat_arrays(heads),
        **{name: statistics_column(joined[i], name) for i, name in enumerate(STORED_STATISTICS)},
        "fingerprint": np.concatenate(prints),
    })  # fmt: skip


def _heads_of_channels(m: StackedMatrix, side: str, channel: np.ndarray) -> pa.Array:
    heads = m.stored.heads
    if heads and heads.axis == side:
        return pa.array(channel // heads.dim, pa.int32())
    return pa.nulls(len(channel), pa.int32())
