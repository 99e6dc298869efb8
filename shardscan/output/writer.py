"""ASK, its end: Arrow rows → table, JSON, JSON lines, CSV, Markdown or Parquet; the one writer of everything printed.

Promises: a result becomes Python objects and text a few MB at a time, and only a table, whose widths need every row,
waits for all of its Arrow; a file appears complete or not at all; JSON and CSV keep every digit, tables and Markdown
show six; and the text of a stranger's checkpoint cannot steer a terminal, a Markdown page or a spreadsheet, nor flood a
terminal's table. pyarrow loads inside the functions.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

from shardscan.errors import OutputError, ShardscanError, shown
from shardscan.output.batches import cut_batches, is_number, iterate_rows, list_values
from shardscan.output.cells import disarm_formula, escape_markup, show_csv, show_value, to_json_value, visible
from shardscan.output.table import lay_out_table

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "json", "jsonl", "csv", "markdown")
ENDINGS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".md": "markdown",
    ".parquet": "parquet",
    ".txt": "table",
}


def write_rows(
    rows: pa.Table | pa.RecordBatchReader,
    *,
    format: str | None = None,
    output: str | Path | None = None,
    stream: TextIO | None = None,
) -> None:
    """Write `rows` to the file `output`, in the format of its ending, or else to `stream` (default: `sys.stdout`).

    Without a format, a terminal gets a table and everything else JSON lines. A reader that went away (`| head`) is no
    error. Raises `OutputError` for a format that does not exist or contradicts the ending, and for a target that cannot
    be written; the file that was there before then stays as it was.
    """
    reader = _name_columns_apart(rows if hasattr(rows, "read_next_batch") else rows.to_reader())
    if format is not None and format not in FORMATS:
        hint = " (Parquet needs a file: give an output that ends in .parquet)" if format == "parquet" else ""
        raise OutputError(f"There is no format {shown(format)}: take one of {', '.join(FORMATS)}{hint}.")
    if output is None:
        stream = sys.stdout if stream is None else stream
        terminal = stream.isatty()
        chosen = format or ("table" if terminal else "jsonl")
        _print_text(_format_rows(reader, chosen, stream, terminal), stream)
        return
    path = Path(output)
    chosen = _choose_file_format(path, format)
    with _replacing(path) as file:
        if chosen == "parquet":
            _write_parquet(reader, file, path)
        else:
            for text in _format_rows(reader, chosen, io.StringIO(), terminal=False):
                file.write(text.encode())


def _name_columns_apart(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """`reader` with every column under a name of its own: `select *` over a join repeats `model`, JSON cannot."""
    import pyarrow as pa

    names: list[str] = []
    used, numbers = set(reader.schema.names), defaultdict[str, Iterator[int]](lambda: count(1))
    seen: set[str] = set()
    for name in reader.schema.names:
        free = (f"{name}_{i}" for i in numbers[name])
        names.append(next(other for other in free if other not in used) if name in seen else name)
        seen.add(name)
        used.add(names[-1])
    if names == reader.schema.names:
        return reader
    schema = pa.schema([field.with_name(name) for field, name in zip(reader.schema, names, strict=True)])
    return pa.RecordBatchReader.from_batches(schema, (batch.rename_columns(names) for batch in reader))


def _choose_file_format(path: Path, format: str | None) -> str:
    by_ending = ENDINGS.get(path.suffix.lower())
    if by_ending is None and format is None:
        raise OutputError(
            f"{shown(str(path))} does not say which format it is: end it in {', '.join(ENDINGS)}, or name a format."
        )
    if by_ending and format and by_ending != format:
        raise OutputError(
            f"{shown(str(path))} ends in {path.suffix}, and the format asked for is {format}: change one of them."
        )
    return by_ending or format or ""


# ---- where it goes


def _unwritable(name: str, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"{name} cannot be written ({reason}): choose another output, or see to what stands in the way.")


def _print_text(chunks: Iterator[str], stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        for text in chunks:
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
    except ShardscanError:
        raise
    except BrokenPipeError:
        abandon_stream(stream)
    except OSError as error:
        abandon_stream(stream)
        raise _unwritable("The output stream", error) from error


def abandon_stream(stream: TextIO) -> None:
    """Point a broken stream at nothing, or the interpreter complains again when it flushes at exit."""
    with suppress(OSError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, stream.fileno())
        finally:
            os.close(nothing)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file beside `path`, renamed to it at the end; links are followed, and devices are never replaced."""
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".shardscan-{secrets.token_hex(8)}.partial")
    try:
        if target.exists() and not target.is_file():
            raise OutputError(
                f"{shown(str(path))} is not a regular file: name a file, or leave the output out to print."
            )
        with open(partial, "xb") as file:
            yield file
        partial.replace(target)
    except ShardscanError:
        raise
    except OSError as error:
        raise _unwritable(shown(str(path)), error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _write_parquet(reader: pa.RecordBatchReader, file: IO[bytes], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        writer = pq.ParquetWriter(file, reader.schema)
    except pa.ArrowNotImplementedError as error:
        raise OutputError(
            f"{shown(str(path))}: Parquet cannot hold this result ({error}): cast that column."
        ) from error
    with writer:
        for batch in reader:
            writer.write_batch(batch)


# ---- what it looks like


def _format_rows(reader: pa.RecordBatchReader, format: str, stream: TextIO, terminal: bool) -> Iterator[str]:
    if format == "table":
        return lay_out_table(reader, stream, terminal)
    if format == "csv":
        return _format_csv(reader, terminal)
    return {"json": _format_json, "jsonl": _format_jsonl, "markdown": _format_markdown}[format](reader)


def _format_objects(batch: pa.RecordBatch) -> Iterator[str]:
    names = batch.schema.names
    for row in iterate_rows(batch):
        # ASCII escapes also keep control characters and bidi overrides away from a terminal
        yield json.dumps(dict(zip(names, map(to_json_value, row), strict=True)), allow_nan=False)


def _format_json(reader: pa.RecordBatchReader) -> Iterator[str]:
    before = "["
    for batch in cut_batches(reader):
        yield before + ",\n ".join(_format_objects(batch))
        before = ",\n "
    yield "[]\n" if before == "[" else "]\n"


def _format_jsonl(reader: pa.RecordBatchReader) -> Iterator[str]:
    for batch in cut_batches(reader):
        yield "".join(f"{line}\n" for line in _format_objects(batch))


def _format_csv(reader: pa.RecordBatchReader, terminal: bool) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.csv

    names = [disarm_formula(visible(name) if terminal else name) for name in reader.schema.names]
    # written here, because pyarrow does not escape a quote in a header
    yield ",".join('"' + name.replace('"', '""') + '"' for name in names) + "\n"
    bare = pyarrow.csv.WriteOptions(include_header=False)
    for batch in cut_batches(reader):
        columns = [_prepare_csv_column(column, terminal) for column in batch.columns]
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(pa.RecordBatch.from_arrays(columns, names=names), sink, bare)
        yield sink.getvalue().to_pybytes().decode()


def _prepare_csv_column(column: pa.Array, terminal: bool) -> pa.Array:
    """`column` as pyarrow's CSV writer takes it: numbers and times as they are, all else as text."""
    import pyarrow as pa

    kind = column.type
    native = (pa.types.is_integer, pa.types.is_float32, pa.types.is_float64, pa.types.is_boolean, pa.types.is_decimal)
    if any(test(kind) for test in (*native, pa.types.is_timestamp, pa.types.is_date, pa.types.is_time)):
        return column
    texts = (None if value is None else show_csv(value, terminal) for value in list_values(column))
    return pa.array(texts, pa.large_string())


def _format_markdown(reader: pa.RecordBatchReader) -> Iterator[str]:
    rules = ["---:" if is_number(field.type) else "---" for field in reader.schema]
    yield _join_cells(map(escape_markup, reader.schema.names)) + _join_cells(rules)
    for batch in cut_batches(reader):
        yield "".join(_join_cells(escape_markup(show_value(value)) for value in row) for row in iterate_rows(batch))


def _join_cells(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
