"""ASK, what is asked: SQL and the values of its parameters, and the questions that ship as files. Pure.

Promises: text as typed becomes typed values here, once, and a name or value that does not fit is a `QueryError` before
anything is opened. Nothing here knows DuckDB.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shardscan.catalog import sqlfiles
from shardscan.errors import QueryError, QuestionNotFound, shown

MAX_DIGITS = 38  # every such number is a HUGEINT
_HEADER = re.compile(r"--\s*(title|why|parameter|example):\s*(.*)")
_PARAMETER = re.compile(r"(\w+) = (.*?): (.+)")

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Query:
    """One statement and the values that it binds; `model` is a pattern that has to fit a model, where there is one."""

    sql: str
    values: Mapping[str, Value]
    model: str | None = None


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


def make_query(sql: str, parameters: Mapping[str, str] | None = None) -> Query:
    """A statement with its parameters, which are text, as typed, and become int, float, true, false, null or text."""
    return Query(sql, {name: guess_value(text) for name, text in (parameters or {}).items()})


def bind_question(question: Question, parameters: Mapping[str, str] | None = None) -> Query:
    """A question with its parameters, each of the type of its default."""
    known = {parameter.name: parameter for parameter in question.parameters}
    given = parameters or {}
    for unknown in given.keys() - known.keys():
        raise QueryError(f"The question {question.name} has no parameter {unknown!r}: it takes {list_names(known)}.")
    values: dict[str, Value] = {parameter.name: parameter.default for parameter in question.parameters}
    values |= {key: _cast_text(text, known[key]) for key, text in given.items()}
    return Query(question.sql, values, given.get("model"))


def read_questions() -> dict[str, Question]:
    """Every question that ships with shardscan, by name."""
    return {name: parse_question(name, text) for name, text in sqlfiles.question_files().items()}


def find_question(name: str) -> Question:
    """The question of this name; QuestionNotFound lists the nearest names."""
    known = read_questions()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`shardscan questions` lists them."
    raise QuestionNotFound(f"There is no question {name!r}: {hint}")


def parse_question(name: str, text: str) -> Question:
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
        parameters=tuple(_parse_parameter(name, value) for value in fields["parameter"]),
        example=fields["example"][0],
        sql="\n".join(lines[length:]).strip().removesuffix(";"),
    )


def _parse_parameter(question: str, value: str) -> Parameter:
    match = _PARAMETER.fullmatch(value)
    default = guess_value(match[2]) if match else None
    if match is None or default is None:
        raise QueryError(
            f"The question {question} has a parameter that is no `name = default: description`: {value!r}."
        )
    return Parameter(match[1], default, match[3])


def guess_value(text: str) -> Value:
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


def _cast_text(text: str, parameter: Parameter) -> Value:
    wanted = type(parameter.default)
    if wanted is str:
        return text
    value = guess_value(text)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[wanted]
        raise QueryError(
            f"The parameter {parameter.name} is {kind}, not {shown(text)}: for example {parameter.default}."
        )
    return value


def list_names(names: Iterable[str]) -> str:
    """Names of parameters as a message lists them."""
    return ", ".join(sorted(names)) or "none"
