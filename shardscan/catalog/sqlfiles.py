"""Where the `.sql` files are: CATALOG runs schema and views, ASK runs questions, and jobs run queries of their own.

A wheel carries them as `shardscan/sql`; in a checkout they are the top-level `sql`. Where both are there the checkout
wins: its files are the ones somebody edits and git tracks, and a `shardscan/sql` inside a checkout can only be a copy
that an earlier build left behind. A checkout is told by a pyproject.toml that names this project, so that a wheel
unpacked into somebody else's project never reads that project's `sql`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from shardscan.errors import StoreError

SOURCE_KINDS = ("a scan", "a comparison", "alignments")
_TABLE = re.compile(r"((?:^--[^\n]*\n)*)^CREATE TABLE (\w+)", re.MULTILINE)
_HEADER = re.compile(r"^-- (key|summed|of): (.+?)\s*$", re.MULTILINE)
_SILENT = re.compile(r"--[^\n]*|'(?:[^']|'')*'")


@dataclass(frozen=True, slots=True)
class Table:
    """What the header above a CREATE TABLE says of it.

    `key` are the columns that are unique together, though no index enforces it; `of` is what its rows come of, one of
    SOURCE_KINDS; `summed` is a column of whole numbers of a large table, whose sum shows that no row was lost.
    """

    key: tuple[str, ...]
    of: str
    summed: str | None


def folder(package: Traversable | None = None) -> Traversable:
    """The folder of all `.sql` files; `package` is the installed `shardscan` unless given."""
    package = files("shardscan") if package is None else package
    if isinstance(package, Path) and _is_checkout(package.parent):
        return package.parent / "sql"
    packaged = package / "sql"
    if not (packaged / "schema").is_dir():
        raise StoreError(f"{packaged} is missing from this installation of shardscan: install it again.")
    return packaged


def _is_checkout(root: Path) -> bool:
    project = root / "pyproject.toml"
    return (
        (root / "sql" / "schema").is_dir()
        and project.is_file()
        and re.search(r'^name = "shardscan"$', project.read_text(encoding="utf-8"), re.MULTILINE) is not None
    )


def schema() -> list[str]:
    """Scripts of CREATE TABLE and COMMENT: the files of sql/schema, in the order of their names, then products' own."""
    from shardscan.plan import products  # here, or whoever reads a question would load what plans a scan

    return [*_read_texts("schema", None).values(), *(product.schema for product in products.every() if product.schema)]


def tables() -> Mapping[str, Table]:
    """Every table by its name, in the order of the scripts of `schema`."""
    return _read_headers(tuple(schema()))


@cache
def _read_headers(scripts: Sequence[str]) -> Mapping[str, Table]:
    return {name: _read_header(name, header) for script in scripts for header, name in _TABLE.findall(script)}


def _read_header(name: str, header: str) -> Table:
    """Lines `-- key: model, tensor`, `-- of: a scan` and, where there is one, `-- summed: bytes`."""
    fields = dict(_HEADER.findall(header))
    if "key" not in fields or fields.get("of") not in SOURCE_KINDS:
        raise StoreError(
            f"The SQL of the table {name} does not say what it is: write `-- key: COLUMN, …` and `-- of: "
            f"{'|'.join(SOURCE_KINDS)}` on lines of their own above its CREATE TABLE."
        )
    return Table(tuple(re.split(r",\s*", fields["key"])), fields["of"], fields.get("summed"))


def views(root: Traversable | None = None) -> dict[str, str]:
    """One script per view or table macro by its name, each after the ones that it uses.

    B uses A where A's name occurs as a word in B's SQL, comments and strings aside. A column of that name counts too,
    which costs nothing: it only puts A first.
    """
    texts = _read_texts("views", root)
    words = {name: set(re.findall(r"\w+", _SILENT.sub(" ", text))) for name, text in texts.items()}
    uses = {name: [other for other in texts if other != name and other in words[name]] for name in texts}
    return {name: texts[name] for name in TopologicalSorter(uses).static_order()}


def question_files(root: Traversable | None = None) -> dict[str, str]:
    """The text of every question by its name, in the order of the names."""
    return dict(_read_texts("questions", root))


@cache
def job_sql(job: str, name: str) -> str:
    """A query of a job, such as 'modules' of 'comparison'; its header says what it gives."""
    return (folder() / "jobs" / job / f"{name}.sql").read_text(encoding="utf-8")


def _read_texts(kind: str, root: Traversable | None) -> Mapping[str, str]:
    """The text of every `.sql` file of a folder by its name, in the order of the names."""
    return _read_shipped(kind) if root is None else _read_folder(root / kind)


@cache
def _read_shipped(kind: str) -> Mapping[str, str]:
    return _read_folder(folder() / kind)


def _read_folder(there: Traversable) -> Mapping[str, str]:
    files_of_sql = sorted((file for file in there.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return {file.name.removesuffix(".sql"): file.read_text(encoding="utf-8") for file in files_of_sql}
