"""MATCH, its pairs: what of two checkpoints is compared value by value, by what the catalog tells of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from shardscan.anatomy.places import Anatomy
from shardscan.answers.connection import connect, fetch_rows
from shardscan.catalog.sqlfiles import job_sql
from shardscan.jobs.comparison.axes import Axis, Key
from shardscan.jobs.comparison.subjects import Subjects
from shardscan.plan.comparison import Pair, Side


def sides_by_id(anatomy: Anatomy) -> dict[str, Side]:
    """Every weight of a checkpoint by its id: matrices, and tensors that hold none."""
    sides = (Side(placed, matrix) for placed in anatomy.placed for matrix in placed.matrices or (None,))
    return {side.id: side for side in sides}


def pair_weights(folder: Path, both: Subjects, axes: Sequence[Axis]) -> tuple[list[Pair], dict[str, str]]:
    """Every weight that both models have, with the channels of a that are left; why which of b cannot be compared."""
    assert both[0].prepared and both[1].prepared
    names = {"a": both[0].model, "b": both[1].model}
    with connect(folder) as connection:
        rows = fetch_rows(connection, job_sql("comparison", "weights"), names).to_pylist()
    sides_a, sides_b = sides_by_id(both[0].prepared.anatomy), sides_by_id(both[1].prepared.anatomy)
    by_key = {axis.key: axis for axis in axes}
    by_module = _rows_by_module(sides_b, axes)
    pairs, left = [], {}
    for a, b in ((sides_a[row["weight_a"]], sides_b[row["weight_b"]]) for row in rows):
        pair = _pair(a, b, by_key, by_module)
        if isinstance(pair, Pair):
            pairs.append(pair)
        else:
            left[b.id] = pair
    return pairs, left


def _rows_by_module(sides: Mapping[str, Side], axes: Sequence[Axis]) -> dict[str, list[Axis]]:
    """The rows of the matrices of each module, by its name: a bias is cut with them."""
    rows: dict[str, list[Axis]] = defaultdict(list)
    for axis in axes:
        if axis.axis == "out":
            rows[_module_of(sides[axis.weight_b])].append(axis)
    return rows


def _module_of(side: Side) -> str:
    return side.placed.canonical_name.rpartition(".")[0]


def _pair(a: Side, b: Side, axes: Mapping[Key, Axis], by_module: Mapping[str, Sequence[Axis]]) -> Pair | str:
    """Two sides with the channels of a that are left, or why they cannot be compared."""
    if a.matrix is None and b.matrix is None:
        return _pair_vectors(a, b, axes, by_module)
    if a.matrix is None or b.matrix is None:
        return "it is a matrix in one model only"
    rows, columns = axes[b.id, "out"], axes[b.id, "in"]
    reason = _why_unknown(rows, "rows", a) or _why_unknown(columns, "columns", a)
    if reason:
        return reason
    shared = b.first(rows=_shared(rows), cols=_shared(columns))
    return Pair(a, shared, _channels(rows), _channels(columns))


def _why_unknown(axis: Axis, what: str, a: Side) -> str | None:
    """Why it is not known which channels of an axis both have; None where it is: all, or all before the new ones."""
    if not axis.is_known:
        return f"nobody knows which {what} of {a.id} are left"
    if axis.channels is not None and (axis.channels[: _shared(axis)] < 0).any():
        return f"{int((axis.channels < 0).sum()):,} of its {axis.n_b:,} {what} are none of {a.id}, and not its last"
    return None


def _shared(axis: Axis) -> int:
    """How many channels b has before the first of those at its end that are none of a's."""
    if axis.channels is None:
        return axis.n_b
    ours = np.flatnonzero(axis.channels >= 0)
    return int(ours[-1]) + 1 if len(ours) else 0


def _channels(axis: Axis) -> np.ndarray | None:
    """Which of a's those are; None where they are all of a's, in order."""
    if axis.channels is None:
        return None
    channels = axis.channels[: _shared(axis)]
    return None if len(channels) == axis.n_a and (channels == np.arange(axis.n_a)).all() else channels


def _pair_vectors(a: Side, b: Side, axes: Mapping[Key, Axis], by_module: Mapping[str, Sequence[Axis]]) -> Pair | str:
    """A bias goes with the rows of its module's one matrix, a norm with the hidden dimensions of its component."""
    place, rows = b.placed.place, by_module.get(_module_of(b), ())
    hidden = [axis for axis in axes.values() if axis.has_hidden and axis.component == place.component]
    guides = list(rows) if place.part != "weight" or rows else sorted(hidden, key=lambda axis: axis.role)
    for axis in guides if len(rows) < 2 and len(b.placed.tensor.shape) == 1 else ():
        if (axis.n_a, axis.n_b) != (a.shape[1], b.shape[1]):
            continue
        if not _why_unknown(axis, "values", a):
            return Pair(a, b.first(cols=_shared(axis)), None, _channels(axis))
    if a.placed.tensor.shape == b.placed.tensor.shape:
        return Pair(a, b)
    return f"nobody knows which values of {a.id} are left"
