"""ASK, its end: Arrow rows → table, JSON, JSON lines, CSV, Markdown or Parquet; the one writer of everything printed.

Promises: a result becomes Python objects and text a few MB at a time, and only a table, whose widths need every row,
waits for all of its Arrow; a file appears complete or not at all; JSON and CSV keep every digit, tables and Markdown
show six; and the text of a stranger's checkpoint cannot steer a terminal, a Markdown page or a spreadsheet, nor flood a
terminal's table. pyarrow and rich load inside the functions.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from shardscan.cells import NULL, cell, csv_text, plain, unformula, unmarked, visible
from shardscan.errors import OutputError, ShardscanError, cut, shown

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

FORMATS = ("table", "json", "jsonl", "csv", "markdown")
ENDINGS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".md": "markdown",
    ".parquet": "parquet",
    ".txt": "table",
}

_ROWS, _BYTES = 10_000, 1 << 23  # rows, and their bytes in Arrow or as text, turned into Python objects at a time
_NAME, _CELL = 200, 1_000  # characters of a column's name and of a value that a terminal's table shows
_TEXT_WIDTH = 12  # a text column narrower than this is no longer read at a glance
_GAP = 2


def write(
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
    reader = _distinct(rows if hasattr(rows, "read_next_batch") else rows.to_reader())
    if format is not None and format not in FORMATS:
        hint = " (Parquet needs a file: give an output that ends in .parquet)" if format == "parquet" else ""
        raise OutputError(f"There is no format {shown(format)}: take one of {', '.join(FORMATS)}{hint}.")
    if output is None:
        stream = sys.stdout if stream is None else stream
        terminal = stream.isatty()
        chosen = format or ("table" if terminal else "jsonl")
        _to_stream(_text(reader, chosen, stream, terminal), stream)
        return
    path = Path(output)
    chosen = _file_format(path, format)
    with _replacing(path) as file:
        if chosen == "parquet":
            _to_parquet(reader, file, path)
        else:
            for text in _text(reader, chosen, io.StringIO(), terminal=False):
                file.write(text.encode())


def _distinct(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """`reader` with every column under a name of its own: `select *` over a join repeats `model`, JSON cannot."""
    import pyarrow as pa

    names: list[str] = []
    for name in reader.schema.names:
        free = (f"{name}_{i}" for i in count(1))
        names.append(
            name if name not in names else next(other for other in free if other not in [*names, *reader.schema.names])
        )
    if names == reader.schema.names:
        return reader
    schema = pa.schema([field.with_name(name) for field, name in zip(reader.schema, names, strict=True)])
    return pa.RecordBatchReader.from_batches(schema, (batch.rename_columns(names) for batch in reader))


def _file_format(path: Path, format: str | None) -> str:
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


def _to_stream(chunks: Iterator[str], stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        for text in chunks:
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
    except ShardscanError:
        raise
    except BrokenPipeError:
        _abandon(stream)
    except OSError as error:
        _abandon(stream)
        raise _unwritable("The output stream", error) from error


def _abandon(stream: TextIO) -> None:
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


def _to_parquet(reader: pa.RecordBatchReader, file: IO[bytes], path: Path) -> None:
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


def _text(reader: pa.RecordBatchReader, format: str, stream: TextIO, terminal: bool) -> Iterator[str]:
    if format == "table":
        return _table(reader, stream, terminal)
    if format == "csv":
        return _csv(reader, terminal)
    return {"json": _json, "jsonl": _jsonl, "markdown": _markdown}[format](reader)


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        step = _step(batch.nbytes // max(batch.num_rows, 1))
        for start in range(0, batch.num_rows, step):
            yield batch.slice(start, step)


def _step(row: int) -> int:
    """Rows at a time, where one has so many bytes."""
    return max(1, min(_ROWS, _BYTES // max(row, 1)))


def _values(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":  # else it depends on pandas being installed
        column = column.cast(pa.string())
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):  # infinity, and years beyond 9999: Python's datetime has neither
        with suppress(pa.ArrowNotImplementedError):
            return list(column.cast(pa.string()).to_pylist())
        # inside a list
        return [column[i].as_py() if column[i : i + 1].null_count else _as_text(column, i) for i in range(len(column))]


def _as_text(column: pa.Array, i: int) -> str:
    return str(column[i : i + 1].to_string(indent=0, skip_new_lines=True))[1:-1]


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    return zip(*map(_values, batch.columns), strict=True)


def _objects(batch: pa.RecordBatch) -> Iterator[str]:
    names = batch.schema.names
    for row in _rows(batch):
        # ASCII escapes also keep control characters and bidi overrides away from a terminal
        yield json.dumps(dict(zip(names, map(plain, row), strict=True)), allow_nan=False)


def _json(reader: pa.RecordBatchReader) -> Iterator[str]:
    before = "["
    for batch in _batches(reader):
        yield before + ",\n ".join(_objects(batch))
        before = ",\n "
    yield "[]\n" if before == "[" else "]\n"


def _jsonl(reader: pa.RecordBatchReader) -> Iterator[str]:
    for batch in _batches(reader):
        yield "".join(f"{line}\n" for line in _objects(batch))


def _csv(reader: pa.RecordBatchReader, terminal: bool) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.csv

    names = [unformula(visible(name) if terminal else name) for name in reader.schema.names]
    # written here, because pyarrow does not escape a quote in a header
    yield ",".join('"' + name.replace('"', '""') + '"' for name in names) + "\n"
    bare = pyarrow.csv.WriteOptions(include_header=False)
    for batch in _batches(reader):
        columns = [_csv_column(column, terminal) for column in batch.columns]
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(pa.RecordBatch.from_arrays(columns, names=names), sink, bare)
        yield sink.getvalue().to_pybytes().decode()


def _csv_column(column: pa.Array, terminal: bool) -> pa.Array:
    """`column` as pyarrow's CSV writer takes it: numbers and times as they are, all else as text."""
    import pyarrow as pa

    kind = column.type
    native = (pa.types.is_integer, pa.types.is_float32, pa.types.is_float64, pa.types.is_boolean, pa.types.is_decimal)
    if any(test(kind) for test in (*native, pa.types.is_timestamp, pa.types.is_date, pa.types.is_time)):
        return column
    texts = (None if value is None else csv_text(value, terminal) for value in _values(column))
    return pa.array(texts, pa.large_string())


def _markdown(reader: pa.RecordBatchReader) -> Iterator[str]:
    rules = ["---:" if _is_number(field.type) else "---" for field in reader.schema]
    yield _markdown_row(map(unmarked, reader.schema.names)) + _markdown_row(rules)
    for batch in _batches(reader):
        yield "".join(_markdown_row(unmarked(cell(value)) for value in row) for row in _rows(batch))


def _markdown_row(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


# ---- tables


def _table(reader: pa.RecordBatchReader, stream: TextIO, terminal: bool) -> Iterator[str]:
    """Columns if they fit the terminal, else one record under the other: no number is cut, no name becomes a stub.

    Two passes, one for the widths and one that prints.
    """
    from rich.cells import cell_len
    from rich.console import Console

    rows = reader.read_all()
    name, value = (_NAME, _CELL) if terminal else (None, None)
    names = [visible(cut(field, name)) for field in rows.schema.names]
    heads = [cell_len(field) for field in names]
    natural = list(heads)
    for texts in _texts(rows, value, 0):
        for i, column in enumerate(zip(*texts, strict=True)):
            natural[i] = max(natural[i], *map(cell_len, column))
    right = [_is_number(field.type) for field in rows.schema]
    kept = [w if r else max(h, min(w, _TEXT_WIDTH)) for r, h, w in zip(right, heads, natural, strict=True)]
    gaps = _GAP * (len(names) - 1)
    if terminal:
        console = Console(file=stream, force_jupyter=False)
        widths = _fitted(natural, kept, console.width - gaps)
    else:  # as wide as it needs: nothing is folded in a file, and FORCE_COLOR does not reach it
        widths = natural
        width = max(sum(widths) + gaps, 1)
        console = Console(file=stream, width=width, force_terminal=False, color_system=None, force_jupyter=False)
    number = 0
    for texts in _texts(rows, value, sum(widths)) if rows.num_rows else ((),):
        with console.capture() as captured:
            if widths:
                console.print(_columns(names, right, widths, texts, headed=not number))
            else:
                _print_records(console, names, texts, number)
            if not rows.num_rows:
                console.print("0 rows", highlight=False)
        number += len(texts)
        text = captured.get()
        yield text if terminal else "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _texts(rows: pa.Table, limit: int | None, width: int) -> Iterator[Sequence[tuple[str, ...]]]:
    """What the cells show, a few MB at a time, also where each row will be `width` wide."""
    for batch in _batches(rows.to_reader(_step(width))):
        yield [tuple(cell(value, limit) for value in row) for row in _rows(batch)]


def _fitted(natural: list[int], kept: list[int], room: int) -> list[int]:
    """Column widths that sum to at most `room`, the widest giving way first; empty where even `kept` is too wide."""
    if sum(kept) > room:
        return []
    widths = [min(width, room) for width in natural]
    while sum(widths) > room:
        widest = max((i for i in range(len(widths)) if widths[i] > kept[i]), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _columns(
    names: list[str], right: list[bool], widths: list[int], rows: Sequence[tuple[str, ...]], *, headed: bool
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_header=headed, pad_edge=False, padding=(0, 1, 0, 0))
    for name, is_right, width in zip(names, right, widths, strict=True):
        table.add_column(Text(name), justify="right" if is_right else "left", width=width, overflow="fold")
    for row in rows:
        table.add_row(*map(_styled, row))
    return table


def _print_records(console: Console, names: list[str], rows: Sequence[tuple[str, ...]], before: int) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        console.print(Text((" " * _GAP).join(names), style="bold"))
    for number, row in enumerate(rows, before + 1):
        record = Table.grid(padding=(0, _GAP, 0, 0))
        record.add_column(style="bold", overflow="fold", max_width=console.width // 2)
        record.add_column(overflow="fold")
        for name, text in zip(names, row, strict=True):
            record.add_row(Text(name), _styled(text))
        console.rule(Text(f"row {number}"), align="left", style="dim")
        console.print(record)


def _styled(text: str) -> Text:
    from rich.text import Text

    return Text(text, style="dim" if text == NULL else "")
