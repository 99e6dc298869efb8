"""CATALOG, its rows of one scan: what the checkpoint is, and what every product has left of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cache
from pkgutil import resolve_name
from typing import Any

import pyarrow as pa

from shardscan.catalog.rows.columns import Rows
from shardscan.catalog.scans import Contents
from shardscan.plan import products
from shardscan.store.records import Run, StoredShard

RUN_FACTS = ("options", "host", "versions")
SIZES = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "vocab_size", "experts")
DESCRIBED = {
    "source": pa.string(), "architecture": pa.string(), "family": pa.string(), "tied_embeddings": pa.bool_(),
    "config": pa.string(),
}  # fmt: skip


def scan_rows(scanned: Contents) -> Iterator[Rows]:
    """Every row of one model, table by table in no promised order; a table may come in several pieces."""
    for product in products.every():
        yield from _resolve_rows(product.rows)(scanned)
    yield _model(scanned)
    yield _files(scanned.model, scanned.facts.files)
    yield _runs(scanned.model, scanned.runs)


@cache
def _resolve_rows(place: str) -> Callable[[Contents], Iterator[Rows]]:
    rows: Callable[[Contents], Iterator[Rows]] = resolve_name(place)
    return rows


def _model(scanned: Contents) -> Rows:
    facts = scanned.facts
    tensors = [tensor for group in scanned.groups.values() for tensor in group.tensors]
    return "models", pa.table({
        "model": [scanned.model],
        **{name: pa.array([value], DESCRIBED[name]) for name, value in describe_checkpoint(scanned).items()},
        "format": [facts.format],
        "parameters": [sum(t.counted for t in tensors if t.tensor.shared_with is None)],
        "bytes": [sum(file.used_nbytes for file in facts.files)],
        **{name: pa.array([facts.sizes[name]], pa.int32()) for name in SIZES},
        "channels": [scanned.kept],
        "identity": [scanned.identity],
        "scan": [scanned.scan.id],
        "commits": pa.array([len(scanned.done)], pa.int32()),
        "state": [scanned.state],
    })  # fmt: skip


def describe_checkpoint(scanned: Contents) -> dict[str, Any]:
    """What a checkpoint says of itself, by the columns of its row: a scan need not be done again for any of it."""
    facts = scanned.facts
    config = facts.config or {}
    tied = config.get("tie_word_embeddings")
    return {
        "source": facts.source,
        "architecture": _first(config.get("architectures")),
        "family": facts.family,
        "tied_embeddings": tied if isinstance(tied, bool) else None,
        "config": None if facts.config is None else json.dumps(facts.config),
    }


def _first(values: Any) -> str | None:
    return str(values[0]) if isinstance(values, list) and values else None


def _files(model: str, files: Sequence[StoredShard]) -> Rows:
    return "files", pa.table({
        "model": [model] * len(files),
        "file": [file.name for file in files],
        "bytes": [file.nbytes for file in files],
        "header_bytes": [file.header_nbytes for file in files],
        "used_bytes": [file.used_nbytes for file in files],
        "unused_bytes": [file.data_nbytes - file.used_nbytes for file in files],
        "tensors": pa.array([file.tensors for file in files], pa.int32()),
    })  # fmt: skip


def _runs(model: str, runs: Sequence[Run]) -> Rows:
    return "runs", pa.table({
        "model": pa.array([model] * len(runs), pa.string()),
        "run": pa.array(range(1, len(runs) + 1), pa.int32()),
        "started": pa.array([datetime.fromisoformat(run.started) for run in runs], pa.timestamp("us")),
        "seconds": pa.array([run.seconds for run in runs], pa.float64()),
        "tasks": pa.array([run.tasks for run in runs], pa.int32()),
        "bytes_read": pa.array([run.bytes_read for run in runs], pa.int64()),
        "peak_memory": pa.array([run.peak_memory for run in runs], pa.int64()),
        **{name: pa.array([json.dumps(getattr(run, name)) for run in runs], pa.string()) for name in RUN_FACTS},
    })  # fmt: skip
