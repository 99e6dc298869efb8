"""STORE: a scan's arrays in Zarr; the only one that imports zarr.

    <store>/arrays.zarr/<scan>/<component>/<role>/          arrays stacked over layers, one chunk or shard file a layer
    <store>/arrays.zarr/<scan>/<component>/<role>.<part>/   likewise of the parts of fused tensors

Writers of different tasks share no file, so tasks may finish in any order, thread or process; a task's commit is
written last and holds the hash of every file it vouches for. Every chunk ends in a crc32c. Names of models and tensors
are data: a scan's folder is a hash, a role's is a checked word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from shardscan.anatomy.matrices import Matrix
from shardscan.plan.tasks import FULL, HEADS, PRODUCT_OF, STATS, CompositeTask, Slot, Task, Unit, stack_folder
from shardscan.reduce.result import MatrixResult, Result
from shardscan.reduce.tensors import TENSOR_MOMENTS
from shardscan.store import commits
from shardscan.store.commits import CODES, DEGENERATE, FAILED, OK, Scan
from shardscan.store.creation import LAYOUT, METADATA, NO_NUMBER, attributes, create, groups, refresh, scan_id
from shardscan.version import __version__

__all__ = [
    "LAYOUT", "METADATA", "NO_NUMBER", "attributes", "channels", "create", "current", "groups", "read", "refresh",
    "scan_id", "write", "write_composites",
]  # fmt: skip


def current(store: Path) -> list[Scan]:
    """The scans that speak for their models, by model name: one that is still replacing another does not yet.

    Those of another layout do not at all: their checkpoints are to be scanned again.
    """
    found = commits.begun(store)
    ids = {scan.id for scan in found}
    speaking = [scan for scan in found if not ids & set(commits.replaces(scan))]
    readable = [(facts["model"], scan) for scan in speaking if (facts := attributes(scan))["layout"] == LAYOUT]
    return [scan for _, scan in sorted(readable, key=lambda one: str(one[0]))]


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
    """The stored statistics (11, n) of one matrix's channels, 'out' or 'in'; NaN where they are not there."""
    layer, expert = unit.slot_of(matrix)
    region = slice(layer, layer + 1), slice(expert, expert + 1)
    folder = stack_folder(task.folder, unit.placed.place.role, matrix.role)
    return read(scan, folder, f"channels_{side}", region)[0, 0, :, : matrix.rows if side == "out" else matrix.cols]


def read(scan: Scan, folder: str, name: str, region: tuple[slice, slice] | None = None) -> np.ndarray:
    """One stacked array, whole or a region of its layers and experts; see `layout.specs` for its axes."""
    array = zarr.open_array(scan.arrays / folder / name, mode="r")
    # heads have no axis for experts
    values = array[...] if region is None else array[region if "expert" in _dims(array) else region[:1]]
    assert isinstance(values, np.ndarray)
    return values


def _arrays(task: Task, unit: Unit, result: Result) -> Iterator[tuple[str, str, Slot, np.ndarray | None]]:
    """Product, path, slot and values of everything that one unit leaves."""
    place = unit.placed.place
    yield STATS, f"{task.folder}/moments_{place.part}", unit.slot, result.tensor
    yield STATS, f"{task.folder}/distribution_{place.part}", unit.slot, result.counts
    for matrix, found in zip(unit.matrices, result.matrices, strict=False):  # a failed unit has none
        folder, slot = stack_folder(task.folder, place.role, matrix.role), unit.slot_of(matrix)
        for side in ("out", "in"):
            yield STATS, f"{folder}/channels_{side}", slot, _channels(found, side)
            yield STATS, f"{folder}/fingerprints_{side}", slot, getattr(found, f"fingerprints_{side}")
        if found.heads:
            yield HEADS, f"{folder}/heads", slot, found.heads.sigma
            yield HEADS, f"{folder}/heads_facts", slot, found.heads.facts
        if found.full:
            yield FULL, f"{folder}/full", slot, found.full.sigma[0]
            yield FULL, f"{folder}/full_facts", slot, found.full.facts[0]


def _channels(found: MatrixResult, side: str) -> np.ndarray | None:
    """As many of STORED_STATISTICS as there are of one side's channels."""
    if side == "in" or found.channels_out is None or found.violations is None:
        return found.channels_in if side == "in" else found.channels_out
    return np.concatenate([found.channels_out, found.violations])


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
