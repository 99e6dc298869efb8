"""STORE: a scan's arrays in Zarr; the only module that imports zarr.

    <store>/arrays.zarr/<scan>/<component>/<role>/          arrays stacked over layers, one chunk or shard file a layer
    <store>/arrays.zarr/<scan>/<component>/<role>.<part>/   likewise of the parts of fused tensors

Writers of different tasks share no file, so tasks may finish in any order, thread or process; a task's commit is
written last and holds the hash of every file it vouches for. Every chunk ends in a crc32c. Names of models and tensors
are data: a scan's folder is a hash, a role's is a checked word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from shardscan import __version__, commits
from shardscan.anatomy import Anatomy, Placed
from shardscan.commits import CODES, DEGENERATE, FAILED, OK, PARTIAL, Scan
from shardscan.composites import Composite
from shardscan.errors import StoreError
from shardscan.layout import LABELS, Spec, specs
from shardscan.matrices import Matrix
from shardscan.plan import Plan
from shardscan.reduce.result import Result
from shardscan.reduce.tensors import TENSOR_MOMENTS
from shardscan.shards.address import Checkpoint
from shardscan.tasks import (
    FULL,
    HEADS,
    PRODUCT_OF,
    STATS,
    CompositeTask,
    Group,
    Slot,
    Task,
    Unit,
    runs,
    slot_of,
    stack_folder,
)

LAYOUT = 4
CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec())
METADATA = "zarr.json"
NO_NUMBER = -1  # in the coordinates of an axis that has no layer or expert


def create(scan: Scan, checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> None:
    """Make the arrays of a new scan, empty; they appear whole or not at all."""
    building = scan.arrays.with_name(f"{scan.id}{PARTIAL}")
    for name, data in _first_files(checkpoint, probe, anatomy, plan).items():
        _write(building / name, data)
    _write_root(scan)
    building.rename(scan.arrays)


def _write_root(scan: Scan) -> None:
    """Make all scans of a store one group for whoever opens it in Zarr."""
    root: dict[str, Buffer] = {}
    zarr.open_group(MemoryStore(root), mode="w", zarr_format=3)
    path = scan.arrays.parent / METADATA
    if not commits.is_as_stamped(path, commits.stamp_of(root[METADATA].to_bytes())):
        _write(path, root[METADATA])


def _write(path: Path, data: Buffer) -> None:
    """Write a small file so that it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}{PARTIAL}")
    partial.write_bytes(data.to_bytes())
    partial.replace(path)


def _first_files(checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> Mapping[str, Buffer]:
    """What a scan begins with: Zarr's metadata and the coordinates."""
    facts = _attributes(checkpoint, probe, anatomy, plan)
    files: dict[str, Buffer] = {}  # in memory first: zarr takes three times as long on a disk
    root = zarr.open_group(MemoryStore(files), mode="w", zarr_format=3, attributes={"shardscan": facts})
    for group in plan.groups:
        _create_group(root, group)
    return files


def scan_id(checkpoint: Checkpoint, probe: str, anatomy: Anatomy) -> str:
    """Name, contents, anatomy and layout: what must be equal for arrays to be continued."""
    facts = [checkpoint.name, probe, dict(anatomy.sizes), [_place_of(p) for p in anatomy.placed], LAYOUT]
    return xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())


def _place_of(p: Placed) -> list[Any]:
    where, matrices = p.place, []
    for m in p.matrices:  # not by astuple: a model of many experts has tens of thousands
        runs_of = [(run.start, run.length, run.stride, run.groups) for run in (m.stored_rows, m.stored_cols)]
        heads = (m.heads.axis, m.heads.count, m.heads.dim, m.heads.queries) if m.heads else None
        matrices.append((m.id, m.turned, runs_of, heads))
    return [p.tensor.name, where.component, where.layer, where.role, where.expert, where.part, p.codes, matrices]


def attributes(scan: Scan) -> Mapping[str, Any]:
    """What a scan knows of its checkpoint: model, source, format, probe, config, family, sizes, files, groups."""
    try:
        return _facts(zarr.open_group(scan.arrays, mode="r"))
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"the arrays in {scan.arrays} are gone or damaged: ingest their checkpoint again, or remove {scan.commits}."
        ) from error


def refresh(scan: Scan, checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> None:
    """Make anew what a disk has lost of a scan's first files, and keep what a checkpoint says of itself now.

    That is its config, notes, path and family's name, which are the same to a scan.
    """
    _write_root(scan)
    vouched = commits.made(scan)
    stale = {name for name, stamp in vouched.items() if not commits.is_as_stamped(scan.arrays / name, stamp)}
    if METADATA not in stale:
        facts = attributes(scan)
        stale |= {METADATA for name, value in _said(checkpoint, anatomy).items() if facts[name] != value}
    if not stale:
        return
    files = _first_files(checkpoint, probe, anatomy, plan)
    for name in stale:
        _write(scan.arrays / name, files[name])
    commits.begin(scan, commits.replaces(scan), {**vouched, **{n: commits.stamp(scan.arrays / n) for n in stale}})


def current(store: Path) -> list[Scan]:
    """The scans that speak for their models, by model name: one that is still replacing another does not yet."""
    found = commits.begun(store)
    ids = {scan.id for scan in found}
    speaking = [scan for scan in found if not ids & set(commits.replaces(scan))]
    return sorted(speaking, key=lambda scan: str(attributes(scan)["model"]))


def write(scan: Scan, task: Task, results: Sequence[Result], options: Mapping[str, object]) -> None:
    """Write a finished task's arrays, then commit each of its products.

    Commits record `options`, which change numbers: for last bits nothing is done again, for `exact` it is.
    """
    files: dict[str, dict[str, tuple[int, str]]] = {product: {} for product in task.products}
    stacked: dict[tuple[str, str], dict[Slot, np.ndarray]] = {}
    for unit, result in zip(task.units, results, strict=True):
        for product, path, slot, values in _arrays(task, unit, result):
            if product in files and values is not None:
                stacked.setdefault((product, path), {})[slot] = values
    for (product, path), values_of in stacked.items():
        files[product] |= _write_slots(scan, path, values_of)
    for product in sorted(task.products):
        verdicts = {u.placed.tensor.name: _verdict(u, r, product) for u, r in zip(task.units, results, strict=True)}
        _commit(scan, task.name, product, verdicts, files[product], options)


def write_composites(scan: Scan, task: CompositeTask, result: Result) -> None:
    """Likewise the composites of a layer, by their id."""
    spectra = result.composites
    arrays = {"composites": spectra.sigma, "composites_facts": spectra.facts} if spectra else {}
    files: dict[str, tuple[int, str]] = {}
    for name, values in arrays.items():
        files |= _write_slots(scan, f"{task.folder}/{name}", {task.slot: values})
    verdict = {"status": FAILED if result.failure else OK, "reason": result.failure, "digest": None}
    _commit(scan, task.name, PRODUCT_OF[task.composite.kind], {task.composite.id: verdict}, files, {})


def channels(scan: Scan, task: Task, unit: Unit, matrix: Matrix, side: str) -> np.ndarray:
    """The stored channel statistics (9, n) of one matrix, 'out' or 'in'; NaN where they are not there."""
    layer, expert = unit.slot_of(matrix)
    region = slice(layer, layer + 1), slice(expert, expert + 1)
    folder = stack_folder(task.folder, unit.placed.place.role, matrix.role)
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
    return {
        "layout": LAYOUT,
        "model": checkpoint.name,
        "format": checkpoint.format,
        "probe": probe,
        **_said(checkpoint, anatomy),
        "sizes": dict(anatomy.sizes),
        "files": [{k: v for k, v in asdict(f).items() if k not in ("path", "seen")} for f in checkpoint.files],
        "groups": [group.folder for group in plan.groups],
    }


def _said(checkpoint: Checkpoint, anatomy: Anatomy) -> dict[str, Any]:
    config = None if checkpoint.config is None else dict(checkpoint.config)
    return {"source": checkpoint.path, "config": config, "notes": list(checkpoint.notes), "family": anatomy.family}


def _create_group(root: zarr.Group, group: Group) -> None:
    members = [_member_facts(p, slot) for p, slot in group.members]
    composites = [_composite_facts(composite) for composite in group.composites]
    facts = {"component": group.component, "role": group.role, "tensors": members, "composites": composites}
    sizes = _true_sizes(group)
    for path, arrays in specs(group).items():
        folder = root.create_group(path, attributes={"shardscan": facts} if path == group.folder else {})
        _create_coordinates(folder, group, {dim for spec in arrays.values() for dim in spec.dims})
        if path in sizes:
            folder.create_array(
                "sizes", data=sizes[path], compressors=CODECS, dimension_names=("layer", "expert", "side")
            )
        for name, spec in arrays.items():
            _create_array(folder, name, spec)


def _create_coordinates(folder: zarr.Group, group: Group, used: Set[str]) -> None:
    coordinates: dict[str, Sequence[int | None]] = {"layer": group.layers, "expert": group.experts}
    for name, numbers in coordinates.items():
        numbered = np.array([NO_NUMBER if n is None else n for n in numbers], np.int64)
        folder.create_array(name, data=numbered, compressors=CODECS, dimension_names=(name,))
    for name, words in LABELS.items():
        if name in used:
            axis = folder.create_array(
                name, shape=(len(words),), dtype=str, compressors=CODECS[1:], dimension_names=(name,)
            )
            axis[:] = np.array(words, object)


def _create_array(folder: zarr.Group, name: str, spec: Spec) -> None:
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


def _true_sizes(group: Group) -> dict[str, np.ndarray]:
    """Rows and columns of each slot's matrix by folder, int64 (layer, expert, 2); 0 where there is none."""
    shape = (len(group.layers), len(group.experts), 2)
    sizes: dict[str, np.ndarray] = {}
    for folder, found in group.stacks.items():
        sizes[folder] = np.zeros(shape, np.int64)
        for _, matrix, slot in found:
            sizes[folder][slot] = matrix.rows, matrix.cols
    for index, composite in enumerate(group.composites):
        sizes.setdefault(group.folder, np.zeros(shape, np.int64))[index, 0] = composite.rows, composite.cols
    return sizes


def _member_facts(p: Placed, slot: Slot) -> dict[str, Any]:
    """What the catalog needs of a tensor: its place, the slots of its tasks, and its matrices."""
    tensor = {name: getattr(p.tensor, name) for name in ("name", "dtype", "shape", "file", "nbytes")}
    found: list[dict[str, Any]] = []
    for matrix in p.matrices:
        facts = {name: getattr(matrix, name) for name in ("id", "kind", "role", "expert", "rows", "cols")}
        found.append({**facts, "heads": matrix.heads and asdict(matrix.heads), "slot": slot_of(p, slot, matrix)})
    slots = [at for at, _ in runs(p, slot)]
    facts_of_tensor = {"canonical_name": p.canonical_name, "place": asdict(p.place), "reason": p.reason}
    return {"tensor": tensor, **facts_of_tensor, "slots": slots, "matrices": found}


def _composite_facts(composite: Composite) -> dict[str, Any]:
    facts = {
        name: getattr(composite, name)
        for name in ("id", "kind", "layer", "role", "expert", "heads", "rows", "cols", "rank")
    }
    return facts | {"left": composite.left.matrix.id, "right": composite.right.matrix.id}


def _arrays(task: Task, unit: Unit, result: Result) -> Iterator[tuple[str, str, Slot, np.ndarray | None]]:
    """Product, path, slot and values of everything that one unit leaves."""
    place = unit.placed.place
    yield STATS, f"{task.folder}/moments_{place.part}", unit.slot, result.tensor
    yield STATS, f"{task.folder}/distribution_{place.part}", unit.slot, result.counts
    for matrix, found in zip(unit.matrices, result.matrices, strict=False):  # a failed unit has none
        folder, slot = stack_folder(task.folder, place.role, matrix.role), unit.slot_of(matrix)
        for side in ("out", "in"):
            yield STATS, f"{folder}/channels_{side}", slot, getattr(found, f"channels_{side}")
            yield STATS, f"{folder}/fingerprints_{side}", slot, getattr(found, f"fingerprints_{side}")
        if found.heads:
            yield HEADS, f"{folder}/heads", slot, found.heads.sigma
            yield HEADS, f"{folder}/heads_facts", slot, found.heads.facts
        if found.full:
            yield FULL, f"{folder}/full", slot, found.full.sigma[0]
            yield FULL, f"{folder}/full_facts", slot, found.full.facts[0]


def _write_slots(scan: Scan, path: str, values_of: Mapping[Slot, np.ndarray]) -> dict[str, tuple[int, str]]:
    """Write the slots of one file whole, padded to the stack's width; the file with its size and hash."""
    array = _open_for_writing(str(scan.arrays / path))
    if 0 in array.shape:
        return {}
    (layer, first), values = next(iter(values_of.items()))
    stacked = array.ndim - values.ndim
    run = array.chunks[1] if stacked > 1 else 1
    start = first // run * run
    stop = min(start + run, array.shape[1]) if stacked > 1 else 1
    padded = np.full((stop - start, *array.shape[stacked:]), array.fill_value, array.dtype)
    for (_, expert), values in values_of.items():
        padded[expert - start if stacked > 1 else 0][tuple(slice(n) for n in values.shape)] = values
    array[(layer, slice(start, stop)) if stacked > 1 else layer] = padded if stacked > 1 else padded[0]
    key = (layer, start // run) if stacked > 1 else (layer,)
    file = array.metadata.encode_chunk_key((*key, *(0,) * values.ndim))
    return {f"{path}/{file}": commits.stamp(scan.arrays / path / file)}


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


def _verdict(unit: Unit, result: Result, product: str) -> dict[str, str | None]:
    """What one product's commit says of a tensor; that of its statistics also what its values are like."""
    codes, parameters = unit.placed.codes, unit.placed.tensor.parameters
    if result.failure or codes:
        return {"status": FAILED if result.failure else CODES, "reason": result.failure or codes, "digest": None}
    if product != STATS:
        return {"status": OK, "reason": unit.placed.reason, "digest": None}
    assert result.tensor is not None
    if parameters and not result.tensor[TENSOR_MOMENTS.index("count")]:
        reason = f"none of its {parameters:,} values is finite" if parameters > 1 else "its value is not finite"
        return {"status": DEGENERATE, "reason": reason, "digest": result.digest}
    return {"status": OK, "reason": unit.placed.reason, "digest": result.digest}


def _dims(array: zarr.Array[Any]) -> tuple[str | None, ...]:
    return tuple(array.metadata.to_dict()["dimension_names"])  # type: ignore[arg-type]


def _facts(group: zarr.Group) -> Mapping[str, Any]:
    facts = group.attrs["shardscan"]
    assert isinstance(facts, dict)
    return facts
