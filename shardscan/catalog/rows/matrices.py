"""CATALOG, its rows of matrices: each with sums over its channels, then its channels and its spectra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from shardscan.anatomy.matrices import FOLDED
from shardscan.catalog.rows import spectra
from shardscan.catalog.rows.columns import Rows, numbers, repeat
from shardscan.catalog.scans import Composites, Contents, HeldMatrix, Region
from shardscan.plan.tasks import FULL, HEADS, Slot
from shardscan.reduce.result import STORED_STATISTICS, VIOLATIONS
from shardscan.store import arrays as store

TOTALS = ("zeros", *VIOLATIONS)  # of a matrix, summed over its output channels


def channels_of(m: HeldMatrix) -> int:
    """Its rows and columns that have statistics."""
    return int(m.facts["rows"] + (m.facts["cols"] if m.facts["kind"] != FOLDED else 0))


def of_region(held: Contents, region: Region[HeldMatrix], kept: str) -> Iterator[Rows]:
    """Everything of the matrices in a region; of channels those that are `kept`."""

    def stack(name: str) -> np.ndarray:
        return store.read(held.scan, region.folder, name, (region.layers, region.experts))

    scanned = [m for m in region.members if m.scanned]
    values = stack("channels_out") if scanned else np.empty(0)
    yield _matrices(held.model, region, values)
    shown = kept == "all" or (kept == "dense" and region.members[0].facts["expert"] is None)
    for side in ("out", "in") if shown else ():
        inside = [m for m in scanned if side == "out" or m.facts["kind"] != FOLDED]
        if inside:
            values = values if side == "out" else stack("channels_in")
            yield _channels(held.model, region, inside, side, (values, stack(f"fingerprints_{side}")))
    for product, name in ((HEADS, "heads"), (FULL, "full")):
        inside = [m for m in region.members if product in m.spectra or product in m.failures]
        if inside:
            sigma, facts = stack(name), stack(f"{name}_facts")
            slots = [region.slot(m) if product == FULL else region.slot(m)[:1] for m in inside]
            found = [spectra.of_matrix(m, product, sigma[at], facts[at]) for m, at in zip(inside, slots, strict=True)]
            yield from spectra.tables(held.model, list(chain.from_iterable(found)))


def _matrices(model: str, region: Region[HeldMatrix], channels: np.ndarray) -> Rows:
    found = region.members
    facts = [m.facts for m in found]
    totals = np.array([_totals(m, region.slot(m), channels) for m in found])
    heads = [f["heads"] or {"count": None, "queries": None} for f in facts]
    return "matrices", pa.table({
        "model": repeat([model], [len(found)]),
        "matrix": pa.array([f["id"] for f in facts], pa.string()),
        "kind": pa.array([f["kind"] for f in facts], pa.string()),
        "tensor": pa.array([m.tensor for m in found], pa.string()),
        "component": pa.array([m.component for m in found], pa.string()),
        "layer": pa.array([m.layer for m in found], pa.int32()),
        "role": pa.array([f["role"] for f in facts], pa.string()),
        "expert": pa.array([f["expert"] for f in facts], pa.int32()),
        "rows": pa.array([f["rows"] for f in facts], pa.int64()),
        "cols": pa.array([f["cols"] for f in facts], pa.int64()),
        "heads": pa.array([h["count"] for h in heads], pa.int32()),
        "queries_per_head": pa.array([h["queries"] for h in heads], pa.int32()),
        **{name: numbers(totals[:, i], name) for i, name in enumerate(TOTALS)},
    })  # fmt: skip


def _totals(m: HeldMatrix, slot: Slot, channels: np.ndarray) -> np.ndarray:
    """TOTALS (3,) of a matrix, from the statistics of all output channels in its region."""
    if not m.scanned:
        return np.full(len(TOTALS), np.nan)
    rows = [STORED_STATISTICS.index(name) for name in TOTALS]
    sums: np.ndarray = channels[slot][rows, : m.facts["rows"]].sum(axis=1)
    return sums


def of_composites(model: str, some: Composites) -> Rows:
    """Circuits and deltas, which are in no file and have no channels."""
    every = [(facts, id) for facts in some.facts.values() for id in spectra.ids_of(facts)]
    n = len(every)
    return "matrices", pa.table({
        "model": repeat([model], [n]),
        "matrix": pa.array([id for _, id in every], pa.string()),
        "kind": pa.array([facts["kind"] for facts, _ in every], pa.string()),
        "component": repeat([some.component], [n]),
        "layer": pa.array([facts["layer"] for facts, _ in every], pa.int32()),
        "role": pa.array([facts["role"] for facts, _ in every], pa.string()),
        "expert": pa.array([facts["expert"] for facts, _ in every], pa.int32()),
        "rows": pa.array([facts["rows"] for facts, _ in every], pa.int64()),
        "cols": pa.array([facts["cols"] for facts, _ in every], pa.int64()),
    })  # fmt: skip


def _channels(
    model: str,
    region: Region[HeldMatrix],
    found: Sequence[HeldMatrix],
    side: str,
    stacked: tuple[np.ndarray, np.ndarray],
) -> Rows:
    values, fingerprints = stacked
    lengths = [m.facts["rows" if side == "out" else "cols"] for m in found]
    indices = [np.arange(n, dtype=np.int32) for n in lengths]
    heads = [_heads_of_channels(m, side, channel) for m, channel in zip(found, indices, strict=True)]
    pieces = [values[region.slot(m)][:, :n] for m, n in zip(found, lengths, strict=True)]
    prints = [fingerprints[region.slot(m)][:n] for m, n in zip(found, lengths, strict=True)]
    joined = np.concatenate(pieces, axis=1)
    return "channels", pa.table({
        "model": repeat([model], [sum(lengths)]),
        "matrix": repeat([m.facts["id"] for m in found], lengths),
        "axis": repeat([side], [sum(lengths)]),
        "channel": np.concatenate(indices),
        "layer": repeat([m.layer for m in found], lengths, pa.int32()),
        "role": repeat([m.facts["role"] for m in found], lengths),
        "head": pa.concat_arrays(heads),
        **{name: numbers(joined[i], name) for i, name in enumerate(STORED_STATISTICS)},
        "fingerprint": np.concatenate(prints),
    })  # fmt: skip


def _heads_of_channels(m: HeldMatrix, side: str, channel: np.ndarray) -> pa.Array:
    heads = m.facts["heads"]
    if heads and heads["axis"] == side:
        return pa.array(channel // heads["dim"], pa.int32())
    return pa.nulls(len(channel), pa.int32())
