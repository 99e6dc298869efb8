"""MATCH, its axes: what the catalog knows of the rows and columns of two models' matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from shardscan.answers.connection import Connection, fetch_rows
from shardscan.catalog.sqlfiles import job_sql

APPROXIMATE = "(approximate)"  # how the names of methods end that go by statistics

Key = tuple[str, str]  # of an axis: the weight of b, and which of its two it is


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """The rows ('out') or columns ('in') of a pair of matrices, n_a and n_b of them.

    `channels` says which of a's each of b's is, int64 (n_b,), −1 for one that is none of a's; None where they are the
    same ones, and where `is_known` is not set. `head_dim` is how many a head has, on the axis that heads divide.
    """

    component: str
    layer: int | None
    role: str
    expert: int | None
    weight_a: str
    weight_b: str
    axis: str
    n_a: int
    n_b: int
    head_dim: int | None
    method: str | None
    is_known: bool
    channels: np.ndarray | None

    @property
    def is_exact(self) -> bool:
        """Whether it is known, and not by statistics."""
        return self.is_known and APPROXIMATE not in (self.method or "")

    @property
    def is_of_a(self) -> bool:
        """Whether all of its channels are a's."""
        return self.channels is None or bool((self.channels >= 0).all())

    @property
    def has_hidden(self) -> bool:
        """Whether its channels are the hidden dimensions, which other matrices follow."""
        return self.axis == "in" and self.role in ("embed_tokens", "lm_head")

    @property
    def key(self) -> Key:
        return self.weight_b, self.axis

    @property
    def key_across(self) -> Key:
        """The key of the other axis of the same pair."""
        return self.weight_b, "in" if self.axis == "out" else "out"


def read_axes(connection: Connection, a: str, b: str) -> list[Axis]:
    """Both axes of every matrix that a and b have, with what `surviving_axes` tells of them."""
    table = fetch_rows(connection, job_sql("comparison", "axes"), {"a": a, "b": b})
    channels = table["channels"]
    rows = table.drop_columns("channels").to_pylist()
    return [Axis(**row, channels=_as_numbers(channels[i]) if row["is_known"] else None) for i, row in enumerate(rows)]


def _as_numbers(channels: Any) -> np.ndarray | None:
    """A cell of the column `channels` as `Axis` has it."""
    return np.asarray(channels.values.fill_null(-1).to_numpy(), np.int64) if channels.is_valid else None
