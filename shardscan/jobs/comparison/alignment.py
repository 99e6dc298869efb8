"""MATCH, its alignment: which channels a pruned matrix kept, where fingerprints alone do not tell.

In this order: from the fingerprints of the original's weights over what is known to be left of the other axis; from
another matrix of the module, whose channels are the same ones (rows of gate_proj and up_proj, columns of down_proj);
from statistics of the channels, in their order, which pruning keeps. The last is approximate, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from shardscan.answers.connection import Connection, read
from shardscan.jobs.comparison.axes import Axis, Key
from shardscan.store.alignments import Alignment

RESTRICTED, STATISTICS = "restricted fingerprint", "statistics (approximate)"
TRIED = "no channel of the original, over what is left of the other axis, is in it as it was"
UNCLEAR = "the channels were altered so much that no order of them is clearly better than others"
TOO_LONG = "the axis is too long to be aligned by statistics"
# what one cut through a module takes from each of its matrices
CUT_TOGETHER = (
    (("gate_proj", "out"), ("up_proj", "out"), ("down_proj", "in")),
    (("q_proj", "out"), ("o_proj", "in")),
    (("k_proj", "out"), ("v_proj", "out")),
)
STATISTICS_OF = """
    SELECT mean, std, min, max, mean_abs, kurtosis FROM channels
    WHERE model = $model AND matrix = $matrix AND axis = $axis ORDER BY channel
"""
FINGERPRINTS = """
    SELECT fingerprint FROM channels WHERE model = $model AND matrix = $matrix AND axis = $axis ORDER BY channel
"""
MOST_CELLS = 1 << 28  # of one alignment: seconds, and as many bits
# Of the squared distance of the same channels turned round, in their best order, or of one in so many, the lesser: 1 of
# weights that have nothing in common; 0.2 to 0.4 where weights were altered by 0.3 of their standard deviation, and
# over 90 % are still found.
CLEAR = 0.5


def _of(axis: Axis, channels: np.ndarray, method: str, reason: str | None = None) -> Alignment:
    return Alignment(axis.weight_a, axis.weight_b, axis.axis, channels, method, reason)


def is_settled(one: Alignment) -> bool:
    """Whether the original's checkpoint can tell no more of it."""
    return one.method != STATISTICS or one.reason is not None


def found_again(
    connection: Connection,
    model: str,
    axes: Sequence[Axis],
    restricted: Mapping[Key, np.ndarray],
) -> Iterator[Alignment]:
    """The axes of which all channels of b are among a's `restricted` fingerprints; equal ones k-th copy to k-th."""
    for axis in axes:
        theirs = restricted.get(axis.key)
        if theirs is None:
            continue
        ours = _column(connection, FINGERPRINTS, model, axis.weight_b, axis.axis)[0].astype(np.uint64)
        channels = matched(theirs, ours)
        if len(ours) == axis.n_b and (channels >= 0).all():
            yield _of(axis, channels, RESTRICTED)


def matched(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """For each of `ours` the index of an equal one of `theirs`, k-th copy to k-th; −1 where there is none."""
    places: dict[int, list[int]] = {}
    for index, value in enumerate(theirs.tolist()):
        places.setdefault(value, []).append(index)
    copies = {value: iter(indices) for value, indices in places.items()}
    return np.array([next(copies.get(value, iter(())), -1) for value in ours.tolist()], np.int64)


def by_module(axes: Sequence[Axis], every: Sequence[Axis], told: Mapping[Key, np.ndarray]) -> Iterator[Alignment]:
    """Those of `axes` whose channels are another matrix's in their module, of which `told` has them, by key."""
    wanted = {axis.key for axis in axes}
    for some in _modules(every):
        known = next((axis for axis in some if axis.key in told), None)
        for axis in some:
            if known and axis.key in wanted and axis.key not in told:
                yield _of(axis, told[known.key], f"as {known.role}")


def by_statistics(connection: Connection, a: str, b: str, axes: Sequence[Axis]) -> Iterator[Alignment]:
    """All of these axes, those of one module together."""
    for some in _modules(axes):
        first = some[0]
        unit = _unit(first)
        cells = (first.n_b // unit) * ((first.n_a - first.n_b) // unit + 1)
        features = _features_of(connection, a, b, some)
        if features is None:
            continue  # the catalog has no channels of them, and may have some day
        found, reason = None, TOO_LONG
        if cells <= MOST_CELLS:
            found, reason = aligned(*features, unit), UNCLEAR
        for axis in some:
            channels, why = (np.full(axis.n_b, -1), reason) if found is None else (found, None)
            yield _of(axis, channels, STATISTICS, why)


def _modules(axes: Sequence[Axis]) -> list[list[Axis]]:
    """The axes in groups that one cut goes through; most are alone."""
    groups: dict[tuple[object, ...], list[Axis]] = {}
    for axis in axes:
        module = next((i for i, roles in enumerate(CUT_TOGETHER) if (axis.role, axis.axis) in roles), None)
        where = axis.key if module is None else (axis.component, axis.layer, axis.expert, module, axis.n_a, axis.n_b)
        groups.setdefault(where, []).append(axis)
    return list(groups.values())


def _unit(axis: Axis) -> int:
    """How many channels were kept or dropped together: a head's, where both lengths are whole heads."""
    dim = axis.head_dim
    return dim if dim and axis.n_a % dim == 0 and axis.n_b % dim == 0 else 1


def _features_of(connection: Connection, a: str, b: str, axes: Sequence[Axis]) -> tuple[np.ndarray, np.ndarray] | None:
    """The statistics of all of these axes in a and in b, side by side; None where the catalog has none."""
    theirs = [_features(connection, a, axis.weight_a, axis.axis) for axis in axes]
    ours = [_features(connection, b, axis.weight_b, axis.axis) for axis in axes]
    if any(len(f) != axis.n_a or len(g) != axis.n_b for f, g, axis in zip(theirs, ours, axes, strict=True)):
        return None
    return np.hstack(theirs), np.hstack(ours)


def aligned(a: np.ndarray, b: np.ndarray, unit: int = 1) -> np.ndarray | None:
    """Which of the rows of features a (n, k) those of b (m, k) are, ascending, `unit` of them together.

    Features are measured by their standard deviation in a. None where no order is clearly better than others.
    """
    from shardscan.reduce.kernels.cpu.alignment import monotone_alignment

    spread = a.std(axis=0)
    scale = np.where(spread > 0, spread, 1)
    theirs, ours, turned = ((side / scale).reshape(len(side) // unit, -1) for side in (a, b, b[::-1]))
    found, distances = monotone_alignment(theirs, ours)
    spread_out = theirs[np.round(np.linspace(0, len(theirs) - 1, len(ours))).astype(np.int64)]
    chance = min(monotone_alignment(theirs, turned)[1].sum(), np.sum((spread_out - ours) ** 2))
    if not distances.sum() < CLEAR * chance:
        return None  # equal channels tell nothing either
    return np.asarray((found[:, None] * unit + np.arange(unit)).ravel())


def _features(connection: Connection, model: str, matrix: str, axis: str) -> np.ndarray:
    """Statistics of channels (n, 6) float64; 0 for what a constant channel has not."""
    features = np.stack(_column(connection, STATISTICS_OF, model, matrix, axis), axis=1)
    return np.asarray(np.nan_to_num(features))


def _column(connection: Connection, sql: str, model: str, matrix: str, axis: str) -> list[np.ndarray]:
    found = read(connection, sql, {"model": model, "matrix": matrix, "axis": axis})
    return [column.to_numpy() for column in found.columns]
