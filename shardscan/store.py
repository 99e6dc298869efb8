"""STORE: a scan's arrays in Zarr; the only module that imports zarr.

    <store>/arrays.zarr/<scan>/<component>/<role>/   arrays stacked over layers, one chunk or shard file a layer

Writers of different tasks share no file, so tasks may finish in any order, thread or process; a task's commit is
written last and holds the hash of every file it vouches for. Every chunk ends in a crc32c. Names of models and tensors
are data: a scan's folder is a hash, a role's is a checked word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from shardscan import __version__, commits
from shardscan.anatomy import Anatomy
from shardscan.circuits import Circuit
from shardscan.commits import Scan
from shardscan.errors import StoreError
from shardscan.layout import LABELS, specs
from shardscan.plan import CIRCUITS, FULL, HEADS, STATS, CircuitTask, Group, Plan, Task, Unit
from shardscan.reduce.result import Result
from shardscan.shards.address import Checkpoint

LAYOUT = 2
CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec())
NO_NUMBER = -1  # in the coordinates of an axis that has no layer or expert


def create(scan: Scan, checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> None:
    """Make the arrays of a new scan, empty."""
    facts = _attributes(checkpoint, probe, anatomy, plan)
    zarr.open_group(scan.arrays.parent, mode="a", zarr_format=3)
    root = zarr.open_group(scan.arrays, mode="w", zarr_format=3, attributes={"shardscan": facts})
    for group in plan.groups:
        _create_group(root, group)


def scan_id(checkpoint: Checkpoint, probe: str, anatomy: Anatomy) -> str:
    """Name, contents, anatomy and layout: what must be equal for arrays to be continued."""
    placed = [[p.tensor.name, asdict(p.place), p.codes, p.matrix and asdict(p.matrix)] for p in anatomy.placed]
    facts = [checkpoint.name, probe, dict(anatomy.sizes), placed, LAYOUT]
    return xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())


def attributes(scan: Scan) -> Mapping[str, Any]:
    """What a scan knows of its checkpoint: model, source, format, probe, config, family, sizes, files, groups."""
    try:
        return _facts(zarr.open_group(scan.arrays, mode="r"))
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"the arrays in {scan.arrays} are gone or damaged: remove {scan.commits} and ingest their checkpoint again."
        ) from error


def current(store: Path) -> list[Scan]:
    """The scans that speak for their models, by model name: one that is still replacing another does not yet."""
    found = commits.begun(store)
    ids = {scan.id for scan in found}
    speaking = [scan for scan in found if not ids & set(commits.replaces(scan))]
    return sorted(speaking, key=lambda scan: str(attributes(scan)["model"]))


def write(scan: Scan, task: Task, results: Sequence[Result], options: Mapping[str, object]) -> dict[str, str]:
    """Write a finished task's arrays, then commit each of its products; why which tensors failed, by name.

    Commits record `options`, which change numbers: for last bits nothing is done again, for `exact` it is.
    """
    files: dict[str, dict[str, tuple[int, str]]] = {product: {} for product in task.products}
    for unit, result in zip(task.units, results, strict=True):
        for product, name, values in _slot_arrays(unit, result):
            if product in files and values is not None:
                files[product] |= _write_slot(scan, f"{task.folder}/{name}", unit.slot, values)
    verdicts = {u.placed.tensor.name: _verdict(u, r) for u, r in zip(task.units, results, strict=True)}
    for product in sorted(task.products):
        _commit(scan, task.name, product, verdicts, files[product], options)
    return {unit.placed.tensor.name: r.failure for unit, r in zip(task.units, results, strict=True) if r.failure}


def write_circuits(scan: Scan, task: CircuitTask, result: Result) -> dict[str, str]:
    """Likewise the circuits of a layer; why they failed, by their id."""
    spectra = result.circuits
    arrays = {"circuits": spectra.sigma, "circuits_facts": spectra.facts} if spectra else {}
    files: dict[str, tuple[int, str]] = {}
    for name, values in arrays.items():
        files |= _write_slot(scan, f"{task.folder}/{name}", task.slot, values)
    verdict = {"status": "failed" if result.failure else "ok", "reason": result.failure, "digest": None}
    _commit(scan, task.name, CIRCUITS, {task.circuit.id: verdict}, files, {})
    return {task.circuit.id: result.failure} if result.failure else {}


def channels(scan: Scan, folder: str, unit: Unit, side: str) -> np.ndarray:
    """The stored channel statistics (9, n) of one tensor, 'out' or 'in'; NaN where they are not there."""
    matrix, (layer, expert) = unit.placed.matrix, unit.slot
    assert matrix
    region = slice(layer, layer + 1), slice(expert, expert + 1)
    return read(scan, folder, f"channels_{side}", region)[0, 0, :, : matrix.rows if side == "out" else matrix.cols]


def groups(scan: Scan) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Folder and attributes of every group of a scan, in the order of the checkpoint's headers."""
    for folder in attributes(scan)["groups"]:
        yield folder, _facts(zarr.open_group(scan.arrays / folder, mode="r"))


def read(scan: Scan, folder: str, name: str, region: tuple[slice, slice] | None = None) -> np.ndarray:
    """One stacked array, whole or a region of its layers and experts; see `layout.specs` for its axes."""
    array = zarr.open_array(scan.arrays / folder / name, mode="r")
    # heads have no axis for experts
    values = array[...] if region is None else array[region if "expert" in _dims(array) else region[:1]]
    assert isinstance(values, np.ndarray)
    return values


def _attributes(checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> dict[str, Any]:
    config = checkpoint.config
    return {
        "layout": LAYOUT,
        "model": checkpoint.name,
        "source": checkpoint.path,
        "format": checkpoint.format,
        "probe": probe,
        "config": None if config is None else dict(config),
        "notes": list(checkpoint.notes),
        "family": anatomy.family,
        "sizes": dict(anatomy.sizes),
        "files": [{k: v for k, v in asdict(f).items() if k != "path"} for f in checkpoint.files],
        "groups": [group.folder for group in plan.groups],
    }


def _create_group(root: zarr.Group, group: Group) -> None:
    members = [asdict(p) | {"slot": slot} for p, slot in group.members]
    for member in members:
        del member["tensor"]["path"], member["tensor"]["offset"]
    circuits = [_circuit_facts(circuit) for circuit in group.circuits]
    facts = {"component": group.component, "role": group.role, "tensors": members, "circuits": circuits}
    folder = root.create_group(group.folder, attributes={"shardscan": facts})
    coordinates: dict[str, Sequence[int | None]] = {"layer": group.layers, "expert": group.experts}
    for name, numbers in coordinates.items():
        numbered = np.array([NO_NUMBER if n is None else n for n in numbers], np.int64)
        folder.create_array(name, data=numbered, compressors=CODECS, dimension_names=(name,))
    used = {name for spec in specs(group).values() for name in spec.dims}
    for name, words in LABELS.items():
        if name not in used:
            continue
        axis = folder.create_array(
            name, shape=(len(words),), dtype=str, compressors=CODECS[1:], dimension_names=(name,)
        )
        axis[:] = np.array(words, object)
    dims = ("layer", "expert", "side")
    folder.create_array("sizes", data=_true_sizes(group), compressors=CODECS, dimension_names=dims)
    for name, spec in specs(group).items():
        folder.create_array(
            name,
            shape=spec.shape,
            chunks=spec.chunk,
            shards=spec.file if spec.sharded else None,
            dtype=spec.dtype,
            fill_value=math.nan if spec.dtype == "float64" else 0,
            compressors=CODECS,
            dimension_names=spec.dims,
        )


def _true_sizes(group: Group) -> np.ndarray:
    """Rows and columns of each slot's matrix, int64 (layer, expert, 2); 0 where there is none."""
    sizes = np.zeros((len(group.layers), len(group.experts), 2), np.int64)
    for p, slot in group.members:
        if p.matrix:
            sizes[slot] = p.matrix.rows, p.matrix.cols
    for index, circuit in enumerate(group.circuits):
        sizes[index, 0] = circuit.rows, circuit.cols
    return sizes


def _circuit_facts(circuit: Circuit) -> dict[str, Any]:
    facts = {name: getattr(circuit, name) for name in ("id", "layer", "heads", "rows", "cols", "rank")}
    return facts | {"left": circuit.left.tensor.name, "right": circuit.right.tensor.name}


def _slot_arrays(unit: Unit, result: Result) -> Iterator[tuple[str, str, np.ndarray | None]]:
    part = unit.placed.place.part
    yield STATS, f"statistics_{part}", result.tensor
    yield STATS, f"distribution_{part}", result.counts
    for side in ("out", "in"):
        yield STATS, f"channels_{side}", getattr(result, f"channels_{side}")
        yield STATS, f"fingerprints_{side}", getattr(result, f"fingerprints_{side}")
    if result.heads:
        yield HEADS, "heads", result.heads.sigma
        yield HEADS, "heads_facts", result.heads.facts
    if result.full:
        yield FULL, "full", result.full.sigma[0]
        yield FULL, "full_facts", result.full.facts[0]


def _write_slot(scan: Scan, path: str, slot: tuple[int, int], values: np.ndarray) -> dict[str, tuple[int, str]]:
    """Write one slot whole, padded to the stack's width; the written file with its size and hash."""
    array = _open_for_writing(str(scan.arrays / path))
    if 0 in array.shape:
        return {}
    stacked = array.ndim - values.ndim
    padded = np.full(array.shape[stacked:], array.fill_value, array.dtype)
    padded[tuple(slice(n) for n in values.shape)] = values
    array[slot[:stacked]] = padded
    file = array.metadata.encode_chunk_key((*slot[:stacked], *(0,) * values.ndim))
    written = (scan.arrays / path / file).read_bytes()
    return {f"{path}/{file}": (len(written), xxhash.xxh3_64_hexdigest(written))}


@lru_cache(maxsize=1024)
def _open_for_writing(path: str) -> zarr.Array[Any]:
    # a chunk that equals the fill value must still be written, or nothing shows that it is missing
    return zarr.open_array(path, mode="r+").with_config({"write_empty_chunks": True})


def _commit(
    scan: Scan,
    task: str,
    product: str,
    verdicts: Mapping[str, Mapping[str, str | None]],
    files: Mapping[str, tuple[int, str]],
    options: Mapping[str, object],
) -> None:
    facts = {"task": task, "product": product, "version": __version__, "options": dict(options)}
    commits.commit(scan, {**facts, "tensors": verdicts, "files": files})


def _verdict(unit: Unit, result: Result) -> dict[str, str | None]:
    codes = unit.placed.codes
    if result.failure or codes:
        return {"status": "failed" if result.failure else "codes", "reason": result.failure or codes, "digest": None}
    return {"status": "ok", "reason": unit.placed.reason, "digest": result.digest}


def _dims(array: zarr.Array[Any]) -> tuple[str | None, ...]:
    return tuple(array.metadata.to_dict()["dimension_names"])  # type: ignore[arg-type]


def _facts(group: zarr.Group) -> Mapping[str, Any]:
    facts = group.attrs["shardscan"]
    assert isinstance(facts, dict)
    return facts
