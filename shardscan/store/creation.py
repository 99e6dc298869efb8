"""STORE, its beginning: the arrays of a new scan, empty, and what a scan knows of its checkpoint.

All of it can be made again from the checkpoint's headers, to the bit: what a disk loses of it costs nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from shardscan.anatomy.composites import Composite
from shardscan.anatomy.places import Anatomy, Placed
from shardscan.errors import StoreError
from shardscan.plan.scan import Plan
from shardscan.plan.tasks import Group, Slot, runs, slot_of
from shardscan.shards.address import Checkpoint, Tensor
from shardscan.store import commits
from shardscan.store.commits import PARTIAL, Scan
from shardscan.store.layout import LABELS, Spec, specs

LAYOUT = 5
CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec())
METADATA = "zarr.json"
NO_NUMBER = -1  # in the coordinates of an axis that has no layer or expert


def create(scan: Scan, checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> None:
    """Make the arrays of a new scan, empty; they appear whole or not at all."""
    building = scan.arrays.with_name(f"{scan.id}{PARTIAL}")
    for name, data in _first_files(checkpoint, probe, anatomy, plan).items():
        write_file(building / name, data)
    write_root(scan)
    building.rename(scan.arrays)


def write_root(scan: Scan) -> None:
    """Make all scans of a store one group for whoever opens it in Zarr."""
    root: dict[str, Buffer] = {}
    zarr.open_group(MemoryStore(root), mode="w", zarr_format=3)
    path = scan.arrays.parent / METADATA
    if not commits.is_as_stamped(path, commits.stamp_of(root[METADATA].to_bytes())):
        write_file(path, root[METADATA])


def write_file(path: Path, data: Buffer) -> None:
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
    shared = _shared(checkpoint)
    for group in plan.groups:
        _create_group(root, group, shared)
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


def groups(scan: Scan) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Folder and attributes of every group of a scan, in the order of the checkpoint's headers."""
    for folder in attributes(scan)["groups"]:
        yield folder, _facts(zarr.open_group(scan.arrays / folder, mode="r"))


def refresh(scan: Scan, checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> None:
    """Make anew what a disk has lost of a scan's first files, and keep what a checkpoint says of itself now.

    That is its config, notes, path and family's name, which are the same to a scan.
    """
    write_root(scan)
    vouched = commits.made(scan)
    stale = {name for name, stamp in vouched.items() if not commits.is_as_stamped(scan.arrays / name, stamp)}
    if METADATA not in stale:
        facts = attributes(scan)
        stale |= {METADATA for name, value in _said(checkpoint, anatomy).items() if facts[name] != value}
    if not stale:
        return
    files = _first_files(checkpoint, probe, anatomy, plan)
    for name in stale:
        write_file(scan.arrays / name, files[name])
    commits.begin(scan, commits.replaces(scan), {**vouched, **{n: commits.stamp(scan.arrays / n) for n in stale}})


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


def _shared(checkpoint: Checkpoint) -> dict[str, str]:
    """Tensors that have the very bytes of one before them: their name to its name."""
    first_of: dict[tuple[object, ...], str] = {}
    for name, t in checkpoint.items():
        if t.nbytes:
            first_of.setdefault(_bytes_of(t), name)
    found = ((name, first_of.get(_bytes_of(t), name)) for name, t in checkpoint.items())
    return {name: first for name, first in found if first != name}


def _bytes_of(t: Tensor) -> tuple[object, ...]:
    return t.path, t.offset, t.nbytes, t.strides, t.strides and t.shape


def _create_group(root: zarr.Group, group: Group, shared: Mapping[str, str]) -> None:
    members = [_member_facts(p, slot, shared.get(p.tensor.name)) for p, slot in group.members]
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


def _member_facts(p: Placed, slot: Slot, shared_with: str | None) -> dict[str, Any]:
    """What the catalog needs of a tensor: its place, whose bytes it has, the slots of its tasks, and its matrices."""
    tensor = {name: getattr(p.tensor, name) for name in ("name", "dtype", "shape", "file", "nbytes")}
    tensor["shared_with"] = shared_with
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


def _facts(group: zarr.Group) -> Mapping[str, Any]:
    facts = group.attrs["shardscan"]
    assert isinstance(facts, dict)
    return facts
