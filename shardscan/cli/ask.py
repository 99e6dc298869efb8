"""The command line, what answers: sql, ask, questions, info."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardscan.cli.options import has_bounds, has_parameters, has_store, parsed, prints_rows, write_rows
from shardscan.errors import QueryError, shown

if TYPE_CHECKING:
    from shardscan.answers.questions import Query


@click.command()
@click.argument("query")
@has_store
@has_parameters
@click.option(
    "--unlocked",
    is_flag=True,
    help="Let this query read and write files, use the network and load extensions: for SQL that you trust. SQL still "
    "cannot change the catalog.",
)
@has_bounds
@prints_rows
def sql(
    query: str, store: str, parameters: tuple[str, ...], unlocked: bool, timeout: int, memory: int | None,
    format_: str | None, output: str | None,
) -> None:  # fmt: skip
    """Ask the catalog in SQL.

    QUERY is one SELECT of DuckDB's SQL, @FILE that holds one, or - for stdin; $name in it is a parameter. A file in the
    form of sql/questions brings the defaults of its parameters. Files, the network and settings are out of its reach.

    \b
    shardscan sql "select role, max(absmax) from tensors group by role"
    shardscan sql @query.sql -p layer=3 --format json
    shardscan sql - < query.sql
    shardscan sql "show tables"
    shardscan sql "select * from ranks join 'scores.parquet' using (layer)" --unlocked
    """
    from shardscan.answers import questions as asked

    text, given = _text(query), parsed(parameters)
    if text.startswith("-- title:"):
        wanted = asked.asked(asked.parse(Path(query[1:]).stem or "stdin", text), given)
    else:
        wanted = asked.query(text, given)
    if unlocked:
        click.echo("Unlocked: this query can read and write files, use the network and load extensions.", err=True)
    _answer(store, wanted, timeout, memory, format_, output, unlocked=unlocked)


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from shardscan.answers import questions as asked

    return [name for name in asked.questions() if name.startswith(incomplete)]


@click.command()
@click.argument("question", shell_complete=_complete)
@has_store
@has_parameters
@has_bounds
@prints_rows
def ask(
    question: str, store: str, parameters: tuple[str, ...], timeout: int, memory: int | None,
    format_: str | None, output: str | None,
) -> None:  # fmt: skip
    """Ask a question that ships with shardscan.

    `shardscan questions` lists them with their parameters.

    \b
    shardscan ask outliers --store scans
    shardscan ask outliers -p sigma=3 -o outliers.parquet
    """
    from shardscan.answers import questions as asked

    wanted = asked.asked(asked.find(question), parsed(parameters))
    _answer(store, wanted, timeout, memory, format_, output)


def _answer(
    store: str, wanted: Query, timeout: int, memory: int | None, format_: str | None, output: str | None,
    *, unlocked: bool = False,
) -> None:  # fmt: skip
    from shardscan.answers import bounded as confined

    bounds = confined.Bounds(timeout, confined.free_memory() if memory is None else memory)
    rows = confined.rows(store, wanted, bounds, unlocked=unlocked)
    with confined.within(bounds):
        write_rows(rows, format_, output)


@click.command()
@prints_rows
def questions(format_: str | None, output: str | None) -> None:
    """List the questions that ship with shardscan.

    \b
    shardscan questions
    """
    import pyarrow as pa

    from shardscan.answers import questions as asked

    known = asked.questions().values()
    rows = {
        "question": [q.name for q in known],
        "title": [q.title for q in known],
        "parameters": [", ".join(f"{p.name}={p.default}" for p in q.parameters) for q in known],
    }
    write_rows(pa.table(rows), format_, output)


@click.command()
@prints_rows
def info(format_: str | None, output: str | None) -> None:
    """Print versions and machine, for bug reports.

    \b
    shardscan info --format markdown
    """
    from shardscan.cli.prints import machine

    write_rows(machine.facts(), format_, output)


def _text(query: str) -> str:
    """The SQL that an argument means."""
    if query != "-" and not query.startswith("@"):
        return query
    name = "stdin" if query == "-" else query[1:] or "@"
    try:
        raw: bytes = sys.stdin.buffer.read() if query == "-" else Path(name).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise QueryError(f"{shown(name, 400)} cannot be read ({error.strerror}): give @FILE with a query.") from error
    except ValueError as error:
        raise QueryError(f"{shown(name, 400)} is not UTF-8 text ({error}): give a query in SQL.") from error
