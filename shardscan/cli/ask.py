"""The command line, what answers: sql, ask, questions, info."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardscan.cli.options import Printing, has_bounds, has_parameters, has_store, prints_rows
from shardscan.errors import QueryError, shown

if TYPE_CHECKING:
    from shardscan.answers.bounded import Bounds
    from shardscan.answers.questions import Query


@click.command("sql")
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
def run_sql(
    query: str, store: str, parameters: dict[str, str], unlocked: bool, bounds: Bounds, printing: Printing
) -> None:
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
    from shardscan.answers import questions

    text = _read_sql(query)
    if text.startswith("-- title:"):
        question = questions.parse_question(Path(query[1:]).stem or "stdin", text)
        asked = questions.bind_question(question, parameters)
    else:
        asked = questions.make_query(text, parameters)
    if unlocked:
        click.echo("Unlocked: this query can read and write files, use the network and load extensions.", err=True)
    _print_answer(store, asked, bounds, printing, unlocked=unlocked)


def _complete_question(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from shardscan.answers import questions

    return [name for name in questions.read_questions() if name.startswith(incomplete)]


@click.command("ask")
@click.argument("question", shell_complete=_complete_question)
@has_store
@has_parameters
@has_bounds
@prints_rows
def ask_question(question: str, store: str, parameters: dict[str, str], bounds: Bounds, printing: Printing) -> None:
    """Ask a question that ships with shardscan.

    `shardscan questions` lists them with their parameters.

    \b
    shardscan ask outliers --store scans
    shardscan ask outliers -p sigma=3 -o outliers.parquet
    """
    from shardscan.answers import questions

    _print_answer(store, questions.bind_question(questions.find_question(question), parameters), bounds, printing)


def _print_answer(store: str, query: Query, bounds: Bounds, printing: Printing, *, unlocked: bool = False) -> None:
    from shardscan.answers import bounded

    rows = bounded.run_bounded(store, query, bounds, unlocked=unlocked)
    with bounded.holding_memory(bounds):
        printing.write(rows)


@click.command("questions")
@prints_rows
def list_questions(printing: Printing) -> None:
    """List the questions that ship with shardscan.

    \b
    shardscan questions
    """
    from shardscan.cli.prints.questions import tabulate_questions

    printing.write(tabulate_questions())


@click.command("info")
@prints_rows
def show_machine(printing: Printing) -> None:
    """Print versions and machine, for bug reports.

    \b
    shardscan info --format markdown
    """
    from shardscan.cli.prints.machine import tabulate_machine

    printing.write(tabulate_machine())


def _read_sql(query: str) -> str:
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
