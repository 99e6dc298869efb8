"""STORE: a scan's arrays in Zarr, written and read.

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

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.plan import products
from shardscan.plan.products import BlockProduct
from shardscan.plan.tasks import CompositeTask, Slot, Task, Unit, stack_folder
from shardscan.reduce.result import Outcome, Result
from shardscan.store import commits
from shardscan.store.chunks import Chunked
from shardscan.store.commits import Scan
from shardscan.store.facts import LAYOUT, read_scan
from shardscan.store.records import CODES, DEGENERATE, FAILED, OK, AnyVerdict, Commit, Stamp, Verdict
from shardscan.version import __version__


def list_current_scans(store: Path) -> list[Scan]:
    """The scans that speak for their models, by model name: one that is still replacing another does not yet.

    Those of another layout do not at all: their checkpoints are to be scanned again.
    """
    scans = commits.list_scans(store)
    ids = {scan.id for scan in scans}
    current = [scan for scan in scans if not ids & set(commits.read_replaced(scan))]
    readable = [(facts.model, scan) for scan in current if (facts := read_scan(scan)).layout == LAYOUT]
    return [scan for _, scan in sorted(readable, key=lambda named: named[0])]


def write_tensors(scan: Scan, task: Task, results: Sequence[Result], options: Mapping[str, object]) -> None:
    """Write a finished task's arrays, then commit each of its products.

    Commits record `options`, which change numbers: for last bits nothing is done again, for `exact` it is.
    """
    units = list(zip(task.units, results, strict=True))
    for product in sorted(task.products):
        slots: dict[str, dict[Slot, np.ndarray]] = {}
        for unit, result in units:
            if outcome := result.outcomes.get(product):
                for path, slot, values in _place_arrays(task, unit, outcome):
                    slots.setdefault(path, {})[slot] = values
        files: dict[str, Stamp] = {}
        for path, values_of in slots.items():
            files |= _write_slots(scan, path, values_of)
        verdicts = {unit.placed.tensor.name: _verdict(unit, result, product) for unit, result in units}
        commit_product(scan, task.name, product, verdicts, files, options)


def write_composites(scan: Scan, task: CompositeTask, result: Result) -> None:
    """Likewise the composites of a layer, by their id."""
    files: dict[str, Stamp] = {}
    if outcome := result.outcomes.get(task.product):
        for name, values in outcome.of_tensor.items():
            files |= _write_slots(scan, f"{task.folder}/{name}", {task.slot: values})
    verdict = Verdict(FAILED if result.failure else OK, result.failure)
    commit_product(scan, task.name, task.product, {task.composite.id: verdict}, files, {})


def read_matrix(scan: Scan, task: Task, unit: Unit, matrix: Matrix, name: str) -> np.ndarray:
    """A stored array of one matrix; NaN where it is not there.

    Of an axis whose name ends in _channel as many as the matrix has rows ('out'), or columns.
    """
    layer, expert = unit.slot_of(matrix)
    folder = stack_folder(task.folder, unit.placed.place.role, matrix.role)
    values = read_stacked_array(scan, folder, name, (slice(layer, layer + 1), slice(expert, expert + 1)))
    return values[0, 0, ..., : matrix.rows if name.endswith("_out") else matrix.cols]


def read_stacked_array(scan: Scan, folder: str, name: str, region: tuple[slice, slice] | None = None) -> np.ndarray:
    """One stacked array, whole or a region of its layers and experts; see `layout.stacked_arrays` for its axes."""
    place = scan.arrays / folder / name
    array = Chunked.open(place)
    # heads have no axis for experts
    return array.read(place, (region if "expert" in array.dims else region[:1]) if region else ())


def _place_arrays(task: Task, unit: Unit, outcome: Outcome) -> Iterator[tuple[str, Slot, np.ndarray]]:
    """Path, slot and values of every array that one product leaves of a unit."""
    place = unit.placed.place
    for name, values in outcome.of_tensor.items():
        yield f"{task.folder}/{name}_{place.part}", unit.slot, values
    for matrix, arrays in zip(unit.matrices, outcome.of_matrices, strict=False):  # of what is no matrix there are none
        folder = stack_folder(task.folder, place.role, matrix.role)
        for name, values in arrays.items():
            yield f"{folder}/{name}", unit.slot_of(matrix), values


def _write_slots(scan: Scan, path: str, values_of: Mapping[Slot, np.ndarray]) -> dict[str, Stamp]:
    """Write the slots of one file whole, padded to the stack's width; the file with its size and hash."""
    array = _open_for_writing(scan.arrays / path)
    if 0 in array.shape:
        return {}
    (layer, first), values = next(iter(values_of.items()))
    stacked = len(array.shape) - values.ndim
    run = array.file[1] if stacked > 1 else 1
    start = first // run * run
    runs = (min(run, array.shape[1] - start),) if stacked > 1 else ()
    padded = np.full((1, *runs, *array.shape[stacked:]), array.fill, array.dtype)
    for (_, expert), values in values_of.items():
        slot = (0, expert - start) if stacked > 1 else (0,)
        padded[(*slot, *map(slice, values.shape))] = values
    number = (layer, start // run) if stacked > 1 else (layer,)
    file = f"{path}/{array.key((*number, *(0,) * values.ndim))}"
    return {file: commits.write_file(scan.arrays / file, array.encode(padded))}


@lru_cache(maxsize=1024)
def _open_for_writing(folder: Path) -> Chunked:
    return Chunked.open(folder)


def commit_product(
    scan: Scan,
    task: str,
    product: str,
    verdicts: Mapping[str, AnyVerdict],
    files: Mapping[str, Stamp],
    options: Mapping[str, object],
) -> None:
    """Vouch for one product of one task, or of a comparison's."""
    commits.commit(scan, Commit(task, product, __version__, dict(options), verdicts, files))


def _verdict(unit: Unit, result: Result, product: str) -> Verdict:
    """What one product's commit says of a tensor; that of one that vouches also which bytes it has read."""
    if result.failure or unit.placed.codes:
        return Verdict(FAILED if result.failure else CODES, result.failure or unit.placed.codes)
    outcome, known = result.outcomes.get(product), products.named(product)
    digest = result.digest if isinstance(known, BlockProduct) and known.vouches else None
    if outcome and outcome.degenerate:
        return Verdict(DEGENERATE, outcome.degenerate, digest)
    return Verdict(OK, unit.placed.reason, digest)
