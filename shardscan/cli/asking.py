"""The command line, what answers: sql, ask, questions, info."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shardscan.cli.options import has_parameters, has_store, parsed, prints_rows, write_rows
from shardscan.errors import QueryError, shown


@click.command()
@click.argument("query")
@has_store
@has_parameters
@prints_rows
def sql(query: str, store: str, parameters: tuple[str, ...], format_: str | None, output: str | None) -> None:
    """Ask the catalog in SQL.

    QUERY is one SELECT of DuckDB's SQL, @FILE that holds one, or - for stdin; $name in it is a parameter. A file in the
    form of sql/questions brings the defaults of its parameters.

    \b
    shardscan sql "select role, max(absmax) from tensors group by role"
    shardscan sql @query.sql -p layer=3 --format json
    shardscan sql - < query.sql
    shardscan sql "show tables"
    """
    from shardscan import ask as asking

    text, given = _text(query), parsed(parameters)
    if text.startswith("-- title:"):
        rows = asking.answer(store, asking.parse(Path(query[1:]).stem or "stdin", text), given)
    else:
        rows = asking.run(store, text, given)
    write_rows(rows, format_, output)


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from shardscan import ask as asking

    return [name for name in asking.questions() if name.startswith(incomplete)]


@click.command()
@click.argument("question", shell_complete=_complete)
@has_store
@has_parameters
@prints_rows
def ask(question: str, store: str, parameters: tuple[str, ...], format_: str | None, output: str | None) -> None:
    """Ask a question that ships with shardscan.

    `shardscan questions` lists them with their parameters.

    \b
    shardscan ask outliers --store scans
    shardscan ask outliers -p sigma=3 -o outliers.parquet
    """
    from shardscan import ask as asking

    write_rows(asking.ask(store, question, parsed(parameters)), format_, output)


@click.command()
@prints_rows
def questions(format_: str | None, output: str | None) -> None:
    """List the questions that ship with shardscan.

    \b
    shardscan questions
    """
    import pyarrow as pa

    from shardscan import ask as asking

    known = asking.questions().values()
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
    from shardscan import environment

    write_rows(environment.facts(), format_, output)


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
