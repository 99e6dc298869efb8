"""Models that are headers alone, for what is asked of names and shapes only: of any size, in no time.

Their shards are holes that nobody reads; a scan that is begun and not carried out has a row for every tensor and
matrix, whose status is pending. For very many models there are tables that were made from their places alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from made import catalogs
from made.pruning import Sizes
from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Anatomy, Placed
from shardscan.catalog import build as catalog
from shardscan.jobs.scan.options import ScanOptions
from shardscan.jobs.scan.prepare import prepare
from shardscan.store import resume

LLAMA3_8B = Sizes(hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=14336, vocab=128256)
LLAMA3_8B_PRUNED = Sizes(hidden=4096, heads=24, kv_heads=6, head_dim=128, intermediate=10752, vocab=128256)
TOUCHED = range(3, 30)


def write(folder: Path, shapes: Iterable[tuple[str, tuple[int, ...]]], config: dict[str, Any] | None) -> Path:
    """One shard of bfloat16 tensors, as large as its header says and almost nothing on the disk."""
    header, end = {}, 0
    for name, shape in shapes:
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def llama3_8b(folder: Path, *, pruned: bool = False) -> Path:
    """Llama-3-8B, or what LLM-Pruner makes of it at 25 %: 6 of 8 KV groups and 10752 of 14336 channels in layers 3–29.

    The config is the original's in both.
    """
    shapes = list(LLAMA3_8B.outside())
    for layer in range(32):
        of = LLAMA3_8B_PRUNED if pruned and layer in TOUCHED else LLAMA3_8B
        shapes += [*of.attention(layer), *of.mlp(layer)]
    return write(folder, shapes, LLAMA3_8B.config(32))


def scanned(store: Path, folders: Iterable[Path]) -> Path:
    """A store with scans of these checkpoints that were begun and not carried out, and their catalog."""
    for folder in folders:
        prepared = prepare(folder, ScanOptions(spectra="none"))
        resume.begin_or_continue_scan(
            prepared.checkpoint, prepared.anatomy, prepared.plan, store, replace=False, max_bytes=None
        )
    catalog.build(store)
    return store


# ---- many architectures as the components of one model, in tables made from their places alone


def insert(connection: duckdb.DuckDBPyConnection, model: str, known: Mapping[str, Anatomy]) -> None:
    """Rows in models, tensors and matrices of one model, whose components are those of all `known` ones."""
    tensors: list[dict[str, Any]] = []
    matrices: list[dict[str, Any]] = []
    for name, anatomy in known.items():
        for p in anatomy.placed:
            where = {"model": model, "tensor": f"{name}/{p.tensor.name}", "layer": p.place.layer}
            where["component"] = f"{name}_{p.place.component}"
            tensors.append({**where, **_facts(p), "canonical_name": f"{name}/{p.canonical_name}"})
            matrices += [{**where, **_facts_of(m), "matrix": f"{name}/{m.id}"} for m in p.matrices]
    empty = dict.fromkeys(("source", "format", "channels", "identity", "scan", "state"), "")
    numbers = {"parameters": sum(row["parameters"] for row in tensors), "bytes": 0, "commits": 0}
    catalogs.insert(connection, "models", [{"model": model, **empty, **numbers}])
    catalogs.insert(connection, "tensors", tensors)
    catalogs.insert(connection, "matrices", matrices)


def _facts(p: Placed) -> dict[str, Any]:
    shape = {"shape": list(p.tensor.shape), "parameters": p.tensor.parameters, "dtype": p.tensor.dtype}
    unknown = {"file": "model.safetensors", "bytes": 0, "status": "pending"}
    return {**shape, **unknown, "role": p.place.role, "expert": p.place.expert, "part": p.place.part}


def _facts_of(m: Matrix) -> dict[str, Any]:
    heads, queries = (m.heads.count, m.heads.queries) if m.heads else (None, None)
    facts = {"kind": m.kind, "role": m.role, "expert": m.expert, "rows": m.rows, "cols": m.cols}
    return {**facts, "heads": heads, "queries_per_head": queries}


QKV, MLP = {"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}
Layer = tuple[str, int | None]


def halved(anatomy: Anatomy) -> dict[str, tuple[int, ...]]:
    """The shapes of a model that lost half of its MLP channels and of its KV groups, as a sane tool prunes it.

    Layers keep their attention where heads cannot be halved.
    """
    layers: dict[Layer, dict[str, Matrix]] = {}
    for p in anatomy.placed:
        for m in p.matrices:
            if m.role in QKV | {"o_proj"} and m.heads:
                layers.setdefault((p.place.component, p.place.layer), {})[m.role] = m
    even = {
        layer: found
        for layer, found in layers.items()
        if len(found) == 4 and all(m.heads and m.heads.count % 2 == 0 for m in found.values())
    }
    return {p.tensor.name: _half(p, even.get((p.place.component, p.place.layer))) for p in anatomy.placed}


def _half(p: Placed, attention: Mapping[str, Matrix] | None) -> tuple[int, ...]:
    """The shape of one tensor then; without `attention`, that of its layer stays as it is."""
    shape, roles = list(p.tensor.shape), {m.role for m in p.matrices} or {p.place.role}
    outputs, inputs = (MLP | QKV | {"output_gate"}, {"down_proj", "o_proj"}) if attention else (MLP, {"down_proj"})
    if not p.matrices:
        outputs = outputs | {"gate_up_proj"} | ({"qkv_proj"} if attention else set())
    axis = None
    if attention and p.place.role in ("q_norm", "k_norm"):
        across_heads = p.tensor.parameters == attention[f"{p.place.role[0]}_proj"].rows
        axis = 0 if across_heads else None
    elif roles <= outputs:
        axis = -1 if not p.matrices or p.matrices[0].turned else -2
    elif roles <= inputs and p.matrices:
        axis = -2 if p.matrices[0].turned else -1
    if axis is not None:
        shape[axis] //= 2
    return tuple(shape)
