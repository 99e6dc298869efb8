"""A small catalog made with NumPy: two models whose tensors, and therefore whose answers, are known.

`alpha` has three layers of float16 with four query heads and two KV heads, and their circuits; `beta` has one layer of
bfloat16 and a float32 tensor whose distribution is ranges. Planted in alpha: input channel 5 of every q_proj is an
outlier, row 2 of layer 0's k_proj is dead, head 1 of layer 0's q_proj has rank 1, head 0 of layer 1's v_proj is zero,
layer 1's down_proj is 8 times its neighbours, final_norm is constant, one NaN and two infinities sit in embed_tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from oracles.reference import spectrum_fits
from shardscan.catalog import sqlfiles

HIDDEN, HEADS, KV_HEADS, DIM, WIDTH, VOCAB = 48, 4, 2, 12, 30, 50
Array = np.ndarray[Any, Any]
CIRCUIT = {"kind": "circuit"} | dict.fromkeys(("tensor", "zeros", "violations_2_4", "violations_4_8"))


@dataclass(frozen=True)
class Catalog:
    path: Path
    tensors: dict[tuple[str, str], Array]
    sigmas: dict[tuple[str, str], Array] = field(default_factory=dict)


def build(folder: Path) -> Catalog:
    """`folder/catalog.duckdb`, with the finite float64 values behind every tensor and every spectrum."""
    path = folder / "catalog.duckdb"
    catalog = Catalog(
        path, {("alpha", n): v for n, v in _alpha().items()} | {("beta", n): v for n, v in _beta().items()}
    )
    with duckdb.connect(str(path)) as connection:
        for script in sqlfiles.schema():
            connection.execute(script)
        insert(connection, "models", [_model(model, catalog) for model in ("alpha", "beta")])
        insert(connection, "files", [_file("alpha", 9000), _file("beta", 4000)])
        insert(connection, "tensors", [tensor_row(*key, values) for key, values in catalog.tensors.items()])
        insert(connection, "tensors", [_unplaced()])
        for (model, name), values in catalog.tensors.items():
            insert(connection, "distribution", _distribution(model, name, values))
            if values.ndim == 2:
                insert(connection, "matrices", [_matrix(model, name, values)])
                insert(connection, "channels", _channels(model, name, values))
                for spectrum, head, block in _blocks(name, values):
                    catalog.sigmas[model, spectrum] = _singular_values(block)
                    _insert_spectrum(connection, model, name, spectrum, head, block, catalog.sigmas[model, spectrum])
        for name, head, product in _circuits(catalog):
            insert(connection, "matrices", [_matrix("alpha", name, product) | CIRCUIT])
            catalog.sigmas["alpha", name] = _singular_values(product)[:DIM]
            _insert_spectrum(connection, "alpha", name, name, head, product, catalog.sigmas["alpha", name])
        insert(connection, "tensor_diffs", list(_compared(catalog)))
        for script in sqlfiles.views().values():
            connection.execute(script)
    return catalog


def _compared(catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Every tensor of beta against the one of this name in alpha."""
    for (model, name), b in catalog.tensors.items():
        if model == "beta":
            a = catalog.tensors["alpha", name]
            norms = {"norm_a": a, "norm_b": b, "norm_change": a - b}
            layer, role = place(name)
            yield {
                **{"model_a": "alpha", "model_b": "beta", "weight_a": name, "weight_b": name, "component": "text"},
                **{"layer": layer, "role": role, "part": "weight", "status": "ok", "values": b.size, "added": 0},
                **{"changed": int(np.sum(a != b)), "newly_zero": int(np.sum((a != 0) & (b == 0)))},
                **{key: float(np.linalg.norm(values)) for key, values in norms.items()},
                "relative_change": float(np.linalg.norm(a - b) / np.linalg.norm(a)),
                "cosine": float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b))),
                "max_change": float(np.abs(a - b).max()),
            }


def _alpha() -> dict[str, Array]:
    rng = np.random.default_rng(7)
    tensors = {"embed.weight": rng.normal(0, 0.05, (VOCAB, HIDDEN))}
    for layer in range(3):
        q, k, v = (rng.normal(0, 0.02, (heads * DIM, HIDDEN)) for heads in (HEADS, KV_HEADS, KV_HEADS))
        q[:, 5] *= 12
        tensors |= {f"{layer}.q_proj.weight": q, f"{layer}.k_proj.weight": k, f"{layer}.v_proj.weight": v}
        tensors[f"{layer}.o_proj.weight"] = rng.normal(0, 0.02, (HIDDEN, HEADS * DIM))
        tensors[f"{layer}.down_proj.weight"] = rng.normal(0, 0.02 * (8 if layer == 1 else 1), (HIDDEN, WIDTH))
    tensors["0.q_proj.weight"][DIM : 2 * DIM] = 0.25 * np.eye(1, HIDDEN, 9)
    tensors["0.k_proj.weight"][2] = 0
    tensors["1.v_proj.weight"][:DIM] = 0
    tensors["final_norm.weight"] = np.ones(HIDDEN)
    tensors["lonely.weight"] = rng.normal(0, 1, (1, 7))
    values = {name: tensor.astype(np.float16).astype(np.float64) for name, tensor in tensors.items()}
    values["embed.weight"].flat[:3] = np.nan, np.inf, -np.inf
    return values


def _beta() -> dict[str, Array]:
    rng = np.random.default_rng(8)
    q = rng.normal(0, 0.02, (HEADS * DIM, HIDDEN)).astype(np.float32)
    return {
        "0.q_proj.weight": (q.view(np.uint32) & 0xFFFF0000).view(np.float32).astype(np.float64),
        "0.down_proj.weight": rng.normal(0, 0.02, (HIDDEN, WIDTH)).astype(np.float32).astype(np.float64),
    }


def place(name: str) -> tuple[int | None, str]:
    """(layer, role) of a tensor of this catalog."""
    parts = name.removeprefix("circuit:text.").split(".")
    roles = {"embed": "embed_tokens", "lonely": "router"}
    return (int(parts[0]), parts[1]) if parts[0].isdigit() else (None, roles.get(parts[0], parts[0]))


def is_range(model: str, name: str) -> bool:
    """Whether the tensor is the float32 one, whose distribution is ranges."""
    return (model, name) == ("beta", "0.down_proj.weight")


def _dtype(model: str, name: str) -> str:
    return "F16" if model == "alpha" else "F32" if is_range(model, name) else "BF16"


def _heads(name: str) -> int | None:
    return {"q_proj": HEADS, "o_proj": HEADS, "k_proj": KV_HEADS, "v_proj": KV_HEADS}.get(place(name)[1])


def _model(model: str, catalog: Catalog) -> dict[str, Any]:
    sizes = [v.size for (owner, _), v in catalog.tensors.items() if owner == model]
    extra = 8 if model == "alpha" else 0
    return {
        "model": model,
        "scan": model,
        "commits": 1,
        "state": "1",
        "source": f"/models/{model}",
        "format": "safetensors",
        "architecture": "LlamaForCausalLM",
        "family": "llama",
        "parameters": sum(sizes) + extra,
        "bytes": 2 * sum(sizes) + extra,
        "layers": 3,
        "hidden_size": HIDDEN,
        "heads": HEADS,
        "kv_heads": KV_HEADS,
        "head_dim": DIM,
        "vocab_size": VOCAB,
        "tied_embeddings": True,
        "config": "{}",
        "channels": "all",
        "identity": model,
    }


def _file(model: str, size: int) -> dict[str, Any]:
    return {
        "model": model,
        "file": "model.safetensors",
        "bytes": size,
        "header_bytes": 800,
        "used_bytes": size - 800,
        "unused_bytes": 0,
        "tensors": 1,
    }


def tensor_row(model: str, name: str, values: Array) -> dict[str, Any]:
    """The row of `tensors` for these values, its statistics by NumPy over the finite ones."""
    layer, role = place(name)
    finite = values[np.isfinite(values)]
    size = np.abs(finite)
    center = finite - finite.mean()
    std = finite.std() if np.ptp(finite) else 0.0
    return {
        "model": model,
        "tensor": name,
        "file": "model.safetensors",
        "dtype": _dtype(model, name),
        "shape": list(values.shape),
        "parameters": values.size,
        "bytes": values.size * (4 if is_range(model, name) else 2),
        "canonical_name": name,
        "component": "text",
        "layer": layer,
        "role": role,
        "part": "weight",
        "status": "ok",
        "mean": finite.mean(),
        "std": std,
        "min": finite.min(),
        "max": finite.max(),
        "absmax": size.max(),
        "absmin": size[size > 0].min(),
        "mean_abs": size.mean(),
        "rms": np.sqrt(np.mean(finite**2)),
        "kurtosis": np.mean(center**4) / std**4 if std else None,
        "zeros": int((finite == 0).sum()),
        "near_zeros": int((size <= 1e-8).sum()),
        "nans": int(np.isnan(values).sum()),
        "infs": int(np.isinf(values).sum()),
        "p99_abs": np.quantile(size, 0.99, method="inverted_cdf"),
        "p999_abs": np.quantile(size, 0.999, method="inverted_cdf"),
        "quantiles_exact": not is_range(model, name),
    }


def _unplaced() -> dict[str, Any]:
    return {
        "model": "alpha",
        "tensor": "mystery.codes",
        "file": "model.safetensors",
        "dtype": "U8",
        "shape": [8],
        "parameters": 8,
        "bytes": 8,
        "canonical_name": "mystery.codes",
        "component": "text",
        "role": "other",
        "part": "weight",
        "status": "codes",
        "reason": "quantised codes",
    }


def _matrix(model: str, name: str, values: Array) -> dict[str, Any]:
    layer, role = place(name)
    return {
        "model": model,
        "matrix": name,
        "kind": "whole",
        "tensor": name,
        "component": "text",
        "layer": layer,
        "role": role,
        "rows": values.shape[0],
        "cols": values.shape[1],
        "heads": _heads(name),
        "queries_per_head": HEADS // KV_HEADS if role in ("k_proj", "v_proj") else 1,
        "zeros": int((values == 0).sum()),
        **{name: each and sum(each) for name, each in violations(values).items()},
    }


def violations(values: Array) -> dict[str, list[int] | None]:
    """Of each row, the groups of which more than half is not zero, by column; None where groups do not fit."""
    found: dict[str, list[int] | None] = {}
    for length in (4, 8):
        fits = values.shape[1] % length == 0
        groups = (values != 0).reshape(len(values), -1, length).sum(2) if fits else None
        found[f"violations_{length // 2}_{length}"] = None if groups is None else (groups > length // 2).sum(1).tolist()
    return found


def _channels(model: str, name: str, values: Array) -> list[dict[str, Any]]:
    layer, role = place(name)
    rows = []
    for axis, lines in (("out", values), ("in", values.T)):
        groups = violations(values) if axis == "out" else dict.fromkeys(violations(values))
        for channel, line in enumerate(lines):
            x = line[np.isfinite(line)]
            rows.append(
                {
                    "model": model,
                    "matrix": name,
                    "axis": axis,
                    "channel": channel,
                    "layer": layer,
                    "role": role,
                    "mean": x.mean(),
                    "std": x.std(),
                    "min": x.min(),
                    "max": x.max(),
                    "mean_abs": np.abs(x).mean(),
                    "absmax": np.abs(x).max(),
                    "rms": np.sqrt(np.mean(x**2)),
                    "zeros": int((x == 0).sum()),
                    **{name: each and each[channel] for name, each in groups.items()},
                }
            )
    return rows


def _blocks(name: str, values: Array) -> list[tuple[str, int | None, Array]]:
    heads = _heads(name)
    if heads is None:
        return [(name, None, values)]
    rows = values.T if place(name)[1] == "o_proj" else values
    return [(f"{name}@{h}", h, rows[h * DIM : (h + 1) * DIM]) for h in range(heads)]


def _circuits(catalog: Catalog) -> Iterator[tuple[str, int, Array]]:
    """Id, query head and (hidden, hidden) product of every circuit of alpha."""
    for layer in range(3):
        q, k, v, o = (catalog.tensors["alpha", f"{layer}.{role}_proj.weight"] for role in "qkvo")
        for head in range(HEADS):
            own, shared = (slice(h * DIM, (h + 1) * DIM) for h in (head, head // (HEADS // KV_HEADS)))
            yield f"circuit:text.{layer}.ov.{head}", head, o[:, own] @ v[shared]
            yield f"circuit:text.{layer}.qk.{head}", head, q[own].T @ k[shared]


def _singular_values(block: Array) -> Array:
    sigma: Array = np.linalg.svd(np.where(np.isfinite(block), block, 0), compute_uv=False)
    return np.asarray(sigma * (sigma > 1e-12 * max(sigma[0], 1e-300)))


def _insert_spectrum(
    connection: duckdb.DuckDBPyConnection,
    model: str,
    name: str,
    spectrum: str,
    head: int | None,
    block: Array,
    sigma: Array,
) -> None:
    layer, role = place(name)
    key = {"model": model, "spectrum": spectrum, "layer": layer, "role": role, "head": head}
    shape = {"rows": block.shape[0], "cols": block.shape[1], "rank": len(sigma)}
    ends = {"sigma_max": sigma[0], "sigma_min": sigma[-1], "frobenius": np.sqrt(np.sum(sigma**2))}
    # one whole matrix as a Gram leaves it: its smallest values are noise
    below = 3 if spectrum == "2.down_proj.weight" else 0
    method = {"floor": 1e-5 * sigma[0], "below_floor": below, "method": "gram"}
    insert(connection, "spectra", [key | {"matrix": name} | shape | ends | method])
    fits = spectrum_fits(sigma.tolist(), 1e-5 * sigma[0], *block.shape)
    of_one_matrix = ("mp_", "snr") if name.startswith("circuit:") else ()
    values = {k: None if np.isnan(v) or k.startswith(of_one_matrix) else v for k, v in fits.items()}
    insert(connection, "spectrum_fits", [key | {"matrix": name} | values])
    insert(connection, "singular_values", [key | {"i": i, "sigma": s} for i, s in enumerate(sigma, 1)])


def _distribution(model: str, name: str, values: Array) -> list[dict[str, Any]]:
    finite = values[np.isfinite(values)]
    if model == "alpha":
        patterns = finite.astype(np.float16).view(np.uint16).astype(np.int64)
        edges = (patterns, patterns)
    else:
        patterns = (finite.astype(np.float32).view(np.uint32) >> 16).astype(np.int64)
        edges = (patterns << 16, (patterns << 16) + (0xFFFF if is_range(model, name) else 0))
    rows = []
    bins, first, counts = np.unique(patterns, return_index=True, return_counts=True)
    for bin, at, count in zip(bins, first, counts, strict=True):
        near, far = (_decode(edge[at], model) for edge in edges)
        rows.append(
            {
                "model": model,
                "tensor": name,
                "bin": int(bin),
                "lo": min(near, far),
                "hi": max(near, far),
                "count": int(count),
            }
        )
    return rows


def _decode(bits: Any, model: str) -> float:
    kind = (np.uint16, np.float16) if model == "alpha" else (np.uint32, np.float32)
    return float(np.array([bits]).astype(kind[0]).view(kind[1])[0])


def insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    """Append rows that all have the same keys, which are column names."""
    names = list(rows[0])
    loaded = pa.Table.from_pylist(
        [{k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in rows]
    )
    connection.register("loaded", loaded)
    connection.execute(f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(names)} FROM loaded")
    connection.unregister("loaded")
