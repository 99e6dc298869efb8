"""MATCH, its alignment: which channels a pruned matrix kept, where fingerprints alone do not tell.

In this order: from the fingerprints of the original's weights over what is known to be left of the other axis; from
another matrix of the module, whose channels are the same ones (rows of gate_proj and up_proj, columns of down_proj);
from statistics of the channels, in their order, which pruning keeps. The last is approximate, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from shardscan.answers.connection import Connection, fetch_rows
from shardscan.catalog.sqlfiles import job_sql
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
MOST_CELLS = 1 << 28  # of one alignment: seconds, and as many bits
# Of the squared distance of the same channels turned round, in their best order, or of one in so many, the lesser: 1 of
# weights that have nothing in common; 0.2 to 0.4 where weights were altered by 0.3 of their standard deviation, and
# over 90 % are still found.
CLEAR = 0.5


def _alignment(axis: Axis, channels: np.ndarray, method: str, reason: str | None = None) -> Alignment:
    return Alignment(axis.weight_a, axis.weight_b, axis.axis, channels, method, reason)


def is_settled(alignment: Alignment) -> bool:
    """Whether the original's checkpoint can tell no more of it."""
    return alignment.method != STATISTICS or alignment.reason is not None


def align_by_fingerprints(
    connection: Connection,
    model: str,
    axes: Sequence[Axis],
    restricted: Mapping[Key, np.ndarray],
) -> Iterator[Alignment]:
    """The axes of which all channels of b are among a's `restricted` fingerprints; equal ones k-th copy to k-th."""
    for axis in axes:
        of_a = restricted.get(axis.key)
        if of_a is None:
            continue
        (column,) = _read_channels(connection, "channel_fingerprints", model, axis.weight_b, axis.axis)
        channels = match_fingerprints(of_a, column.astype(np.uint64))
        if len(channels) == axis.n_b and (channels >= 0).all():
            yield _alignment(axis, channels, RESTRICTED)


def match_fingerprints(of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
    """For every fingerprint of b the index of an equal one of a, k-th copy to k-th; −1 where there is none."""
    places: dict[int, list[int]] = {}
    for index, fingerprint in enumerate(of_a.tolist()):
        places.setdefault(fingerprint, []).append(index)
    copies = {fingerprint: iter(indices) for fingerprint, indices in places.items()}
    return np.array([next(copies.get(fingerprint, iter(())), -1) for fingerprint in of_b.tolist()], np.int64)


def align_by_module(
    wanted: Sequence[Axis], every: Sequence[Axis], known: Mapping[Key, np.ndarray]
) -> Iterator[Alignment]:
    """The wanted axes whose channels are those of another matrix of their module, which are `known` by its key."""
    keys = {axis.key for axis in wanted}
    for module in _group_by_cut(every):
        guide = next((axis for axis in module if axis.key in known), None)
        for axis in module:
            if guide and axis.key in keys and axis.key not in known:
                yield _alignment(axis, known[guide.key], f"as {guide.role}")


def align_by_statistics(connection: Connection, a: str, b: str, axes: Sequence[Axis]) -> Iterator[Alignment]:
    """All of these axes, those of one module together."""
    for module in _group_by_cut(axes):
        features = _read_features_of_both(connection, a, b, module)
        if features is None:
            continue  # the catalog has no channels of them, and may have some day
        first = module[0]
        unit = _cut_together(first)
        is_short = (first.n_b // unit) * ((first.n_a - first.n_b) // unit + 1) <= MOST_CELLS
        channels = align_features(*features, unit) if is_short else None
        for axis in module:
            if channels is not None:
                yield _alignment(axis, channels, STATISTICS)
            else:
                yield _alignment(axis, np.full(axis.n_b, -1), STATISTICS, UNCLEAR if is_short else TOO_LONG)


def _group_by_cut(axes: Sequence[Axis]) -> list[list[Axis]]:
    """The axes in groups that one cut goes through; most are alone."""
    groups: dict[tuple[object, ...], list[Axis]] = {}
    for axis in axes:
        module = next((i for i, roles in enumerate(CUT_TOGETHER) if (axis.role, axis.axis) in roles), None)
        where = axis.key if module is None else (axis.component, axis.layer, axis.expert, module, axis.n_a, axis.n_b)
        groups.setdefault(where, []).append(axis)
    return list(groups.values())


def _cut_together(axis: Axis) -> int:
    """How many channels were kept or dropped together: a head's, where both lengths are whole heads."""
    dim = axis.head_dim
    return dim if dim and axis.n_a % dim == 0 and axis.n_b % dim == 0 else 1


def _read_features_of_both(
    connection: Connection, a: str, b: str, axes: Sequence[Axis]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The statistics of all of these axes in a and in b, side by side; None where the catalog has none."""
    of_a = [_read_features(connection, a, axis.weight_a, axis.axis) for axis in axes]
    of_b = [_read_features(connection, b, axis.weight_b, axis.axis) for axis in axes]
    if any(len(x) != axis.n_a or len(y) != axis.n_b for x, y, axis in zip(of_a, of_b, axes, strict=True)):
        return None
    return np.hstack(of_a), np.hstack(of_b)


def align_features(a: np.ndarray, b: np.ndarray, unit: int = 1) -> np.ndarray | None:
    """Which of the rows of features a (n, k) those of b (m, k) are, ascending, `unit` of them together.

    Features are measured by their standard deviation in a. None where no order is clearly better than others.
    """
    from shardscan.reduce.kernels.cpu.alignment import monotone_alignment

    spread = a.std(axis=0)
    scale = np.where(spread > 0, spread, 1)
    units_a, units_b, turned = ((side / scale).reshape(len(side) // unit, -1) for side in (a, b, b[::-1]))
    order, distances = monotone_alignment(units_a, units_b)
    spread_out = units_a[np.round(np.linspace(0, len(units_a) - 1, len(units_b))).astype(np.int64)]
    chance = min(monotone_alignment(units_a, turned)[1].sum(), np.sum((spread_out - units_b) ** 2))
    if not distances.sum() < CLEAR * chance:
        return None  # equal channels tell nothing either
    return np.asarray((order[:, None] * unit + np.arange(unit)).ravel())


def _read_features(connection: Connection, model: str, matrix: str, axis: str) -> np.ndarray:
    """Statistics of channels (n, 6) float64; 0 for what a constant channel has not."""
    features = np.stack(_read_channels(connection, "channel_statistics", model, matrix, axis), axis=1)
    return np.asarray(np.nan_to_num(features))


def _read_channels(connection: Connection, name: str, model: str, matrix: str, axis: str) -> list[np.ndarray]:
    """The columns (n,) of a query of the channels of one axis."""
    values = {"model": model, "matrix": matrix, "axis": axis}
    return [column.to_numpy() for column in fetch_rows(connection, job_sql("comparison", name), values).columns]
