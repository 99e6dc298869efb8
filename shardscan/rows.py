"""CATALOG, its rows: one scan's arrays and commits as Arrow tables, with the columns of sql/schema.

NULL means not computed: a NaN never becomes a value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from shardscan import commits, store
from shardscan.contents import Contents, Member, Region, members, regions
from shardscan.reduce.distribution import bin_edges, is_exact
from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.result import METHODS, TENSOR_STATISTICS, spectrum_floor

RUN_FACTS = ("options", "host", "versions")
COUNTS = frozenset({"zeros", "near_zeros", "nans", "infs"})
SIZES = {"layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocab_size"}
Rows = tuple[str, pa.Table]


def of_scan(held: Contents) -> Iterator[Rows]:
    """Every row of one model, table by table in no promised order; a table may come in several pieces."""
    groups = members(held)
    everyone = [member for found in groups.values() for member in found]
    aliases = _aliases(everyone)
    for folder, found in groups.items():
        for region in regions(folder, found):
            yield from _region(held, region, aliases)
    yield _model(held, everyone)
    yield _files(held.model, held.facts)
    yield _runs(held.model, commits.runs(held.scan))


def _aliases(members: Sequence[Member]) -> dict[str, str]:
    """Output heads that are stored as a copy of the token embedding: their name to its name."""
    embeddings = {m.digest: m.name for m in members if m.place["role"] == "embed_tokens" and m.digest}
    heads = [m for m in members if m.place["role"] == "lm_head"]
    return {m.name: embeddings[m.digest] for m in heads if m.digest in embeddings}


def _region(held: Contents, region: Region, aliases: Mapping[str, str]) -> Iterator[Rows]:
    def stack(name: str) -> np.ndarray:
        return store.read(held.scan, region.folder, name, (region.layers, region.experts))

    model = held.model
    scanned = [m for m in region.members if m.status == "ok"]
    parts = sorted({m.place["part"] for m in scanned})
    statistics = {part: stack(f"statistics_{part}") for part in parts}
    yield _tensors(model, region, statistics, aliases)
    for part in parts:
        inside = [m for m in scanned if m.place["part"] == part]
        yield _distribution(model, region, inside, stack(f"distribution_{part}"))
    yield _matrices(model, [m for m in region.members if m.matrix])
    for side in ("out", "in"):
        inside = [m for m in scanned if m.matrix and (side == "out" or m.matrix["kind"] == "whole")]
        if inside:
            yield _channels(model, region, inside, side, (stack(f"channels_{side}"), stack(f"fingerprints_{side}")))
    inside = [m for m in region.members if m.has_spectra]
    if inside:
        yield from _spectra(model, region, inside, (stack("heads"), stack("heads_method")))


def _tensors(model: str, region: Region, statistics: Mapping[str, np.ndarray], aliases: Mapping[str, str]) -> Rows:
    members = region.members
    nothing = np.full(len(TENSOR_STATISTICS), np.nan)
    values = np.array([statistics[m.place["part"]][region.slot(m)] if m.status == "ok" else nothing for m in members])
    columns: dict[str, Any] = {
        "model": [model] * len(members),
        "tensor": [m.name for m in members],
        "file": [m.facts["tensor"]["file"] for m in members],
        "dtype": [m.facts["tensor"]["dtype"] for m in members],
        "shape": pa.array([m.facts["tensor"]["shape"] for m in members], pa.list_(pa.uint64())),
        "parameters": [int(np.prod(m.facts["tensor"]["shape"], dtype=object)) for m in members],
        "bytes": [m.facts["tensor"]["nbytes"] for m in members],
        "canonical_name": [m.facts["canonical_name"] for m in members],
        **_places(members),
        "part": [m.place["part"] for m in members],
        "alias_of": pa.array([aliases.get(m.name) for m in members], pa.string()),
        "status": [m.status for m in members],
        "reason": pa.array([m.reason for m in members], pa.string()),
        **{name: _numbers(values[:, i], name) for i, name in enumerate(TENSOR_STATISTICS)},
        "quantiles_exact": pa.array(
            [is_exact(m.facts["tensor"]["dtype"]) if m.status == "ok" else None for m in members], pa.bool_()
        ),
    }
    return "tensors", pa.table(columns)


def _distribution(model: str, region: Region, members: Sequence[Member], stack: np.ndarray) -> Rows:
    pieces = []
    for m in members:
        counts = stack[region.slot(m)]
        bins = np.flatnonzero(counts)
        lo, hi = bin_edges(m.facts["tensor"]["dtype"], bins)
        finite = np.isfinite(lo)
        pieces.append((m.name, bins[finite], lo[finite], hi[finite], counts[bins][finite]))
    lengths = [len(piece[1]) for piece in pieces]
    return "distribution", pa.table({
        "model": _repeat([model], [sum(lengths)]),
        "tensor": _repeat([piece[0] for piece in pieces], lengths),
        "bin": np.concatenate([piece[1] for piece in pieces]).astype(np.int32),
        "lo": np.concatenate([piece[2] for piece in pieces]),
        "hi": np.concatenate([piece[3] for piece in pieces]),
        "count": np.concatenate([piece[4] for piece in pieces]).astype(np.int64),
    })  # fmt: skip


def _matrices(model: str, members: Sequence[Member]) -> Rows:
    matrices = [m.matrix or {} for m in members]
    heads = [matrix["heads"] or {"count": None, "queries": None} for matrix in matrices]
    return "matrices", pa.table({
        "model": _repeat([model], [len(members)]),
        "matrix": pa.array([matrix["id"] for matrix in matrices], pa.string()),
        "kind": pa.array([matrix["kind"] for matrix in matrices], pa.string()),
        "tensor": pa.array([m.name for m in members], pa.string()),
        **_places(members),
        "rows": pa.array([matrix["rows"] for matrix in matrices], pa.int64()),
        "cols": pa.array([matrix["cols"] for matrix in matrices], pa.int64()),
        "heads": pa.array([h["count"] for h in heads], pa.int32()),
        "queries_per_head": pa.array([h["queries"] for h in heads], pa.int32()),
    })  # fmt: skip


def _channels(
    model: str, region: Region, members: Sequence[Member], side: str, stacks: tuple[np.ndarray, np.ndarray]
) -> Rows:
    values, fingerprints = stacks
    lengths = [(m.matrix or {})["rows" if side == "out" else "cols"] for m in members]
    numbers = [np.arange(n, dtype=np.int32) for n in lengths]
    heads = [_heads_of_channels(m, side, channel) for m, channel in zip(members, numbers, strict=True)]
    pieces = [values[region.slot(m)][:, :n] for m, n in zip(members, lengths, strict=True)]
    prints = [fingerprints[region.slot(m)][:n] for m, n in zip(members, lengths, strict=True)]
    stacked = np.concatenate(pieces, axis=1)
    return "channels", pa.table({
        "model": _repeat([model], [sum(lengths)]),
        "matrix": _repeat([(m.matrix or {})["id"] for m in members], lengths),
        "axis": _repeat([side], [sum(lengths)]),
        "channel": np.concatenate(numbers),
        "layer": _repeat([m.place["layer"] for m in members], lengths, pa.int32()),
        "role": _repeat([m.place["role"] for m in members], lengths),
        "head": pa.concat_arrays(heads),
        **{name: _numbers(stacked[i], name) for i, name in enumerate(CHANNEL_STATISTICS)},
        "fingerprint": np.concatenate(prints),
    })  # fmt: skip


def _heads_of_channels(member: Member, side: str, channel: np.ndarray) -> pa.Array:
    heads = (member.matrix or {})["heads"]
    if heads and heads["axis"] == side:
        return pa.array(channel // heads["dim"], pa.int32())
    return pa.nulls(len(channel), pa.int32())


def _spectra(
    model: str, region: Region, members: Sequence[Member], stacks: tuple[np.ndarray, np.ndarray]
) -> Iterator[Rows]:
    sigma, methods = stacks
    heads = [head for m in members for head in _heads_of(m, sigma[region.slot(m)[0]], methods[region.slot(m)[0]])]
    lengths = [len(h["sigma"]) for h in heads]
    shared = ("layer", "role", "head")
    types = {"layer": pa.int32(), "role": pa.string(), "head": pa.int32()}
    yield "spectra", pa.table({
        "model": _repeat([model], [len(heads)]),
        **{name: pa.array([h[name] for h in heads], types.get(name)) for name in heads[0] if name != "sigma"},
    })  # fmt: skip
    yield "singular_values", pa.table({
        "model": _repeat([model], [sum(lengths)]),
        "spectrum": _repeat([h["spectrum"] for h in heads], lengths),
        "i": np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in lengths]),
        **{name: _repeat([h[name] for h in heads], lengths, types[name]) for name in shared},
        "sigma": np.concatenate([h["sigma"] for h in heads]),
    })  # fmt: skip


def _heads_of(member: Member, sigma: np.ndarray, methods: np.ndarray) -> Iterator[dict[str, Any]]:
    """The row of `spectra` of every head of a matrix, with its singular values under `sigma`."""
    matrix = member.matrix or {}
    heads = matrix["heads"]
    rows, cols = (heads["dim"], matrix["cols"]) if heads["axis"] == "out" else (matrix["rows"], heads["dim"])
    for head in range(heads["count"]):
        method = METHODS[methods[head]]
        values = sigma[head, : min(rows, cols)] if method != "none" else np.empty(0)
        floor = spectrum_floor(method, float(values.max(initial=0.0)), rows, cols)
        yield {
            "spectrum": f"{matrix['id']}@{head}",
            "matrix": matrix["id"],
            "layer": member.place["layer"],
            "role": member.place["role"],
            "head": head,
            "rows": rows,
            "cols": cols,
            "rank": min(rows, cols),
            "sigma_max": float(values[0]) if values.size else None,
            "sigma_min": float(values[-1]) if values.size else None,
            "frobenius": float(np.sqrt(np.sum(values**2))) if values.size else None,
            "floor": floor if values.size else None,
            "below_floor": int((values < floor).sum()) if values.size else None,
            "method": method,
            "reason": None if values.size else "NaN or infinite values in this head",
            "sigma": values,
        }


def _model(held: Contents, members: Sequence[Member]) -> Rows:
    facts = held.facts
    config = facts["config"] or {}
    tied = config.get("tie_word_embeddings")
    return "models", pa.table({
        "model": [held.model],
        "source": [facts["source"]],
        "format": [facts["format"]],
        "architecture": pa.array([_first(config.get("architectures"))], pa.string()),
        "family": pa.array([facts["family"]], pa.string()),
        "parameters": [sum(int(np.prod(m.facts["tensor"]["shape"], dtype=object)) for m in members)],
        "bytes": [sum(m.facts["tensor"]["nbytes"] for m in members)],
        **{name: pa.array([facts["sizes"][name]], pa.int32()) for name in SIZES},
        "tied_embeddings": pa.array([tied if isinstance(tied, bool) else None], pa.bool_()),
        "config": pa.array([json.dumps(config) if facts["config"] is not None else None], pa.string()),
        "identity": [held.identity],
        "scan": [held.scan.id],
        "commits": pa.array([len(held.done)], pa.int32()),
    })  # fmt: skip


def _first(values: Any) -> str | None:
    return str(values[0]) if isinstance(values, list) and values else None


def _files(model: str, facts: Mapping[str, Any]) -> Rows:
    files = facts["files"]
    return "files", pa.table({
        "model": [model] * len(files),
        "file": [f["name"] for f in files],
        "bytes": [f["nbytes"] for f in files],
        "header_bytes": [f["header_nbytes"] for f in files],
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


def _places(members: Sequence[Member]) -> dict[str, pa.Array]:
    types = {"component": pa.string(), "layer": pa.int32(), "role": pa.string(), "expert": pa.int32()}
    return {name: pa.array([m.place[name] for m in members], kind) for name, kind in types.items()}


def _repeat(values: Sequence[Any], lengths: Sequence[int], kind: pa.DataType | None = None) -> pa.Array:
    """Each value as often as its length says, as one flat array."""
    indices = np.repeat(np.arange(len(values), dtype=np.int32), lengths)
    return pa.array(values, kind or pa.string()).take(pa.array(indices))


def _numbers(values: np.ndarray, name: str) -> pa.Array:
    """float64 statistics, NaN as NULL; counts as integers."""
    return pa.array(values, pa.float64(), from_pandas=True).cast(pa.int64() if name in COUNTS else pa.float64())
