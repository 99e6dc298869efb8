"""ASK: read-only, locked connections to a store's catalog, and what they answer; the last step before output.

This is the only module that reads DuckDB. It promises that nothing typed here, by a user or by a stranger who wrote a
query for them, reaches a file, the network, a Python variable or the catalog's own rows: the catalog is attached
read-only and alone, no file can be opened after it, and the configuration is locked before the first statement. An
unlocked connection is an ordinary one, but for the catalog, which stays read-only. What comes back is an Arrow table of
plain columns. Everything that goes wrong is a `QueryError` or a `StoreError`; DuckDB's own exceptions end here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from shardscan.answers.questions import Query, Question, Value, bind_question, find_question, list_names, make_query
from shardscan.catalog.lockdown import LOCK, SETTINGS
from shardscan.catalog.paths import attach_read_only
from shardscan.errors import QueryError, QueryStopped, StoreError, StoreNotFound, cut, shown
from shardscan.store.names import CATALOG

Connection = duckdb.DuckDBPyConnection

_HUGEINT = pa.decimal128(38, 0)
_READING = ("SELECT", "EXPLAIN", "PRAGMA", "MULTI")  # MULTI is what PIVOT is
_REACHING = ("ATTACH", "COPY", "EXPORT", "LOAD", "SET")  # what an unlocked connection takes
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(\([^()]*\)\s*)?", re.IGNORECASE)
# COPY FROM DATABASE, IMPORT DATABASE and settings are PRAGMAs too
_PRAGMA = re.compile(
    r"\s*pragma\s+(database_list|database_size|show_tables|storage_info|table_info|version)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Access:
    """How much memory a connection may take, in bytes, and whether it may reach files, the network and settings."""

    memory: int = 4 * 10**9
    unlocked: bool = False


LOCKED = Access()


def connect(store: str | Path, access: Access = LOCKED) -> duckdb.DuckDBPyConnection:
    """A read-only, locked connection to the catalog of a store, or to a `.duckdb` file itself; close it with `with`.

    It sees the catalog as it is now, also where an older connection is still open and sees the one before. Nothing
    spills to disk: a query that needs more memory than `access` says fails.
    """
    path = _find_catalog(Path(store))
    config: dict[str, Any] = {
        "python_enable_replacements": False,
        "memory_limit": f"{access.memory}B",
        "temp_directory": "",
        "threads": min(os.cpu_count() or 1, 8),
        "async_threads": 0,  # eight threads that wait for remote files, each with memory of its own
    }
    if not access.unlocked:
        config |= SETTINGS
    # in memory: a process has one database for each path, which would be the old file after the catalog is renamed
    connection = duckdb.connect(config=config)
    try:
        # without the database in memory nothing is left that could be written to
        attach_read_only(connection, path, "catalog")
        for statement in ("USE catalog", *(() if access.unlocked else ("DETACH memory", *LOCK))):
            connection.execute(statement).fetchall()
    except (duckdb.Error, OSError, UnicodeError) as error:
        connection.close()
        if isinstance(error, duckdb.OutOfMemoryException):
            raise _too_large(access) from error
        raise StoreError(
            f"{path} cannot be opened as a catalog ({_first_line(error)}): "
            "build it again with `shardscan catalog --rebuild`, or use the shardscan that wrote it."
        ) from error
    return connection


def _find_catalog(store: Path) -> Path:
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


def run_sql(store: str | Path, sql: str, parameters: Mapping[str, str] | None = None) -> pa.Table:
    """The rows of one statement; `parameters` are text, as typed, and become int, float, true, false, null or text."""
    return run_query(store, make_query(sql, parameters))


def ask(store: str | Path, name: str, parameters: Mapping[str, str] | None = None) -> pa.Table:
    """The answer to a named question; each value in `parameters` is cast to the type of that parameter's default."""
    return answer_question(store, find_question(name), parameters)


def answer_question(store: str | Path, question: Question, parameters: Mapping[str, str] | None = None) -> pa.Table:
    """The answer to a question, one that ships or one from a file of the user's; see `ask`.

    QueryError where its `model` pattern fits no model: an empty answer would read as good news.
    """
    return run_query(store, bind_question(question, parameters))


def run_query(store: str | Path, query: Query, access: Access = LOCKED) -> pa.Table:
    """The rows of a query in this process, which has no clock: `bounded.run_bounded` has one."""
    with connect(store, access) as connection:
        if query.model is not None:
            _check_model(connection, query.model, access)
        return _run_statement(connection, query.sql, query.values, access)


def _check_model(connection: duckdb.DuckDBPyConnection, pattern: str, access: Access) -> None:
    sql = "SELECT model, model LIKE $model AS fits FROM models ORDER BY model"
    models = _run_statement(connection, sql, {"model": pattern}, access)
    if not any(models["fits"].to_pylist()):
        names = ", ".join(shown(name) for name in models["model"].to_pylist()) or "none"
        raise QueryError(f"No model here is like {shown(pattern)}: there are {names}; % stands for anything.")


def _run_statement(
    connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Value], access: Access
) -> pa.Table:
    for text in (sql, *(value for value in values.values() if isinstance(value, str))):
        _check_text(text)
    with _translating_errors(connection, sql, values, access):
        statement = _only_statement(sql)
        if not access.unlocked:
            _check_reading(statement)
        _check_names(statement.named_parameters, values)
        return _narrow_hugeints(_wait_interruptibly(connection, lambda: _fetch_table(connection, statement, values)))


@contextmanager
def _translating_errors(
    connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Value], access: Access
) -> Iterator[None]:
    """DuckDB's exceptions as ours."""
    try:
        yield
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise _too_large(access) from error
    except pa.ArrowException as error:
        raise QueryError(f"Arrow cannot hold this result ({_first_line(error)}): cast its columns to text.") from error
    except (duckdb.InternalException, duckdb.FatalException) as error:
        raise QueryError(f"DuckDB failed at this query ({_first_line(error)}): write it in another way.") from error
    except duckdb.Error as error:
        if isinstance(error, duckdb.PermissionException) or "the configuration has been locked" in str(error):
            raise QueryError(f"{_first_line(error)}: {_HOW_TO_UNLOCK}.") from error
        if isinstance(error, duckdb.BinderException | duckdb.CatalogException):
            raise QueryError(_cut_message(_point_at_error(connection, sql, values, error))) from error
        raise QueryError(_cut_message(str(error))) from error


_HOW_TO_UNLOCK = "files, the network and settings are locked here, and `shardscan sql --unlocked` opens them"


def _too_large(access: Access) -> QueryStopped:
    return QueryStopped(
        f"The query needs more than the {-(-access.memory // 10**6):,} MB of memory that it may take: ask for less, or "
        "allow more with --memory."
    )


def fetch_rows(connection: Connection, sql: str, values: Mapping[str, Value]) -> pa.Table:
    """The rows of one statement of ours, over a connection that `connect` gave."""
    with _translating_errors(connection, sql, values, LOCKED):
        return _narrow_hugeints(_wait_interruptibly(connection, lambda: _fetch_table(connection, sql, values)))


def _fetch_table(connection: Connection, statement: duckdb.Statement | str, values: Mapping[str, Value]) -> pa.Table:
    relation = connection.sql(statement, params=dict(values)) if values else connection.sql(statement)
    return pa.table({}) if relation is None else relation.to_arrow_table()


def _wait_interruptibly(connection: duckdb.DuckDBPyConnection, read: Callable[[], pa.Table]) -> pa.Table:
    """What `read` returns; Ctrl-C stops it, also where DuckDB would be deep in one task and never look for signals."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            return reading.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise


def _point_at_error(
    connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Value], error: Exception
) -> str:
    """The message with DuckDB's caret lines, which only `execute` gives; nothing runs: binding fails again."""
    try:
        connection.execute(sql, dict(values))
    except duckdb.Error as error_with_caret:
        return str(error_with_caret)
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
    return statements[0]


def _check_reading(statement: duckdb.Statement) -> None:
    """Refuse what is made to change something, although nothing here could be changed."""
    kind = _name_kind(statement)
    reads = kind in _READING
    if kind == "PRAGMA":
        reads = bool(_PRAGMA.match(statement.query))
    elif kind == "EXPLAIN":  # EXPLAIN ANALYZE runs what it explains
        explained = duckdb.extract_statements(_EXPLAIN.sub("", statement.query, count=1))
        reads = [_name_kind(inner) for inner in explained] == ["SELECT"]
    if not reads:
        hint = f"; {_HOW_TO_UNLOCK}" if kind in _REACHING else ""
        raise QueryError(f"This is {kind} and the catalog is only read: write a SELECT{hint}.")


def _name_kind(statement: duckdb.Statement) -> str:
    try:
        return str(statement.type.name)
    except ValueError:  # a type that DuckDB's Python side does not know: UPDATE EXTENSIONS
        return "no SELECT"


def _check_names(parameters: set[str], given: Mapping[str, Value]) -> None:
    for unknown in sorted(given.keys() - parameters):
        raise QueryError(f"The query has no parameter {unknown!r}: it takes {list_names(parameters)}.")
    for missing in sorted(parameters - given.keys()):
        raise QueryError(
            f"The parameter {missing!r} has no value: the query takes {list_names(parameters)}; add `-p {missing}=…`."
        )


def _narrow_hugeints(table: pa.Table) -> pa.Table:
    """The table with int64 columns for the HUGEINTs that fit, which is what `sum` of an integer gives."""
    for i, field in enumerate(table.schema):
        if field.type == _HUGEINT:
            try:
                table = table.set_column(i, field.name, table.column(i).cast(pa.int64()))
            except pa.ArrowInvalid:
                continue
    return table


def _first_line(error: Exception) -> str:
    return _cut_message(str(error).splitlines()[0].rstrip("."))


def _cut_message(message: str) -> str:
    """DuckDB quotes values whole."""
    return cut(message, 4_000)
