"""CATALOG, its rows, all of one scan: which arrays of the store become which tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from shardscan import commits, store
from shardscan.contents import Circuits, Contents, Member, Region, circuits, members, regions
from shardscan.plan import FULL, HEADS
from shardscan.reduce.distribution import bin_edges, is_exact
from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.result import TENSOR_STATISTICS
from shardscan.rows import spectra
from shardscan.rows.columns import Rows, numbers, repeat

CIRCUIT_ARRAYS = ("circuits", "circuits_facts")
RUN_FACTS = ("options", "host", "versions")
SIZES = {"layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocab_size"}


def of_scan(held: Contents) -> Iterator[Rows]:
    """Every row of one model, table by table in no promised order; a table may come in several pieces."""
    groups = members(held)
    everyone = [member for found in groups.values() for member in found]
    aliases = _aliases(everyone)
    for folder, found in groups.items():
        for region in regions(folder, found):
            yield from _region(held, region, aliases)
    for some in circuits(held):
        sigma, facts = (store.read(held.scan, some.folder, name, (some.layers, slice(None))) for name in CIRCUIT_ARRAYS)
        yield _matrices_of_circuits(held.model, some)
        yield from spectra.tables(held.model, list(spectra.of_circuits(some, sigma, facts)))
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
    for product, name in ((HEADS, "heads"), (FULL, "full")):
        inside = [m for m in region.members if product in m.spectra or product in m.failures]
        if inside:
            sigma, facts = stack(name), stack(f"{name}_facts")
            slots = [region.slot(m) if product == FULL else region.slot(m)[:1] for m in inside]
            found = [spectra.of_member(m, product, sigma[at], facts[at]) for m, at in zip(inside, slots, strict=True)]
            yield from spectra.tables(model, list(chain.from_iterable(found)))


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
        **{name: numbers(values[:, i], name) for i, name in enumerate(TENSOR_STATISTICS)},
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
        "model": repeat([model], [sum(lengths)]),
        "tensor": repeat([piece[0] for piece in pieces], lengths),
        "bin": np.concatenate([piece[1] for piece in pieces]).astype(np.int32),
        "lo": np.concatenate([piece[2] for piece in pieces]),
        "hi": np.concatenate([piece[3] for piece in pieces]),
        "count": np.concatenate([piece[4] for piece in pieces]).astype(np.int64),
    })  # fmt: skip


def _matrices(model: str, members: Sequence[Member]) -> Rows:
    matrices = [m.matrix or {} for m in members]
    heads = [matrix["heads"] or {"count": None, "queries": None} for matrix in matrices]
    return "matrices", pa.table({
        "model": repeat([model], [len(members)]),
        "matrix": pa.array([matrix["id"] for matrix in matrices], pa.string()),
        "kind": pa.array([matrix["kind"] for matrix in matrices], pa.string()),
        "tensor": pa.array([m.name for m in members], pa.string()),
        **_places(members),
        "rows": pa.array([matrix["rows"] for matrix in matrices], pa.int64()),
        "cols": pa.array([matrix["cols"] for matrix in matrices], pa.int64()),
        "heads": pa.array([h["count"] for h in heads], pa.int32()),
        "queries_per_head": pa.array([h["queries"] for h in heads], pa.int32()),
    })  # fmt: skip


def _matrices_of_circuits(model: str, some: Circuits) -> Rows:
    every = [(facts, head) for facts in some.facts.values() for head in range(facts["heads"])]
    n = len(every)
    return "matrices", pa.table({
        "model": repeat([model], [n]),
        "matrix": pa.array([f"{facts['id']}.{head}" for facts, head in every], pa.string()),
        "kind": repeat(["circuit"], [n]),
        "component": repeat([some.component], [n]),
        "layer": pa.array([facts["layer"] for facts, _ in every], pa.int32()),
        "role": repeat([some.kind], [n]),
        "rows": pa.array([facts["rows"] for facts, _ in every], pa.int64()),
        "cols": pa.array([facts["cols"] for facts, _ in every], pa.int64()),
    })  # fmt: skip


def _channels(
    model: str, region: Region, members: Sequence[Member], side: str, stacks: tuple[np.ndarray, np.ndarray]
) -> Rows:
    values, fingerprints = stacks
    lengths = [(m.matrix or {})["rows" if side == "out" else "cols"] for m in members]
    indices = [np.arange(n, dtype=np.int32) for n in lengths]
    heads = [_heads_of_channels(m, side, channel) for m, channel in zip(members, indices, strict=True)]
    pieces = [values[region.slot(m)][:, :n] for m, n in zip(members, lengths, strict=True)]
    prints = [fingerprints[region.slot(m)][:n] for m, n in zip(members, lengths, strict=True)]
    stacked = np.concatenate(pieces, axis=1)
    return "channels", pa.table({
        "model": repeat([model], [sum(lengths)]),
        "matrix": repeat([(m.matrix or {})["id"] for m in members], lengths),
        "axis": repeat([side], [sum(lengths)]),
        "channel": np.concatenate(indices),
        "layer": repeat([m.place["layer"] for m in members], lengths, pa.int32()),
        "role": repeat([m.place["role"] for m in members], lengths),
        "head": pa.concat_arrays(heads),
        **{name: numbers(stacked[i], name) for i, name in enumerate(CHANNEL_STATISTICS)},
        "fingerprint": np.concatenate(prints),
    })  # fmt: skip


def _heads_of_channels(member: Member, side: str, channel: np.ndarray) -> pa.Array:
    heads = (member.matrix or {})["heads"]
    if heads and heads["axis"] == side:
        return pa.array(channel // heads["dim"], pa.int32())
    return pa.nulls(len(channel), pa.int32())


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
