"""The shape of the house, read from its sources: rooms in one order, no circles, one door for each library.

An import counts wherever it stands: at the top of a module, in a function, or under TYPE_CHECKING.
"""

import ast
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from pkgutil import resolve_name

import pytest

from shardscan.plan import products
from shardscan.reduce.products import Steps

PACKAGE = Path(__file__).resolve().parents[2] / "shardscan"

# from the ground up: a room imports only those before it
ROOMS = (
    *("version", "errors", "machine", "output", "shards", "anatomy", "plan", "reduce", "store"),
    *("catalog", "answers", "jobs", "cli"),
)
BESIDE = {"__init__.py", "__main__.py", "py.typed", "README.md", "errors.py", "machine.py", "version.py"}

DOORS = {
    "zarr": {"store.metadata"},
    "numcodecs": {"store.chunks"},
    "google_crc32c": {"store.chunks"},
    "dask": {"reduce"},
    "duckdb": {"catalog", "answers"},
    "numba": {"reduce.kernels.cpu"},
    "cupy": {"reduce.kernels.gpu"},
    "matplotlib": {"output.plots"},
    "click": {"cli"},
    "mmap": {"shards"},
    "fsspec": {"shards.sources"},
    "safetensors": {"jobs.demo"},
    "rich": {"output.table", "output.progress"},
    "torch": set(),
    "transformers": set(),
    "pandas": set(),
    "pickle": set(),  # of strangers' files nothing is unpickled
    "zipfile": set(),  # it reads archives that other programs read otherwise
}

HEAVY = ("numpy", "numba", "dask", "zarr", "duckdb", "pyarrow", "rich", "scipy", "safetensors", "ml_dtypes")

Sources = Mapping[str, str]


@cache
def sources() -> Sources:
    """The text of every module by its name below the package: `reduce.scan`; `reduce` is the folder's `__init__`."""
    found: dict[str, str] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        found[name] = file.read_text(encoding="utf-8")
    return found


@cache
def imported(text: str) -> tuple[str, ...]:
    """The full names of everything that a module imports anywhere."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def module_of(name: str, known: Sources) -> str | None:
    """The module of ours that `shardscan.store.arrays.write`, a name in it, comes from."""
    if not name.startswith("shardscan."):
        return None
    ours = name.removeprefix("shardscan.")
    return next((module for module in (ours, ours.rpartition(".")[0]) if module in known), None)


def room(module: str) -> str:
    return module.partition(".")[0]


def upward(known: Sources) -> set[tuple[str, str]]:
    """Every import of a room above: the module, and what it imports."""
    return {
        (module, name)
        for module, text in known.items()
        if room(module) in ROOMS
        for name in imported(text)
        if (theirs := module_of(name, known)) and ROOMS.index(room(theirs)) > ROOMS.index(room(module))
    }


def circle(known: Sources) -> list[str]:
    """Modules that import each other in a circle; none where there is no such circle."""
    arrows = {
        module: {theirs for name in imported(text) if (theirs := module_of(name, known)) and theirs != module}
        for module, text in known.items()
    }
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_the_first_level_is_the_rooms_and_what_belongs_to_none() -> None:
    found = {path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "sql")}
    folders = {name for name in ROOMS if f"{name}.py" not in BESIDE}
    assert found - BESIDE == folders


def test_no_room_imports_one_above_it() -> None:
    known = sources()
    assert sum(module_of(name, known) is not None for text in known.values() for name in imported(text)) > 200
    assert upward(known) == set()


def test_no_file_is_in_an_import_circle() -> None:
    assert circle(sources()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "from shardscan.jobs.scan import job\n",
        "def late():\n    import shardscan.jobs.scan.job\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from shardscan.jobs.scan.job import ingest\n",
    ],
    ids=["at the top", "in a function", "for types alone"],
)
def test_an_import_of_a_room_above_is_seen_wherever_it_stands(planted: str) -> None:
    known = sources()
    module = "reduce.moments"
    assert {one for one, _ in upward({**known, module: f"{known[module]}\n{planted}"})} == {module}


def test_a_circle_is_seen_also_through_types_and_functions() -> None:
    planted = {"a": "from shardscan.b import x", "b": "def f():\n    from shardscan.a import y"}
    assert set(circle(planted)) == {"a", "b"}


def test_what_plans_keeps_and_checks_knows_no_product_by_name() -> None:
    names = {f"shardscan.plan.products.{name}" for name in ("STATS", "HEADS", "FULL", "CIRCUITS", "DELTAS")}
    users = {module for module, text in sources().items() if names & set(imported(text))}
    # rows are a product's own, and `ingest` tells why there are no circuits
    assert {user for user in users if not user.startswith("catalog.rows.")} == {"cli.prints.scan"}
    texts = {m: text for m, text in sources().items() if m != "plan.products"}
    literals = ('"stats/1"', '"heads/1"', '"full/1"', '"circuits/1"', '"deltas/1"')
    assert {module for module, text in texts.items() if any(literal in text for literal in literals)} == set()


def test_every_product_names_steps_and_rows_that_are_there() -> None:
    for product in products.every():
        assert product.steps.startswith("shardscan.reduce.")
        assert product.rows.startswith("shardscan.catalog.rows.")
        assert isinstance(resolve_name(product.steps), Steps)
        assert callable(resolve_name(product.rows))


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    users = {m for m, text in sources().items() if any(name.partition(".")[0] == library for name in imported(text))}
    assert {user for user in users if not any(f"{user}.".startswith(f"{door}.") for door in DOORS[library])} == set()


def test_every_module_says_what_it_promises() -> None:
    assert [name for name, text in sources().items() if not ast.get_docstring(ast.parse(text))] == []


@pytest.mark.parametrize("package", ["store", "catalog"])
def test_what_a_query_loads_stays_empty(package: str) -> None:
    """Or the process that answers a query would load zarr."""
    assert len(ast.parse(sources()[package]).body) == 1


def loaded(code: str, modules: tuple[str, ...]) -> list[str]:
    """Which of some modules a new process has loaded after running `code`."""
    code = f"{code}\nimport sys\nprint(*(m for m in {modules!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "line", ["import shardscan", "from shardscan.cli import main; main(['--help'], 'x', None, False)"]
)
def test_nothing_heavy_loads_before_it_is_needed(line: str) -> None:
    assert loaded(line, HEAVY) == []


def test_a_query_loads_nothing_of_scans() -> None:
    modules = ("zarr", "dask", "numba", "msgspec", "shardscan.anatomy", "shardscan.shards")
    assert loaded("import shardscan.answers.bounded, shardscan.answers.connection", modules) == []
