"""ASK: read-only, locked connections to a store's catalog, and the named questions; the last step before output.

This is the only module that reads DuckDB. It promises that nothing typed here, by a user or by a stranger who wrote a
query for them, reaches a file, the network, a Python variable or the catalog's own rows: the catalog is attached
read-only, no file can be opened after it, and the configuration is locked before the first statement. What comes back
is an Arrow table of plain columns. Everything that goes wrong is a `QueryError` or a `StoreError`; DuckDB's own
exceptions end here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from shardscan import sqlfiles
from shardscan.commits import CATALOG
from shardscan.errors import QueryError, QuestionNotFound, StoreError, StoreNotFound, shown

MEMORY_LIMIT = "4GB"
MAX_DIGITS = 38  # every such number is a HUGEINT
_HUGEINT = pa.decimal128(38, 0)
_READING = (
    duckdb.StatementType.SELECT,
    duckdb.StatementType.EXPLAIN,
    duckdb.StatementType.PRAGMA,
    duckdb.StatementType.CALL,
    duckdb.StatementType.MULTI,  # what PIVOT is
)
_HEADER = re.compile(r"--\s*(title|why|parameter|example):\s*(.*)")
_PARAMETER = re.compile(r"(\w+) = (.*?): (.+)")

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a question; its default also says its type."""

    name: str
    default: bool | int | float | str
    description: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question that ships with shardscan: one SELECT with named parameters, and what a person needs to ask it."""

    name: str
    title: str
    why: str
    parameters: tuple[Parameter, ...]
    example: str
    sql: str


def connect(store: str | Path) -> duckdb.DuckDBPyConnection:
    """A read-only, locked connection to the catalog of a store, or to a `.duckdb` file itself; close it with `with`.

    It sees the catalog as it is now, also where an older connection is still open and sees the one before. Nothing
    spills to disk: a query that needs more than `MEMORY_LIMIT` fails.
    """
    path = _catalog(Path(store))
    config: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": "",
        "threads": min(os.cpu_count() or 1, 8),
    }
    # in memory: a process has one database for each path, which would be the old file after the catalog is renamed
    connection = duckdb.connect(config=config)
    try:
        for statement in _attach(path):
            connection.execute(statement).fetchall()
    except (duckdb.Error, UnicodeError) as error:
        connection.close()
        raise StoreError(
            f"{path} cannot be opened as a catalog ({_first_line(error)}): "
            "build it again with `shardscan catalog --rebuild`, or use the shardscan that wrote it."
        ) from error
    return connection


def _attach(path: Path) -> tuple[str, ...]:
    """Statements that attach the catalog and then lock everything; their order counts."""
    quoted = str(path.absolute()).replace("'", "''")
    return (
        f"ATTACH '{quoted}' AS catalog (READ_ONLY, TYPE duckdb)",
        "USE catalog",
        "SET enable_external_access = false",
        # the line above leaves the attached file open to everybody: to COPY … TO it, and to ATTACH it for writing
        "SET disabled_filesystems = 'LocalFileSystem'",
        # last: every option before it is final from here on
        "SET lock_configuration = true",
    )


def _catalog(store: Path) -> Path:
    if store.is_file():
        return store
    if store.is_dir() and (store / CATALOG).is_file():
        return store / CATALOG
    if (store / "commits").is_dir():
        raise StoreNotFound(
            f"The store {store} has no catalog ({CATALOG}) yet: `shardscan catalog --store {store}` makes one of what "
            "an interrupted ingest committed."
        )
    missing = f"no catalog ({CATALOG}) in the store {store}" if store.is_dir() else f"no store at {store}"
    raise StoreNotFound(f"There is {missing}: make one with `shardscan ingest CHECKPOINT --store {store}`.")


def run(store: str | Path, sql: str, parameters: Mapping[str, str] | None = None) -> pa.Table:
    """The rows of one statement; `parameters` are text, as typed, and become int, float, true, false, null or text."""
    with connect(store) as connection:
        return _rows(connection, sql, {name: guess(text) for name, text in (parameters or {}).items()})


def ask(store: str | Path, name: str, parameters: Mapping[str, str] | None = None) -> pa.Table:
    """The answer to a named question; each value in `parameters` is cast to the type of that parameter's default."""
    return answer(store, find(name), parameters)


def answer(store: str | Path, question: Question, parameters: Mapping[str, str] | None = None) -> pa.Table:
    """The answer to a question, one that ships or one from a file of the user's; see `ask`.

    QueryError where its `model` pattern fits no model: an empty answer would read as good news.
    """
    known = {parameter.name: parameter for parameter in question.parameters}
    given = parameters or {}
    for unknown in given.keys() - known.keys():
        raise QueryError(f"The question {question.name} has no parameter {unknown!r}: it takes {_listed(known)}.")
    values: dict[str, Value] = {parameter.name: parameter.default for parameter in question.parameters}
    values |= {key: _cast(text, known[key]) for key, text in given.items()}
    with connect(store) as connection:
        if "model" in given:
            _check_model(connection, given["model"])
        return _rows(connection, question.sql, values)


def _check_model(connection: duckdb.DuckDBPyConnection, pattern: str) -> None:
    models = _rows(connection, "SELECT model, model LIKE $model AS fits FROM models ORDER BY model", {"model": pattern})
    if not any(models["fits"].to_pylist()):
        held = ", ".join(shown(name) for name in models["model"].to_pylist()) or "none"
        raise QueryError(f"No model here is like {shown(pattern)}: there are {held}; % stands for anything.")


def questions() -> dict[str, Question]:
    """Every question that ships with shardscan, by name."""
    return {name: parse(name, text) for name, text in sqlfiles.question_files().items()}


def find(name: str) -> Question:
    """The question of this name; QuestionNotFound lists the nearest names."""
    known = questions()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`shardscan questions` lists them."
    raise QuestionNotFound(f"There is no question {name!r}: {hint}")


def parse(name: str, text: str) -> Question:
    """A question file: comment lines `-- key: value`, continued by lines of `--` and two blanks; then one SELECT.

    The keys are title, why and example, once each, and one `parameter: name = default: description` per parameter.
    """
    fields: dict[str, list[str]] = {"title": [], "why": [], "parameter": [], "example": []}
    lines = text.splitlines()
    length = next((i for i, line in enumerate(lines) if not line.startswith("--")), len(lines))
    last: list[str] | None = None
    for line in lines[:length]:
        if match := _HEADER.fullmatch(line):
            last = fields[match[1]]
            last.append(match[2].strip())
        elif last and line.startswith("--  "):
            last[-1] += " " + line[2:].strip()
        else:
            raise QueryError(f"The question {name} has a header line that is no `-- key: value`: {line!r}.")
    for key in ("title", "why", "example"):
        if len(fields[key]) != 1:
            raise QueryError(
                f"The question {name} needs one `-- {key}:` line in its header and has {len(fields[key])}."
            )
    return Question(
        name=name,
        title=fields["title"][0],
        why=fields["why"][0],
        parameters=tuple(_parameter(name, value) for value in fields["parameter"]),
        example=fields["example"][0],
        sql="\n".join(lines[length:]).strip().removesuffix(";"),
    )


def _parameter(question: str, value: str) -> Parameter:
    match = _PARAMETER.fullmatch(value)
    default = guess(match[2]) if match else None
    if match is None or default is None:
        raise QueryError(
            f"The question {question} has a parameter that is no `name = default: description`: {value!r}."
        )
    return Parameter(match[1], default, match[3])


def guess(text: str) -> Value:
    """What a value typed on a command line means: an int, a float, true, false, null, else the text itself."""
    words: dict[str, Value] = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    # not int() and float() alone: they also take 1_000, ' 3 ' and nan, which are text here
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        return int(text) if len(text) <= MAX_DIGITS else text
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE):
        return float(text)
    return text


def _cast(text: str, parameter: Parameter) -> Value:
    wanted = type(parameter.default)
    if wanted is str:
        return text
    value = guess(text)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[wanted]
        raise QueryError(
            f"The parameter {parameter.name} is {kind}, not {shown(text)}: for example {parameter.default}."
        )
    return value


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Value]) -> pa.Table:
    for text in (sql, *(value for value in values.values() if isinstance(value, str))):
        _check_text(text)
    try:
        statement = _only_statement(sql)
        _check_names(statement.named_parameters, values)
        return _plain(_interruptible(connection, lambda: _read(connection, statement, values)))
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        raise QueryError(_pointed(connection, sql, values, error)) from error
    except duckdb.Error as error:
        raise QueryError(str(error)) from error


def _read(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement, values: Mapping[str, Value]) -> pa.Table:
    relation = connection.sql(statement, params=dict(values)) if values else connection.sql(statement)
    return pa.table({}) if relation is None else relation.to_arrow_table()


def _interruptible(connection: duckdb.DuckDBPyConnection, read: Callable[[], pa.Table]) -> pa.Table:
    """What `read` returns; Ctrl-C stops it, also where DuckDB would be deep in one task and never look for signals."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            return reading.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise


def _pointed(connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Value], error: Exception) -> str:
    """The message with DuckDB's caret lines, which only `execute` gives; nothing runs: binding fails again."""
    try:
        connection.execute(sql, dict(values))
    except duckdb.Error as pointed:
        return str(pointed)
    return str(error)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = shown(text[error.start : error.end])
        raise QueryError(
            f"The query or one of its parameters is not UTF-8 text ({what} at character {error.start + 1:,}): "
            "give it in UTF-8."
        ) from None


def _only_statement(sql: str) -> duckdb.Statement:
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"This is {len(statements)} statements and a query is one: write one SELECT.")
    if statements[0].type not in _READING:
        raise QueryError(f"This is {statements[0].type.name} and the catalog is only read: write a SELECT.")
    return statements[0]


def _check_names(wanted: set[str], given: Mapping[str, Value]) -> None:
    for unknown in sorted(given.keys() - wanted):
        raise QueryError(f"The query has no parameter {unknown!r}: it takes {_listed(wanted)}.")
    for missing in sorted(wanted - given.keys()):
        raise QueryError(
            f"The parameter {missing!r} has no value: the query takes {_listed(wanted)}; add `-p {missing}=…`."
        )


def _listed(names: Mapping[str, Any] | set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _plain(table: pa.Table) -> pa.Table:
    """The table with int64 columns for the HUGEINTs that fit, which is what `sum` of an integer gives."""
    for i, field in enumerate(table.schema):
        if field.type == _HUGEINT:
            try:
                table = table.set_column(i, field.name, pc.cast(table.column(i), pa.int64()))
            except pa.ArrowInvalid:
                continue
    return table


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
