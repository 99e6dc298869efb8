"""CATALOG, its rows of tensors: the statistics of each, and its distribution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from shardscan.catalog.rows.columns import Rows, repeat_values, statistics_column
from shardscan.catalog.scans import Contents, Member, Region, cut_regions
from shardscan.reduce import tensors
from shardscan.reduce.distribution import BINS, bin_edges, is_exact
from shardscan.reduce.tensors import TENSOR_STATISTICS

PLACE = {"component": pa.string(), "layer": pa.int32(), "role": pa.string(), "expert": pa.int32()}


def tensor_rows(scanned: Contents) -> Iterator[Rows]:
    """A row for every tensor of the headers, and the bins of those that have values."""
    aliases = _aliases([member for members in scanned.members.values() for member in members])
    for folder, members in scanned.members.items():
        for region in cut_regions(folder, members, BINS):
            yield from _tensors_in(scanned, region, aliases)


def _aliases(members: Sequence[Member]) -> dict[str, str]:
    """Output heads that are equal to the token embedding: their name to its name."""
    embeddings = {m.digest: m.name for m in members if m.stored.place.role == "embed_tokens" and m.digest}
    heads = [m for m in members if m.stored.place.role == "lm_head"]
    return {m.name: embeddings[m.digest] for m in heads if m.digest in embeddings}


def _tensors_in(scanned: Contents, region: Region[Member], aliases: Mapping[str, str]) -> Iterator[Rows]:
    known = [m for m in region.members if m.scanned]
    values: dict[str, tuple[list[np.ndarray], np.ndarray]] = {}
    for part in sorted({m.stored.place.part for m in known}):
        values |= _values(scanned, region, [m for m in known if m.stored.place.part == part], part)
    yield _tensors(scanned.model, region.members, values, aliases)
    if known:
        yield _distribution(scanned.model, known, values)


def _values(
    scanned: Contents, region: Region[Member], members: Sequence[Member], part: str
) -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Of each tensor, by name, the moments of its runs and the counts of all its patterns."""
    names = f"moments_{part}", f"distribution_{part}"
    moments, counts = (scanned.array(region, name) for name in names)
    values = {}
    for m in members:
        rows, of_all = [moments[region.slot(m)]], counts[region.slot(m)]
        for slot in m.stored.slots[1:]:
            own, more = (scanned.arrays_at(region.folder, name, slot) for name in names)
            rows.append(own)
            of_all = of_all + more
        values[m.name] = (rows, of_all)
    return values


def _tensors(
    model: str,
    members: Sequence[Member],
    values: Mapping[str, tuple[list[np.ndarray], np.ndarray]],
    aliases: Mapping[str, str],
) -> Rows:
    nothing = np.full(len(TENSOR_STATISTICS), np.nan)
    dtypes = [m.stored.tensor.dtype for m in members]
    statistics = np.array([
        tensors.statistics_of_runs(values[m.name][0], dtype, values[m.name][1]) if m.name in values else nothing
        for m, dtype in zip(members, dtypes, strict=True)
    ])  # fmt: skip
    places = {name: pa.array([getattr(m.stored.place, name) for m in members], kind) for name, kind in PLACE.items()}
    columns: dict[str, Any] = {
        "model": [model] * len(members),
        "tensor": [m.name for m in members],
        "file": [m.stored.tensor.file for m in members],
        "dtype": dtypes,
        "shape": pa.array([m.stored.tensor.shape for m in members], pa.list_(pa.uint64())),
        "parameters": [m.stored.counted for m in members],
        "bytes": [m.stored.tensor.nbytes for m in members],
        "canonical_name": [m.stored.canonical_name for m in members],
        **places,
        "part": [m.stored.place.part for m in members],
        "alias_of": pa.array([aliases.get(m.name) for m in members], pa.string()),
        "shared_with": pa.array([m.stored.tensor.shared_with for m in members], pa.string()),
        "status": [m.status for m in members],
        "reason": pa.array([m.reason for m in members], pa.string()),
        **{name: statistics_column(statistics[:, i], name) for i, name in enumerate(TENSOR_STATISTICS)},
        "quantiles_exact": pa.array(
            [is_exact(dtype) if m.scanned else None for m, dtype in zip(members, dtypes, strict=True)],
            pa.bool_(),
        ),
        "digest": pa.array([m.digest for m in members], pa.string()),
    }
    return "tensors", pa.table(columns)


def _distribution(
    model: str, members: Sequence[Member], values: Mapping[str, tuple[list[np.ndarray], np.ndarray]]
) -> Rows:
    pieces = []
    for m in members:
        counts = values[m.name][1]
        bins = np.flatnonzero(counts)
        lo, hi = bin_edges(m.stored.tensor.dtype, bins)
        finite = np.isfinite(lo)
        pieces.append((m.name, bins[finite], lo[finite], hi[finite], counts[bins][finite]))
    lengths = [len(piece[1]) for piece in pieces]
    return "distribution", pa.table({
        "model": repeat_values([model], [sum(lengths)]),
        "tensor": repeat_values([piece[0] for piece in pieces], lengths),
        "bin": np.concatenate([piece[1] for piece in pieces]).astype(np.int32),
        "lo": np.concatenate([piece[2] for piece in pieces]),
        "hi": np.concatenate([piece[3] for piece in pieces]),
        "count": np.concatenate([piece[4] for piece in pieces]).astype(np.int64),
    })  # fmt: skip
