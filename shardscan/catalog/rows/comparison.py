"""CATALOG, its rows of comparisons: one row for each pair, for each of its channels, and for each channel aligned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from shardscan.catalog.comparisons import Aligned, Comparison, describe_status, list_with_channels
from shardscan.catalog.rows.columns import Rows, repeat_values, statistics_column
from shardscan.reduce.comparison import FIGURES
from shardscan.store.alignments import Alignment
from shardscan.store.comparison import CHANGES, CHANNEL_FIGURES, read_channel_figures
from shardscan.store.records import FAILED, RankVerdict, WeightVerdict

PLACE = {
    "component": pa.string(), "layer": pa.int32(), "role": pa.string(), "expert": pa.int32(), "part": pa.string(),
}  # fmt: skip
AT_ONCE = 1 << 18  # channels in one piece of rows; a weight is not cut

NamedVerdict = tuple[str, WeightVerdict]  # by the weight of b


def comparison_rows(comparison: Comparison) -> Iterator[Rows]:
    """Every row of one comparison, table by table; ValueError where it is damaged."""
    if comparison.is_damaged:
        raise ValueError("a record is not what was once written")
    yield _diff(comparison)
    weights = iter(comparison.verdicts.items())
    changes = comparison.changes
    while batch := list(islice(weights, 10_000)):
        yield _tensor_diffs(comparison, batch, changes)
    for piece in _cut_pieces(list_with_channels(comparison)):
        yield _channel_diffs(comparison, piece)


def alignment_rows(aligned: Aligned) -> Iterator[Rows]:
    """Every row of the alignments of two scans; ValueError where they are damaged."""
    if aligned.alignments is None:
        raise ValueError("the alignments are not what was once kept")
    for alignment in aligned.alignments:
        yield _alignment(aligned, alignment)


def _diff(comparison: Comparison) -> Rows:
    verdicts = comparison.verdicts.values()
    return "diffs", pa.table({
        **_models(comparison, 1),
        "comparison": [comparison.scan.id],
        "weights": [comparison.facts.weights],
        "compared": [sum(verdict.status != FAILED for verdict in verdicts)],
        "failed": [comparison.failed],
        "ranked": [sum(verdict.status != FAILED for verdict in comparison.changes.values())],
        "channels": [comparison.kept],
        "state": [comparison.state],
    })  # fmt: skip


def _models(source: Comparison | Aligned, n: int) -> dict[str, pa.Array]:
    a, b = source.models
    return {"model_a": repeat_values([a], [n]), "model_b": repeat_values([b], [n])}


def _tensor_diffs(comparison: Comparison, batch: Sequence[NamedVerdict], changes: Mapping[str, RankVerdict]) -> Rows:
    verdicts = [verdict for _, verdict in batch]
    of_changes = [changes.get(name) for name, _ in batch]
    statuses = [describe_status(v, changes.get(name)) for name, v in batch]
    columns: dict[str, Any] = {
        **_models(comparison, len(batch)),
        "weight_a": pa.array([v.weight_a for v in verdicts], pa.string()),
        "weight_b": pa.array([name for name, _ in batch], pa.string()),
        **{name: pa.array([getattr(v, name) for v in verdicts], kind) for name, kind in PLACE.items()},
        "status": pa.array([word for word, _ in statuses], pa.string()),
        "reason": pa.array([reason for _, reason in statuses], pa.string()),
        "values": pa.array([v.values for v in verdicts], pa.int64()),
        "added": pa.array([v.added for v in verdicts], pa.int64()),
        **{name: statistics_column(_floats([getattr(v, name) for v in verdicts]), name) for name in FIGURES},
        **{
            name: statistics_column(_floats([getattr(change, name, None) for change in of_changes]), name)
            for name in CHANGES
        },
    }
    return "tensor_diffs", pa.table(columns)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def _cut_pieces(weights: Iterator[NamedVerdict]) -> Iterator[list[NamedVerdict]]:
    """Neighbours in the store, from the first to the last of which there are about so many channels."""
    piece: list[NamedVerdict] = []
    for weight in weights:
        if piece and sum(weight[1].channels) - piece[0][1].channels[0] > AT_ONCE:
            yield piece
            piece = []
        piece.append(weight)
    if piece:
        yield piece


def _channel_diffs(comparison: Comparison, piece: Sequence[NamedVerdict]) -> Rows:
    first = piece[0][1].channels[0]
    last = sum(piece[-1][1].channels)
    values = read_channel_figures(comparison.scan, (slice(None), slice(first, last)))
    sides = [
        (name, v, side, *_locate_channels(v, side))
        for name, v in piece
        for side in ("out", "in")
        if _locate_channels(v, side)[1]
    ]
    joined = np.concatenate([values[:, at - first : at - first + n] for *_, at, n in sides], axis=1)
    lengths = [n for *_, n in sides]

    def repeat_for_channels(of_sides: Sequence[Any], kind: pa.DataType | None = None) -> pa.Array:
        return repeat_values(of_sides, lengths, kind)

    return "channel_diffs", pa.table({
        **_models(comparison, sum(lengths)),
        "weight_a": repeat_for_channels([v.weight_a for _, v, *_ in sides]),
        "weight_b": repeat_for_channels([name for name, *_ in sides]),
        "axis": repeat_for_channels([side for _, _, side, *_ in sides]),
        "channel_a": joined[0].astype(np.int32),
        "channel_b": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        "layer": repeat_for_channels([v.layer for _, v, *_ in sides], pa.int32()),
        "role": repeat_for_channels([v.role for _, v, *_ in sides]),
        "values": repeat_for_channels([v.shape[1 if side == "out" else 0] for _, v, side, *_ in sides], pa.int64()),
        **{name: statistics_column(joined[i], name) for i, name in enumerate(CHANNEL_FIGURES) if i},
    })  # fmt: skip


def _locate_channels(verdict: WeightVerdict, side: str) -> tuple[int, int]:
    """Where the channels of one side are stored, and how many there are."""
    first, rows, cols = verdict.channels
    return (first, rows) if side == "out" else (first + rows, cols)


def _alignment(aligned: Aligned, alignment: Alignment) -> Rows:
    n = len(alignment.channels_a)
    return "alignments", pa.table({
        **_models(aligned, n),
        "weight_a": repeat_values([alignment.weight_a], [n]),
        "weight_b": repeat_values([alignment.weight_b], [n]),
        "axis": repeat_values([alignment.axis], [n]),
        "channel_a": pa.array(alignment.channels_a.astype(np.int32), mask=alignment.channels_a < 0),
        "channel_b": np.arange(n, dtype=np.int32),
        "method": repeat_values([alignment.method], [n]),
        "reason": repeat_values([alignment.reason], [n]),
    })  # fmt: skip
