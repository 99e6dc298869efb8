"""STORE, its beginning: the arrays of a new scan, empty, and what a scan knows of its checkpoint.

All of it can be made again from the checkpoint's headers, to the bit: what a disk loses of it costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import xxhash

from shardscan.anatomy.composites import Composite
from shardscan.anatomy.places import Anatomy, Placed
from shardscan.plan.scan import Plan
from shardscan.plan.tasks import Group, Slot, runs, slot_of
from shardscan.reduce.products import StackedArray
from shardscan.shards.address import Checkpoint
from shardscan.store import commits
from shardscan.store.chunks import METADATA, Chunked
from shardscan.store.commits import Scan
from shardscan.store.facts import LAYOUT, read_scan
from shardscan.store.layout import stacked_arrays, words
from shardscan.store.metadata import describe_array, describe_bare_group, describe_group, label_axis
from shardscan.store.names import PARTIAL
from shardscan.store.records import (
    Stamp,
    StoredComposite,
    StoredGroup,
    StoredHeader,
    StoredMatrix,
    StoredScan,
    StoredShard,
    StoredTensor,
    record_of,
)

NO_NUMBER = -1  # in the coordinates of an axis that has no layer or expert


def create(scan: Scan, checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> dict[str, Stamp]:
    """Make the arrays of a new scan, empty; they appear whole or not at all. What is to be vouched for."""
    building = scan.arrays.with_name(f"{scan.id}{PARTIAL}")
    stamps = commits.write_files(building, _first_files(checkpoint, probe, anatomy, plan))
    write_root(scan)
    building.rename(scan.arrays)
    return stamps


def write_root(scan: Scan) -> None:
    """Make all scans of a store one group for whoever opens it in Zarr."""
    root, path = describe_bare_group(), scan.arrays.parent / METADATA
    if not commits.is_as_stamped(path, commits.stamp_of(root)):
        commits.write_file(path, root)


def _first_files(checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> Mapping[str, bytes]:
    """What a scan begins with: Zarr's metadata and the coordinates."""
    facts = record_of(_stored_scan(checkpoint, probe, anatomy, plan))
    files = {METADATA: describe_group(facts)}
    for group in plan.groups:
        files |= _group_files(group)
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
    place = [p.tensor.name, where.component, where.layer, where.role, where.expert, where.part, p.codes, matrices]
    return place if p.parameters == p.tensor.parameters else [*place, p.parameters]


def refresh(scan: Scan, checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> None:
    """Make anew what a disk has lost of a scan's first files, and keep what a checkpoint says of itself now.

    That is its config, notes, path and family's name, which are the same to a scan.
    """
    write_root(scan)
    vouched = commits.read_first_stamps(scan)
    stale = {name for name, stamp in vouched.items() if not commits.is_as_stamped(scan.arrays / name, stamp)}
    if METADATA not in stale:
        facts = read_scan(scan)
        is_new = any(getattr(facts, name) != value for name, value in _said(checkpoint, anatomy).items())
        stale |= {METADATA} if is_new else set()
    stale |= _missing(plan, vouched)
    if not stale:
        return
    files = _first_files(checkpoint, probe, anatomy, plan)
    for name in stale:
        commits.write_file(scan.arrays / name, files[name])
    commits.begin(scan, commits.read_replaced(scan), {**vouched, **{n: commits.stamp(scan.arrays / n) for n in stale}})


def _missing(plan: Plan, vouched: Mapping[str, Stamp]) -> set[str]:
    """The arrays of products that were registered since a scan began."""
    folders = (folder for group in plan.groups for folder in stacked_arrays(group).items())
    return {f"{path}/{name}/{METADATA}" for path, arrays in folders for name in arrays} - vouched.keys()


def _stored_scan(checkpoint: Checkpoint, probe: str, anatomy: Anatomy, plan: Plan) -> StoredScan:
    names = [field.name for field in fields(StoredShard)]
    return StoredScan(
        layout=LAYOUT,
        model=checkpoint.name,
        format=checkpoint.format,
        probe=probe,
        **_said(checkpoint, anatomy),
        sizes=dict(anatomy.sizes),
        files=tuple(StoredShard(*(getattr(file, name) for name in names)) for file in checkpoint.files),
        groups=tuple(group.folder for group in plan.groups),
    )


def _said(checkpoint: Checkpoint, anatomy: Anatomy) -> dict[str, Any]:
    """What a checkpoint says of itself, and may say otherwise without being another."""
    config = None if checkpoint.config is None else dict(checkpoint.config)
    return {"source": checkpoint.path, "config": config, "notes": checkpoint.notes, "family": anatomy.family}


def _group_files(group: Group) -> dict[str, bytes]:
    """Those of one group: of every folder that its arrays are in."""
    tensors = tuple(_stored_tensor(p, slot) for p, slot in group.members)
    composites = tuple(map(_stored_composite, group.composites))
    facts = record_of(StoredGroup(group.component, group.role, tensors, composites))
    sizes = _true_sizes(group)
    files: dict[str, bytes] = {}
    for path, arrays in stacked_arrays(group).items():
        own = _coordinates(group, {dim for spec in arrays.values() for dim in spec.dims})
        if path in sizes:
            own["sizes"] = _numbers(("layer", "expert", "side"), sizes[path])
        for name, spec in arrays.items():
            own[name] = {METADATA: _describe(spec)}
        files |= {f"{parent}/{METADATA}": describe_bare_group() for parent in list(PurePosixPath(path).parents)[:-1]}
        files[f"{path}/{METADATA}"] = describe_group(facts) if path == group.folder else describe_bare_group()
        files |= {f"{path}/{name}/{file}": data for name, of_array in own.items() for file, data in of_array.items()}
    return files


def _coordinates(group: Group, used: Set[str]) -> dict[str, Mapping[str, bytes]]:
    """The arrays that say what stands along the axes of a folder's."""
    numbered: dict[str, Sequence[int | None]] = {"layer": group.layers, "expert": group.experts}
    coordinates: dict[str, Mapping[str, bytes]] = {
        name: _numbers((name,), np.array([NO_NUMBER if n is None else n for n in numbers], np.int64))
        for name, numbers in numbered.items()
    }
    coordinates |= {name: label_axis(name, tuple(labels)) for name, labels in words().items() if name in used}
    return coordinates


def _numbers(dims: tuple[str, ...], values: np.ndarray) -> dict[str, bytes]:
    """The files of an array of integers; those that are nothing but 0 are left out, as zarr does."""
    metadata = describe_array(dims, values.shape, values.dtype.name)
    return {METADATA: metadata, **Chunked.of(metadata).files_of(values)}


def _describe(spec: StackedArray) -> bytes:
    return describe_array(spec.dims, spec.shape, spec.dtype, chunk=spec.chunk, file=spec.file if spec.sharded else None)


def _true_sizes(group: Group) -> dict[str, np.ndarray]:
    """Rows and columns of each slot's matrix by folder, int64 (layer, expert, 2); 0 where there is none."""
    shape = (len(group.layers), len(group.experts), 2)
    sizes: dict[str, np.ndarray] = {}
    for folder, stacked in group.stacks.items():
        sizes[folder] = np.zeros(shape, np.int64)
        for _, matrix, slot in stacked:
            sizes[folder][slot] = matrix.rows, matrix.cols
    for index, composite in enumerate(group.composites):
        sizes.setdefault(group.folder, np.zeros(shape, np.int64))[index, 0] = composite.rows, composite.cols
    return sizes


def _stored_tensor(p: Placed, slot: Slot) -> StoredTensor:
    t = p.tensor
    return StoredTensor(
        StoredHeader(t.name, t.dtype, t.shape, t.file, t.nbytes, p.shared_with),
        p.canonical_name,
        p.place,
        p.reason,
        tuple(at for at, _ in runs(p, slot)),
        tuple(
            StoredMatrix(m.id, m.kind, m.role, m.expert, m.rows, m.cols, m.heads, slot_of(p, slot, m))
            for m in p.matrices
        ),
        None if p.parameters == t.parameters else p.parameters,
    )


def _stored_composite(c: Composite) -> StoredComposite:
    factors = c.left.matrix.id, c.right.matrix.id
    return StoredComposite(c.id, c.kind, c.layer, c.role, c.expert, c.heads, c.rows, c.cols, c.rank, *factors)
