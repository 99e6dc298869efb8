"""ASK: Arrow rows → the table that a person reads; rich lays it out.

Promises: widths come from a first pass over the Arrow data, and the text from a second, a few MB at a time; no number
is cut, and a terminal shows a sensible length of a long value or name. rich loads inside the functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from shardscan.errors import cut
from shardscan.output.batches import count_rows_at_once, cut_batches, is_number, iterate_rows
from shardscan.output.cells import NULL, show_value, visible

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_NAME, _CELL = 200, 1_000  # characters of a column's name and of a value that a terminal's table shows
_TEXT_WIDTH = 12  # a text column narrower than this is no longer read at a glance
_GAP = 2


def lay_out_table(reader: pa.RecordBatchReader, stream: TextIO, terminal: bool) -> Iterator[str]:
    """Columns if they fit the terminal, else one record under the other: no number is cut, no name becomes a stub."""
    whole = reader.read_all()
    name_length, value_length = (_NAME, _CELL) if terminal else (None, None)
    names = [visible(cut(field, name_length)) for field in whole.schema.names]
    right = [is_number(field.type) for field in whole.schema]
    natural = _measure_columns(names, whole, value_length)
    console, widths = _choose_widths(names, right, natural, stream, terminal)
    number = 0
    for texts in _show_rows(whole, value_length, sum(widths)) if whole.num_rows else ((),):
        with console.capture() as captured:
            if widths:
                console.print(_draw_columns(names, right, widths, texts, headed=not number))
            else:
                _print_records(console, names, texts, number)
            if not whole.num_rows:
                console.print("0 rows", highlight=False)
        number += len(texts)
        text = captured.get()
        yield text if terminal else "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _show_rows(whole: pa.Table, limit: int | None, width: int) -> Iterator[Sequence[tuple[str, ...]]]:
    """What the cells show, a few MB at a time, also where each row will be `width` wide."""
    for batch in cut_batches(whole.to_reader(count_rows_at_once(width))):
        yield [tuple(show_value(value, limit) for value in row) for row in iterate_rows(batch)]


def _measure_columns(names: list[str], whole: pa.Table, limit: int | None) -> list[int]:
    """The width of every column where nothing is folded."""
    from rich.cells import cell_len

    widths = [cell_len(name) for name in names]
    for texts in _show_rows(whole, limit, 0):
        for i, column in enumerate(zip(*texts, strict=True)):
            widths[i] = max(widths[i], *map(cell_len, column))
    return widths


def _choose_widths(
    names: list[str], right: list[bool], natural: list[int], stream: TextIO, terminal: bool
) -> tuple[Console, list[int]]:
    """What prints, and the width of every column; none where they do not fit."""
    from rich.cells import cell_len
    from rich.console import Console

    gaps = _GAP * (len(names) - 1)
    if terminal:
        console = Console(file=stream, force_jupyter=False)
        least = [
            w if is_right else max(cell_len(name), min(w, _TEXT_WIDTH))
            for name, is_right, w in zip(names, right, natural, strict=True)
        ]
        return console, _fit_widths(natural, least, console.width - gaps)
    # as wide as it needs: nothing is folded in a file, and FORCE_COLOR does not reach it
    width = max(sum(natural) + gaps, 1)
    console = Console(file=stream, width=width, force_terminal=False, color_system=None, force_jupyter=False)
    return console, natural


def _fit_widths(natural: list[int], least: list[int], room: int) -> list[int]:
    """Column widths that sum to at most `room`, the widest giving way first; empty where even `least` is too wide."""
    if sum(least) > room:
        return []
    widths = [min(width, room) for width in natural]
    while sum(widths) > room:
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _draw_columns(
    names: list[str], right: list[bool], widths: list[int], rows: Sequence[tuple[str, ...]], *, headed: bool
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_header=headed, pad_edge=False, padding=(0, 1, 0, 0))
    for name, is_right, width in zip(names, right, widths, strict=True):
        table.add_column(Text(name), justify="right" if is_right else "left", width=width, overflow="fold")
    for row in rows:
        table.add_row(*map(_style_cell, row))
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
            record.add_row(Text(name), _style_cell(text))
        console.rule(Text(f"row {number}"), align="left", style="dim")
        console.print(record)


def _style_cell(text: str) -> Text:
    from rich.text import Text

    return Text(text, style="dim" if text == NULL else "")
