"""STORE, its beginning: the arrays of a new scan, empty, and what a scan knows of its checkpoint.

All of it can be made again from the checkpoint's headers, to the bit: what a disk loses of it costs nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields
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
from shardscan.reduce.products import StackedArray
from shardscan.shards.address import Checkpoint, Tensor
from shardscan.store import commits
from shardscan.store.commits import PARTIAL, Scan
from shardscan.store.layout import stacked_arrays, words
from shardscan.store.records import (
    Stamp,
    StoredComposite,
    StoredGroup,
    StoredHeader,
    StoredMatrix,
    StoredScan,
    StoredShard,
    StoredTensor,
    read_record,
    record_of,
)

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
    facts = record_of(_stored_scan(checkpoint, probe, anatomy, plan))
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


def read_scan(scan: Scan) -> StoredScan:
    """What a scan knows of its checkpoint."""
    try:
        return read_record(StoredScan, _facts(zarr.open_group(scan.arrays, mode="r")))
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"the arrays in {scan.arrays} are gone or damaged: ingest their checkpoint again, or remove {scan.commits}."
        ) from error


def read_groups(scan: Scan) -> Iterator[tuple[str, StoredGroup]]:
    """Folder and contents of every group of a scan, in the order of the checkpoint's headers."""
    for folder in read_scan(scan).groups:
        yield folder, read_record(StoredGroup, _facts(zarr.open_group(scan.arrays / folder, mode="r")))


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
        write_file(scan.arrays / name, files[name])
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


def _shared(checkpoint: Checkpoint) -> dict[str, str]:
    """Tensors that have the very bytes of one before them: their name to its name."""
    first_of: dict[tuple[object, ...], str] = {}
    for name, t in checkpoint.items():
        if t.nbytes:
            first_of.setdefault(_bytes_of(t), name)
    named_firsts = ((name, first_of.get(_bytes_of(t), name)) for name, t in checkpoint.items())
    return {name: first for name, first in named_firsts if first != name}


def _bytes_of(t: Tensor) -> tuple[object, ...]:
    return t.path, t.offset, t.nbytes, t.strides, t.strides and t.shape


def _create_group(root: zarr.Group, group: Group, shared: Mapping[str, str]) -> None:
    tensors = tuple(_stored_tensor(p, slot, shared.get(p.tensor.name)) for p, slot in group.members)
    composites = tuple(map(_stored_composite, group.composites))
    facts = record_of(StoredGroup(group.component, group.role, tensors, composites))
    sizes = _true_sizes(group)
    for path, arrays in stacked_arrays(group).items():
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
    for name, labels in words().items():
        if name in used:
            axis = folder.create_array(
                name, shape=(len(labels),), dtype=str, compressors=CODECS[1:], dimension_names=(name,)
            )
            axis[:] = np.array(labels, object)


def _create_array(folder: zarr.Group, name: str, spec: StackedArray) -> None:
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
    for folder, stacked in group.stacks.items():
        sizes[folder] = np.zeros(shape, np.int64)
        for _, matrix, slot in stacked:
            sizes[folder][slot] = matrix.rows, matrix.cols
    for index, composite in enumerate(group.composites):
        sizes.setdefault(group.folder, np.zeros(shape, np.int64))[index, 0] = composite.rows, composite.cols
    return sizes


def _stored_tensor(p: Placed, slot: Slot, shared_with: str | None) -> StoredTensor:
    t = p.tensor
    return StoredTensor(
        StoredHeader(t.name, t.dtype, t.shape, t.file, t.nbytes, shared_with),
        p.canonical_name,
        p.place,
        p.reason,
        tuple(at for at, _ in runs(p, slot)),
        tuple(
            StoredMatrix(m.id, m.kind, m.role, m.expert, m.rows, m.cols, m.heads, slot_of(p, slot, m))
            for m in p.matrices
        ),
    )


def _stored_composite(c: Composite) -> StoredComposite:
    factors = c.left.matrix.id, c.right.matrix.id
    return StoredComposite(c.id, c.kind, c.layer, c.role, c.expert, c.heads, c.rows, c.cols, c.rank, *factors)


def _facts(group: zarr.Group) -> Mapping[str, Any]:
    facts = group.attrs["shardscan"]
    assert isinstance(facts, dict)
    return facts
