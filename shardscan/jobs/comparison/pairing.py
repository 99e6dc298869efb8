"""MATCH, its pairs: what of two checkpoints is compared value by value, by what the catalog tells of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from shardscan.anatomy.places import Anatomy
from shardscan.answers import connection as ask
from shardscan.jobs.comparison.axes import Axis, Key
from shardscan.jobs.comparison.subjects import Subjects
from shardscan.plan.comparison import Pair, Side

WEIGHTS = """
    SELECT weight_a, weight_b FROM weight_pairs($a, $b)
    WHERE weight_a IS NOT NULL AND weight_b IS NOT NULL
    ORDER BY component, layer, role, expert, part, weight_b
"""


def weights(anatomy: Anatomy) -> dict[str, Side]:
    """Every weight of a checkpoint by its id: matrices, and tensors that hold none."""
    sides = (Side(placed, matrix) for placed in anatomy.placed for matrix in placed.matrices or (None,))
    return {side.id: side for side in sides}


def pairs_of(folder: Path, both: Subjects, axes: Sequence[Axis]) -> tuple[list[Pair], dict[str, str]]:
    """Every weight that both models have, with the channels of a that are left; why which of b cannot be compared."""
    assert both[0].prepared and both[1].prepared
    with ask.connect(folder) as connection:
        rows = ask.read(connection, WEIGHTS, {"a": both[0].model, "b": both[1].model}).to_pylist()
    of_a, of_b = weights(both[0].prepared.anatomy), weights(both[1].prepared.anatomy)
    by_key = {axis.key: axis for axis in axes}
    beside = _beside(of_b, axes)
    found, left = [], {}
    for a, b in ((of_a[row["weight_a"]], of_b[row["weight_b"]]) for row in rows):
        if (a.matrix is None) != (b.matrix is None):
            left[b.id] = "it is a matrix in one model only"
        else:
            pair = _of_vectors(a, b, beside, axes) if b.matrix is None else _of_matrices(a, b, by_key)
            if isinstance(pair, Pair):
                found.append(pair)
            else:
                left[b.id] = pair
    return found, left


def _beside(weights: Mapping[str, Side], axes: Sequence[Axis]) -> dict[str, list[Axis]]:
    """The rows of the matrices of each module, by its name: a bias is cut with them."""
    found: dict[str, list[Axis]] = defaultdict(list)
    for axis in axes:
        if axis.axis == "out":
            found[_module(weights[axis.weight_b])].append(axis)
    return found


def _module(side: Side) -> str:
    return side.placed.canonical_name.rpartition(".")[0]


def _of_matrices(a: Side, b: Side, axes: Mapping[Key, Axis]) -> Pair | str:
    kept = {}
    for what, axis in (("rows", axes[b.id, "out"]), ("columns", axes[b.id, "in"])):
        if not axis.is_known:
            return f"nobody knows which {what} of {a.id} are left"
        if axis.channels is not None and (new := int((axis.channels < 0).sum())):
            return f"{new:,} of its {axis.n_b:,} {what} are none of {a.id}"
        kept[what] = axis.channels
    return Pair(a, b, kept["rows"], kept["columns"])


def _of_vectors(a: Side, b: Side, beside: Mapping[str, Sequence[Axis]], axes: Sequence[Axis]) -> Pair | str:
    """A bias goes with the rows of its module's one matrix, a norm with the hidden dimensions of its component."""
    place, rows = b.placed.place, beside.get(_module(b), ())
    hidden = [axis for axis in axes if axis.has_hidden and axis.component == place.component]
    followed = list(rows) if place.part != "weight" or rows else sorted(hidden, key=lambda axis: axis.role)
    for axis in followed if len(rows) < 2 and len(b.placed.tensor.shape) == 1 else ():
        if (axis.n_a, axis.n_b) != (a.shape[1], b.shape[1]):
            continue
        if axis.is_known and axis.channels is not None and (axis.channels >= 0).all():
            return Pair(a, b, None, axis.channels)
    if a.placed.tensor.shape == b.placed.tensor.shape:
        return Pair(a, b)
    return f"nobody knows which values of {a.id} are left"
