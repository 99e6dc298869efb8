"""The shape of the house, read from imports: one library has one door, and the flow has one direction."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "shardscan"

DOORS = {
    "zarr": {"store"},
    "dask": {"reduce"},
    "duckdb": {"catalog", "ask"},
    "numba": {"kernels.cpu"},
    "cupy": {"kernels.gpu"},
    "matplotlib": {"plots"},
    "click": {"cli"},
    "mmap": {"shards"},
    "fsspec": {"shards"},
    "safetensors": {"demo"},
    "rich": {"tables", "progress"},
    "torch": set(),
    "transformers": set(),
    "pandas": set(),
    "pickle": set(),  # of strangers' files nothing is unpickled
    "zipfile": set(),  # it reads archives that other programs read otherwise
}

# left to right; a folder stands for all its modules, which may import each other
FLOW = (
    *("errors", "dtypes", "shards"),
    *("names", "codes", "adapters", "axes", "families", "sizes", "matrices", "anatomy", "composites"),
    *("tasks", "groups", "grid", "plan", "budget", "pairs", "pairs_budget"),
    *("kernels", "reduce"),
    *("commits", "writers", "layout", "store"),
    *("contents", "comparisons", "rows", "sqlfiles", "locked", "catalog"),
    *("memory", "environment", "resume", "keep", "comparing", "flow"),
    *("questions", "ask", "confined"),
    *("matching", "verifying"),
    *("cells", "pieces", "tables", "output"),
    *("progress", "listing", "explaining", "demo", "cli", "__main__"),
)

HEAVY = ("numpy", "numba", "dask", "zarr", "duckdb", "pyarrow", "rich", "scipy", "safetensors", "ml_dtypes")


def modules() -> dict[str, ast.Module]:
    """Every module by its name below the package: `store`, `reduce.scan`, `shards` for the folder's own `__init__`."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        found[name] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    """The full names of everything imported anywhere in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_module_level(tree: ast.Module) -> Iterator[str]:
    """The same for what runs when the module is imported: not in functions, not under TYPE_CHECKING."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)


def rooms(module: str) -> Iterator[str]:
    """`kernels`, `kernels.cpu` and `kernels.cpu.values` for the last: a module is in every folder around it."""
    words = module.split(".")
    yield from (".".join(words[: i + 1]) for i in range(len(words)))


def place(module: str) -> int:
    """How far right a module of ours stands."""
    return FLOW.index(module if module in FLOW else module.partition(".")[0])


def ours(imported: str, known: dict[str, ast.Module]) -> str | None:
    """The module of ours that `shardscan.store.write`, a name in it, comes from."""
    name = imported.removeprefix("shardscan.")
    if name == imported:
        return None
    return next((n for n in (name, name.rpartition(".")[0]) if n and n in known), None)


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    users = {name for name, tree in modules().items() if any(i.partition(".")[0] == library for i in imports(tree))}
    assert {user for user in users if not DOORS[library] & set(rooms(user))} == set()


def test_every_module_has_a_place_in_the_flow() -> None:
    unplaced = [name for name in modules() if name and name not in FLOW and name.partition(".")[0] not in FLOW]
    assert unplaced == []


def test_no_module_imports_one_to_its_right() -> None:
    known = modules()
    edges = {(name, ours(i, known)) for name, tree in known.items() if name for i in at_module_level(tree)}
    backwards = {(a, b) for a, b in edges if b and place(b) > place(a)}
    assert len(edges) > 50
    assert backwards == set()


def test_every_module_says_what_it_promises() -> None:
    assert [name for name, tree in modules().items() if not ast.get_docstring(tree)] == []


@pytest.mark.parametrize(
    "line", ["import shardscan", "from shardscan.cli import main; main(['--help'], 'x', None, False)"]
)
def test_nothing_heavy_loads_before_it_is_needed(line: str) -> None:
    code = f"{line}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.splitlines()[-1] == "[]"
