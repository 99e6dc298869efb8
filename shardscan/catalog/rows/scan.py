"""CATALOG, its rows, all of one scan: which arrays of the store become which tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from shardscan.catalog.rows import matrices, spectra
from shardscan.catalog.rows.columns import Rows, numbers, repeat
from shardscan.catalog.scans import Contents, Member, Region, composites, members, regions, stacks
from shardscan.plan.scan import kept_channels
from shardscan.reduce import tensors
from shardscan.reduce.distribution import bin_edges, is_exact
from shardscan.reduce.tensors import TENSOR_STATISTICS
from shardscan.store import arrays as store
from shardscan.store import commits
from shardscan.store.commits import SCANNED

COMPOSITE_ARRAYS = ("composites", "composites_facts")
RUN_FACTS = ("options", "host", "versions")
SIZES = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocab_size", "experts")
SAID = {
    "source": pa.string(), "architecture": pa.string(), "family": pa.string(), "tied_embeddings": pa.bool_(),
    "config": pa.string(),
}  # fmt: skip
PLACE = {"component": pa.string(), "layer": pa.int32(), "role": pa.string(), "expert": pa.int32()}


def of_scan(held: Contents) -> Iterator[Rows]:
    """Every row of one model, table by table in no promised order; a table may come in several pieces."""
    groups = members(held)
    everyone = [member for found in groups.values() for member in found]
    aliases = _aliases(everyone)
    for folder, found in groups.items():
        for region in regions(folder, found):
            yield from _tensors_in(held, region, aliases)
    stacked = stacks(groups)
    total = sum(matrices.channels_of(m) for found in stacked.values() for m in found)
    kept = kept_channels(held.channels, total)
    for folder, inside in stacked.items():
        for piece in regions(folder, inside):
            yield from matrices.of_region(held, piece, kept)
    for some in composites(held):
        sigma, facts = (
            store.read(held.scan, some.folder, name, (some.layers, slice(None))) for name in COMPOSITE_ARRAYS
        )
        yield matrices.of_composites(held.model, some)
        yield from spectra.tables(held.model, list(spectra.of_composites(some, sigma, facts)))
    yield _model(held, everyone, kept)
    yield _files(held.model, held.facts)
    yield _runs(held.model, commits.runs(held.scan))


def _aliases(members: Sequence[Member]) -> dict[str, str]:
    """Output heads that are equal to the token embedding: their name to its name."""
    embeddings = {m.digest: m.name for m in members if m.place["role"] == "embed_tokens" and m.digest}
    heads = [m for m in members if m.place["role"] == "lm_head"]
    return {m.name: embeddings[m.digest] for m in heads if m.digest in embeddings}


def _tensors_in(held: Contents, region: Region[Member], aliases: Mapping[str, str]) -> Iterator[Rows]:
    scanned = [m for m in region.members if m.status in SCANNED]
    values: dict[str, tuple[list[np.ndarray], np.ndarray]] = {}
    for part in sorted({m.place["part"] for m in scanned}):
        values |= _values(held, region, [m for m in scanned if m.place["part"] == part], part)
    yield _tensors(held.model, region.members, values, aliases)
    if scanned:
        yield _distribution(held.model, scanned, values)


def _values(
    held: Contents, region: Region[Member], members: Sequence[Member], part: str
) -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Of each tensor, by name, the moments of its runs and the counts of all its patterns."""

    def stack(name: str, layers: slice, experts: slice) -> np.ndarray:
        return store.read(held.scan, region.folder, f"{name}_{part}", (layers, experts))

    moments, counts = (stack(name, region.layers, region.experts) for name in ("moments", "distribution"))
    found = {}
    for m in members:
        rows, of_all = [moments[region.slot(m)]], counts[region.slot(m)]
        for layer, expert in m.slots[1:]:
            beside = slice(layer, layer + 1), slice(expert, expert + 1)
            rows.append(stack("moments", *beside)[0, 0])
            of_all = of_all + stack("distribution", *beside)[0, 0]
        found[m.name] = (rows, of_all)
    return found


def _tensors(
    model: str,
    members: Sequence[Member],
    values: Mapping[str, tuple[list[np.ndarray], np.ndarray]],
    aliases: Mapping[str, str],
) -> Rows:
    nothing = np.full(len(TENSOR_STATISTICS), np.nan)
    dtypes = [m.facts["tensor"]["dtype"] for m in members]
    found = np.array([
        tensors.statistics(values[m.name][0], dtype, values[m.name][1]) if m.name in values else nothing
        for m, dtype in zip(members, dtypes, strict=True)
    ])  # fmt: skip
    places = {name: pa.array([m.place[name] for m in members], kind) for name, kind in PLACE.items()}
    columns: dict[str, Any] = {
        "model": [model] * len(members),
        "tensor": [m.name for m in members],
        "file": [m.facts["tensor"]["file"] for m in members],
        "dtype": dtypes,
        "shape": pa.array([m.facts["tensor"]["shape"] for m in members], pa.list_(pa.uint64())),
        "parameters": [int(np.prod(m.facts["tensor"]["shape"], dtype=object)) for m in members],
        "bytes": [m.facts["tensor"]["nbytes"] for m in members],
        "canonical_name": [m.facts["canonical_name"] for m in members],
        **places,
        "part": [m.place["part"] for m in members],
        "alias_of": pa.array([aliases.get(m.name) for m in members], pa.string()),
        "shared_with": pa.array([m.facts["tensor"]["shared_with"] for m in members], pa.string()),
        "status": [m.status for m in members],
        "reason": pa.array([m.reason for m in members], pa.string()),
        **{name: numbers(found[:, i], name) for i, name in enumerate(TENSOR_STATISTICS)},
        "quantiles_exact": pa.array(
            [is_exact(dtype) if m.status in SCANNED else None for m, dtype in zip(members, dtypes, strict=True)],
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
        lo, hi = bin_edges(m.facts["tensor"]["dtype"], bins)
        finite = np.isfinite(lo)
        pieces.append((m.name, bins[finite], lo[finite], hi[finite], counts[bins][finite]))
    lengths = [len(piece[1]) for piece in pieces]
    return "distribution", pa.table({
        "model": repeat([model], [sum(lengths)]),
        "tensor": repeat([piece[0] for piece in pieces], lengths),
        "bin": np.concatenate([piece[1] for piece in pieces]).astype(np.int32),
        "lo": np.concatenate([piece[2] for piece in pieces]),
        "hi": np.concatenate([piece[3] for piece in pieces]),
        "count": np.concatenate([piece[4] for piece in pieces]).astype(np.int64),
    })  # fmt: skip


def _model(held: Contents, members: Sequence[Member], channels: str) -> Rows:
    facts = held.facts
    return "models", pa.table({
        "model": [held.model],
        **{name: pa.array([value], SAID[name]) for name, value in said(held).items()},
        "format": [facts["format"]],
        "parameters": [sum(int(np.prod(m.facts["tensor"]["shape"], dtype=object)) for m in members)],
        "bytes": [sum(f["used_nbytes"] for f in facts["files"])],
        **{name: pa.array([facts["sizes"][name]], pa.int32()) for name in SIZES},
        "channels": [channels],
        "identity": [held.identity],
        "scan": [held.scan.id],
        "commits": pa.array([len(held.done)], pa.int32()),
        "state": [held.state],
    })  # fmt: skip


def said(held: Contents) -> dict[str, Any]:
    """What a checkpoint says of itself, by the columns of its row: a scan need not be done again for any of it."""
    facts = held.facts
    config = facts["config"] or {}
    tied = config.get("tie_word_embeddings")
    return {
        "source": facts["source"],
        "architecture": _first(config.get("architectures")),
        "family": facts["family"],
        "tied_embeddings": tied if isinstance(tied, bool) else None,
        "config": None if facts["config"] is None else json.dumps(facts["config"]),
    }


def _first(values: Any) -> str | None:
    return str(values[0]) if isinstance(values, list) and values else None


def _files(model: str, facts: Mapping[str, Any]) -> Rows:
    files = facts["files"]
    return "files", pa.table({
        "model": [model] * len(files),
        "file": [f["name"] for f in files],
        "bytes": [f["nbytes"] for f in files],
        "header_bytes": [f["header_nbytes"] for f in files],
        "used_bytes": [f["used_nbytes"] for f in files],
        "unused_bytes": [f["data_nbytes"] - f["used_nbytes"] for f in files],
        "tensors": pa.array([f["tensors"] for f in files], pa.int32()),
    })  # fmt: skip


def _runs(model: str, records: Sequence[Mapping[str, Any]]) -> Rows:
    return "runs", pa.table({
        "model": pa.array([model] * len(records), pa.string()),
        "run": pa.array(range(1, len(records) + 1), pa.int32()),
        "started": pa.array([datetime.fromisoformat(r["started"]) for r in records], pa.timestamp("us")),
        "seconds": pa.array([r["seconds"] for r in records], pa.float64()),
        "tasks": pa.array([r["tasks"] for r in records], pa.int32()),
        "bytes_read": pa.array([r["bytes_read"] for r in records], pa.int64()),
        "peak_memory": pa.array([r["peak_memory"] for r in records], pa.int64()),
        **{name: pa.array([json.dumps(r[name]) for r in records], pa.string()) for name in RUN_FACTS},
    })  # fmt: skip
