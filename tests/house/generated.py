"""What documents say of the code, made from the code: tables, views, questions, commands, families.

    python tests/house/generated.py              write the generated parts of all documents again

A part stands between two comments, `<!-- generated: NAME -->` and `<!-- end -->`; what stands around it is written by
a person. `tests/house/test_documents.py` fails where a part is not what this module makes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from inspect import cleandoc
from pathlib import Path

import click
import duckdb

from shardscan.answers.questions import Question, read_questions
from shardscan.catalog import sqlfiles
from shardscan.cli import main as shardscan
from shardscan.cli.frame import EXIT_CODES

ROOT = Path(__file__).resolve().parents[2]
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
SIGNATURE = re.compile(r"CREATE MACRO (\w+\((.*?)\)) AS\b")


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# ---- SQL


@cache
def empty_catalog() -> duckdb.DuckDBPyConnection:
    """A database in memory with every table, view and macro, and no rows."""
    connection = duckdb.connect()
    for script in (*sqlfiles.schema(), *sqlfiles.views().values()):
        connection.execute(script)
    return connection


def fetch(query: str, *values: str) -> list[tuple[str, ...]]:
    """The rows of a query to the empty catalog, where a NULL is no text."""
    rows = empty_catalog().execute(query, values).fetchall()
    return [tuple("" if value is None else str(value) for value in row) for row in rows]


def describe_columns(relation: str) -> str:
    """Every column of a table or view with its type and comment."""
    sql = "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"
    rows = ((f"`{name}`", f"`{of_type}`", comment) for name, of_type, comment in fetch(sql, relation))
    return write_table(("column", "type", "what it is"), rows)


def describe_tables() -> Iterator[str]:
    """Every table with its columns."""
    for name, comment in fetch("SELECT table_name, comment FROM duckdb_tables() ORDER BY table_name"):
        yield f"### {name}\n\n{comment} [schema/{name}.sql](schema/{name}.sql)\n\n{describe_columns(name)}"


def describe_views() -> Iterator[str]:
    """Every view with its columns."""
    sql = "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal ORDER BY view_name"
    for name, comment in fetch(sql):
        yield f"### {name}\n\n{comment} [views/{name}.sql](views/{name}.sql)\n\n{describe_columns(name)}"


def describe_macros() -> Iterator[str]:
    """Every macro with its parameters, their defaults, and the columns of its rows where it gives rows."""
    # a macro is a row for each number of arguments that it takes
    sql = (
        "SELECT DISTINCT function_name, comment, function_type FROM duckdb_functions() WHERE NOT internal ORDER BY ALL"
    )
    texts = sqlfiles.views()
    for name, comment, of_type in fetch(sql):
        signature = SIGNATURE.search(texts[name])
        assert signature, f"sql/views/{name}.sql creates no macro of its name"
        yield f"### {name}\n\n    {signature[1]}\n\n{comment} [views/{name}.sql](views/{name}.sql)"
        if of_type == "table_macro":
            nothing = ", ".join(f"{parameter.split()[0]} := NULL" for parameter in signature[2].split(", "))
            columns = (column for column, *_ in fetch(f"DESCRIBE FROM {name}({nothing})"))
            yield f"Columns: {', '.join(f'`{column}`' for column in columns)}."


def describe_question(question: Question) -> Iterator[str]:
    """A question with its parameters and an example."""
    link = f"[questions/{question.name}.sql](questions/{question.name}.sql)"
    yield f"### {question.name}\n\n**{question.title}.** {question.why} {link}"
    if question.parameters:
        rows = [(f"`{p.name}`", f"`{p.default}`", p.description) for p in question.parameters]
        yield write_table(("parameter", "default", "what it is"), rows)
    yield f"    {question.example}"


# ---- the command line


def describe_command(name: str, command: click.Command) -> Iterator[str]:
    """A command with its help, its options and its examples."""
    context = click.Context(command, info_name=f"shardscan {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    text, _, examples = cleandoc(command.help or "").partition("\b\n")
    yield f"### shardscan {name}\n\n    shardscan {name} {usage}\n\n{escape(text.strip())}"
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    records = (option.get_help_record(context) for option in options)
    rows = ((f"`{record[0]}`", escape(record[1].replace("  [", " ["))) for record in records if record)
    yield write_table(("option", "what it does"), rows)
    if examples:
        yield "\n".join(f"    {line}" for line in examples.strip().splitlines())


def escape(text: str) -> str:
    """Help as Markdown: what it would read as a tag or as emphasis stays text."""
    return re.sub(r"([<*])", r"\\\1", text)


def describe_variables() -> str:
    """Every environment variable with the options that it is the default of."""
    options: dict[str, set[str]] = {}
    for command in shardscan.commands.values():
        for parameter in command.params:
            if isinstance(parameter.envvar, str):
                options.setdefault(parameter.envvar, set()).add(f"`{max(parameter.opts, key=len)}`")
    return write_table(("variable", "default of"), ((f"`{v}`", ", ".join(sorted(o))) for v, o in options.items()))


def describe_exit_codes() -> str:
    """Every exit code with its meaning, as the help says it."""
    return write_table(("code", "meaning"), re.findall(r"^ +(\d+)  (.+)$", EXIT_CODES, re.MULTILINE))


# ---- parts


def describe_families() -> str:
    """The families, with their architectures and the share of parameters that have a role."""
    from made import golden

    return golden.table()


PARTS: dict[str, Callable[[], Iterable[str]]] = {
    "tables": describe_tables,
    "views": describe_views,
    "macros": describe_macros,
    "questions": lambda: (text for question in read_questions().values() for text in describe_question(question)),
    "commands": lambda: (text for named in shardscan.commands.items() for text in describe_command(*named)),
    "variables": lambda: [describe_variables()],
    "exit_codes": lambda: [describe_exit_codes()],
    "families": lambda: [describe_families()],
}


def list_documents() -> list[Path]:
    """Every Markdown file of the repository, those of environments and caches aside."""
    hidden = (path.relative_to(ROOT).parts for path in ROOT.rglob("*.md"))
    return [ROOT.joinpath(*parts) for parts in sorted(hidden) if not any(part.startswith(".") for part in parts)]


def renew(text: str) -> str:
    """A document with every generated part made again."""
    return PART.sub(lambda part: part[1] + "\n" + "\n\n".join(PARTS[part[2]]()) + "\n" + part[3], text)


def main() -> None:
    """Write every document again whose generated parts are not current."""
    for path in list_documents():
        text = path.read_text("utf-8")
        if (current := renew(text)) != text:
            path.write_text(current, "utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    main()
