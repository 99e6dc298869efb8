"""ASK: Arrow → Python's values, a few MB at a time, so that no result is Python objects as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS, _BYTES = 10_000, 1 << 23  # rows, and their bytes in Arrow or as text, turned into Python objects at a time


def cut_batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The batches of `reader`, each cut into pieces of a few MB."""
    for batch in reader:
        length = count_rows_at_once(batch.nbytes // max(batch.num_rows, 1))
        for start in range(0, batch.num_rows, length):
            yield batch.slice(start, length)


def count_rows_at_once(row_bytes: int) -> int:
    """How many rows, of so many bytes each, are turned into Python objects at a time."""
    return max(1, min(_ROWS, _BYTES // max(row_bytes, 1)))


def list_values(column: pa.Array) -> list[Any]:
    """A column's values; as text where Python has no such value."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":  # else it depends on pandas being installed
        column = column.cast(pa.string())
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):  # infinity, and years beyond 9999: Python's datetime has neither
        with suppress(pa.ArrowNotImplementedError):
            return list(column.cast(pa.string()).to_pylist())
        # inside a list
        return [
            column[i].as_py() if column[i : i + 1].null_count else _show_item(column, i) for i in range(len(column))
        ]


def _show_item(column: pa.Array, i: int) -> str:
    return str(column[i : i + 1].to_string(indent=0, skip_new_lines=True))[1:-1]


def iterate_rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """A batch's rows, as tuples of Python's values."""
    return zip(*map(list_values, batch.columns), strict=True)


def is_number(kind: pa.DataType) -> bool:
    """Whether values of this type are set to the right."""
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
