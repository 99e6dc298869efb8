"""CATALOG, its rows of comparisons: one row for each pair, for each of its channels, and for each channel aligned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from shardscan.catalog.comparisons import Aligned, Comparison, describe_status, with_channels
from shardscan.catalog.rows.columns import Rows, repeat_values, statistics_column
from shardscan.reduce.comparison import FIGURES
from shardscan.store.alignments import Alignment
from shardscan.store.comparison import CHANGES, CHANNEL_FIGURES, read_channel_figures
from shardscan.store.records import FAILED, RankVerdict, WeightVerdict

PLACE = {
    "component": pa.string(), "layer": pa.int32(), "role": pa.string(), "expert": pa.int32(), "part": pa.string(),
}  # fmt: skip
AT_ONCE = 1 << 18  # channels in one piece of rows; a weight is not cut

Found = tuple[str, WeightVerdict]


def comparison_rows(held: Comparison) -> Iterator[Rows]:
    """Every row of one comparison, table by table; ValueError where it is damaged."""
    if held.is_damaged:
        raise ValueError("a record is not what was once written")
    yield _diff(held)
    weights = iter(held.verdicts.items())
    changes = held.changes
    while some := list(islice(weights, 10_000)):
        yield _tensor_diffs(held, some, changes)
    for piece in _pieces(with_channels(held)):
        yield _channel_diffs(held, piece)


def alignment_rows(held: Aligned) -> Iterator[Rows]:
    """Every row of the alignments of two scans; ValueError where they are damaged."""
    if held.found is None:
        raise ValueError("the alignments are not what was once kept")
    for alignment in held.found:
        yield _alignment(held, alignment)


def _diff(held: Comparison) -> Rows:
    found = held.verdicts.values()
    return "diffs", pa.table({
        **_models(held, 1),
        "comparison": [held.scan.id],
        "weights": [held.facts.weights],
        "compared": [sum(verdict.status != FAILED for verdict in found)],
        "failed": [held.failed],
        "ranked": [sum(verdict.status != FAILED for verdict in held.changes.values())],
        "channels": [held.kept],
        "state": [held.state],
    })  # fmt: skip


def _models(held: Comparison | Aligned, n: int) -> dict[str, pa.Array]:
    a, b = held.models
    return {"model_a": repeat_values([a], [n]), "model_b": repeat_values([b], [n])}


def _tensor_diffs(held: Comparison, some: Sequence[Found], changes: Mapping[str, RankVerdict]) -> Rows:
    verdicts = [verdict for _, verdict in some]
    of_changes = [changes.get(name) for name, _ in some]
    told = [describe_status(v, changes.get(name)) for name, v in some]
    columns: dict[str, Any] = {
        **_models(held, len(some)),
        "weight_a": pa.array([v.weight_a for v in verdicts], pa.string()),
        "weight_b": pa.array([name for name, _ in some], pa.string()),
        **{name: pa.array([getattr(v, name) for v in verdicts], kind) for name, kind in PLACE.items()},
        "status": pa.array([word for word, _ in told], pa.string()),
        "reason": pa.array([reason for _, reason in told], pa.string()),
        "values": pa.array([v.values for v in verdicts], pa.int64()),
        **{name: statistics_column(_floats([getattr(v, name) for v in verdicts]), name) for name in FIGURES},
        **{
            name: statistics_column(_floats([getattr(change, name, None) for change in of_changes]), name)
            for name in CHANGES
        },
    }
    return "tensor_diffs", pa.table(columns)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def _pieces(found: Iterator[Found]) -> Iterator[list[Found]]:
    """Neighbours in the store, from the first to the last of which there are about so many channels."""
    piece: list[Found] = []
    for one in found:
        if piece and sum(one[1].channels) - piece[0][1].channels[0] > AT_ONCE:
            yield piece
            piece = []
        piece.append(one)
    if piece:
        yield piece


def _channel_diffs(held: Comparison, piece: Sequence[Found]) -> Rows:
    first = piece[0][1].channels[0]
    last = sum(piece[-1][1].channels)
    values = read_channel_figures(held.scan, (slice(None), slice(first, last)))
    sides = [(name, v, side, *_place(v, side)) for name, v in piece for side in ("out", "in") if _place(v, side)[1]]
    joined = np.concatenate([values[:, at - first : at - first + n] for *_, at, n in sides], axis=1)
    lengths = [n for *_, n in sides]

    def each(of: Sequence[Any], kind: pa.DataType | None = None) -> pa.Array:
        return repeat_values(of, lengths, kind)

    return "channel_diffs", pa.table({
        **_models(held, sum(lengths)),
        "weight_a": each([v.weight_a for _, v, *_ in sides]),
        "weight_b": each([name for name, *_ in sides]),
        "axis": each([side for _, _, side, *_ in sides]),
        "channel_a": joined[0].astype(np.int32),
        "channel_b": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        "layer": each([v.layer for _, v, *_ in sides], pa.int32()),
        "role": each([v.role for _, v, *_ in sides]),
        "values": each([v.shape[1 if side == "out" else 0] for _, v, side, *_ in sides], pa.int64()),
        **{name: statistics_column(joined[i], name) for i, name in enumerate(CHANNEL_FIGURES) if i},
    })  # fmt: skip


def _place(verdict: WeightVerdict, side: str) -> tuple[int, int]:
    """Where the channels of one side are stored, and how many there are."""
    first, rows, cols = verdict.channels
    return (first, rows) if side == "out" else (first + rows, cols)


def _alignment(held: Aligned, one: Alignment) -> Rows:
    n = len(one.channels_a)
    return "alignments", pa.table({
        **_models(held, n),
        "weight_a": repeat_values([one.weight_a], [n]),
        "weight_b": repeat_values([one.weight_b], [n]),
        "axis": repeat_values([one.axis], [n]),
        "channel_a": pa.array(one.channels_a.astype(np.int32), mask=one.channels_a < 0),
        "channel_b": np.arange(n, dtype=np.int32),
        "method": repeat_values([one.method], [n]),
        "reason": repeat_values([one.reason], [n]),
    })  # fmt: skip
