"""STORE, its comparisons: what two scans of one store differ by, beside them and like them.

    <store>/arrays.zarr/diff-<hash>/figures    float64  [figure, channel]    a file for each task, or more

`channel_a` is a figure: which channel of a is compared. The channels of a pair lie together, b's rows before its
columns; where, its commit says, which also has the figures of the pair as a whole. A comparison is of two scans, by
their ids: it is stale where one of them is gone, and never more than what those scans and its pairs make it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import xxhash

from shardscan.plan.comparison import CHUNK, Pair, Task
from shardscan.reduce.change_ranks import Change
from shardscan.reduce.comparison import FIGURES, Compared, Figures
from shardscan.store import commits
from shardscan.store.arrays import commit_product
from shardscan.store.chunks import METADATA, Chunked
from shardscan.store.commits import COMPARISON, Scan
from shardscan.store.creation import write_root
from shardscan.store.metadata import describe_array, describe_group, label_axis
from shardscan.store.names import PARTIAL
from shardscan.store.records import (
    CODES,
    DEGENERATE,
    FAILED,
    OK,
    RANKS,
    SCANNED,
    VALUES,
    BegunComparison,
    RankVerdict,
    Stamp,
    WeightVerdict,
    record_of,
)
from shardscan.store.two_scans import Models, check_both_speak, forget_others, locate_of_two

COMPARISON_LAYOUT = 1
CHANNEL_FIGURES = ("channel_a", *FIGURES)
CHANGES = ("change_rank", "change_stable_rank", "change_sigma_max", "rounding_edge")


def begin_comparison(a: Scan, b: Scan, models: Models, tasks: Sequence[Task]) -> Scan:
    """The comparison of two scans of one store, to go on with or new; the tasks are all of it.

    One whose pairs were others is begun anew, and what was compared before of these two models is removed. To be called
    within `lock.writing_store`. StoreError where one of the scans does not speak for its model any more.
    """
    check_both_speak(a, b, models)
    comparison = locate_of_two(COMPARISON, a, b, COMPARISON_LAYOUT)
    forget_others(comparison, COMPARISON, models)
    begun = BegunComparison(a.id, b.id, models, COMPARISON_LAYOUT, {}, *_sizes(tasks))
    begun_before = commits.read_begun_of_two(comparison, BegunComparison)
    if begun_before and replace(begun_before, files={}) == begun:
        commits.sweep(comparison)
        commits.sweep_damaged(comparison)
        _refresh(comparison, begun_before)
        return comparison
    commits.forget(comparison)
    write_root(comparison)
    building = comparison.arrays.with_name(f"{comparison.id}{PARTIAL}")
    stamps = commits.write_files(building, _first_files(begun))
    building.rename(comparison.arrays)
    commits.begin_of_two(comparison, replace(begun, files=stamps))  # last: now it exists
    return comparison


def _sizes(tasks: Sequence[Task]) -> tuple[int, int, str]:
    """How many weights and channels there are, and a hash of the pairs: what must be equal for it to be continued."""
    digest = xxhash.xxh3_128()
    for task in tasks:
        for pair, first in _places(task):
            at = [task.name, first, *((s.id, s.placed.tensor.dtype, s.shape, s.turned) for s in (pair.a, pair.b))]
            digest.update(repr(at).encode("utf-8", "surrogatepass"))
            for kept in (pair.rows, pair.cols):
                digest.update(b"-" if kept is None else np.ascontiguousarray(kept, np.int64).tobytes())
    channels = tasks[-1].first + tasks[-1].channels if tasks else 0
    weights = sum(len(task.pairs) for task in tasks)
    return weights, channels, digest.hexdigest()


def _places(task: Task) -> Iterator[tuple[Pair, int]]:
    """Each pair of a task with the place of its first channel."""
    first = task.first
    for pair in task.pairs:
        yield pair, first
        first += pair.channels


def _first_files(begun: BegunComparison) -> Mapping[str, bytes]:
    facts = {name: value for name, value in record_of(begun).items() if name != "files"}
    shape = (len(CHANNEL_FIGURES), begun.channels)
    figures = describe_array(("figure", "channel"), shape, "float64", chunk=(len(CHANNEL_FIGURES), CHUNK))
    words = label_axis("figure", CHANNEL_FIGURES)
    return {
        METADATA: describe_group(facts),
        **{f"figure/{name}": data for name, data in words.items()},
        f"figures/{METADATA}": figures,
    }


def _refresh(comparison: Scan, begun: BegunComparison) -> None:
    """Make anew what a disk has lost of the first files."""
    write_root(comparison)
    stale = [name for name, stamp in begun.files.items() if not commits.is_as_stamped(comparison.arrays / name, stamp)]
    files = _first_files(begun) if stale else {}
    for name in stale:
        commits.write_file(comparison.arrays / name, files[name])


def write_figures(comparison: Scan, task: Task, compared: Sequence[Compared]) -> None:
    """Write the channels of a finished task, then commit it."""
    figures_by_pair = _by_pair(task, compared)
    values = np.full((len(CHANNEL_FIGURES), -(-task.channels // CHUNK) * CHUNK), np.nan)
    verdicts = {}
    for (pair, first), (figures, failure) in zip(_places(task), figures_by_pair, strict=True):
        verdicts[pair.b.id] = _verdict(pair, first, figures, failure)
        if figures and figures.channels_out is not None:
            columns = _channels(pair, figures)
            values[:, first - task.first : first - task.first + columns.shape[1]] = columns
    files: dict[str, Stamp] = {}
    if values.size:
        array = Chunked.open(comparison.arrays / "figures")
        for start in range(0, values.shape[1], CHUNK):
            name = f"figures/{array.key((0, (task.first + start) // CHUNK))}"
            data = array.encode(values[:, start : start + CHUNK])
            files[name] = commits.write_file(comparison.arrays / name, data)
    commit_product(comparison, task.name, VALUES, verdicts, files, {})


def _by_pair(task: Task, compared: Sequence[Compared]) -> Iterator[tuple[Figures | None, str | None]]:
    """Of every pair what was found, or why nothing was."""
    for unit, of_unit in zip(task.units, compared, strict=True):
        for number in range(len(unit.pairs)):
            yield (None, of_unit.failure) if of_unit.failure else (of_unit.figures[number], None)


def _channels(pair: Pair, figures: Figures) -> np.ndarray:
    """CHANNEL_FIGURES (9, channels), rows before columns."""
    sides = [(pair.rows, figures.channels_out), (pair.cols, figures.channels_in)]
    made = [np.vstack([np.arange(of.shape[1]) if kept is None else kept, of]) for kept, of in sides if of is not None]
    return np.concatenate(made, axis=1)


def _verdict(pair: Pair, first: int, figures: Figures | None, failure: str | None) -> WeightVerdict:
    """What the tables need of a pair, whose first channel is stored there; places are those in model a."""
    place, matrix, own = pair.a.placed.place, pair.a.matrix, pair.b.matrix
    is_stacked = matrix is not None and pair.a.placed.is_stack
    status, reason = _status(pair, figures, failure)
    numbers = zip(FIGURES, map(_number, figures.total.tolist() if figures else []), strict=False)
    return WeightVerdict(
        weight_a=pair.a.id,
        component=place.component,
        layer=place.layer,
        role=matrix.role if matrix else place.role,
        expert=matrix.expert if matrix and is_stacked else place.expert,
        part=place.part,
        shape=pair.b.shape,
        values=pair.values,
        added=math.prod(pair.b.whole_shape) - pair.values,
        channels=(
            first,
            0 if pair.is_vector else pair.b.shape[0],
            pair.b.shape[1] if pair.channels and pair.has_columns else 0,
        ),
        of_expert=own is not None and own.expert is not None,
        status=status,
        reason=reason,
        **(dict(numbers) if status in SCANNED else {}),
    )


def _status(pair: Pair, figures: Figures | None, failure: str | None) -> tuple[str, str | None]:
    if failure or figures is None:
        return FAILED, failure
    if pair.refusal:
        return CODES, pair.refusal
    if pair.values and not figures.finite:
        return DEGENERATE, "there is no value that is finite in both"
    return OK, None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def write_changes(
    comparison: Scan, task: Task, changes: Sequence[Change | None], options: Mapping[str, object]
) -> None:
    """Commit the ranks of a task's changes; None stands for a pair that has none."""
    verdicts = {pair.b.id: _verdict_of(change) for pair, change in zip(task.pairs, changes, strict=True) if change}
    commit_product(comparison, task.name, RANKS, verdicts, {}, options)


def _verdict_of(change: Change) -> RankVerdict:
    if change.failure:
        return RankVerdict(FAILED, change.failure)
    return RankVerdict(OK, None, change.rank, *map(_number, (change.stable_rank, change.sigma_max, change.edge)))


def read_channel_figures(comparison: Scan, region: tuple[slice, slice]) -> np.ndarray:
    """A region of the figures (9, channels)."""
    place = comparison.arrays / "figures"
    return Chunked.open(place).read(place, region)
