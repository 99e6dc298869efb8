"""CATALOG, its rows, their columns: values as Arrow arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from shardscan.reduce.sparsity import VIOLATIONS

Rows = tuple[str, pa.Table]  # a table's name, and a piece of it
COUNTS = frozenset({
    *("zeros", "near_zeros", "nans", "infs", "tail_values", "mp_spikes"),
    *("changed", "newly_zero", "change_rank"),
    *VIOLATIONS,
})  # fmt: skip


def repeat_values(values: Sequence[Any], lengths: Sequence[int], kind: pa.DataType | None = None) -> pa.Array:
    """Each value as often as its length says, as one flat array."""
    indices = np.repeat(np.arange(len(values), dtype=np.int32), lengths)
    return pa.array(values, kind or pa.string()).take(pa.array(indices))


def statistics_column(values: np.ndarray, name: str) -> pa.Array:
    """float64 statistics, NaN as NULL; counts as integers."""
    return pa.array(values, pa.float64(), from_pandas=True).cast(pa.int64() if name in COUNTS else pa.float64())
