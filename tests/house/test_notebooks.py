"""The notebooks run from a clean kernel and say what they said when they were committed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shardscan

NOTEBOOKS = sorted(Path(__file__).parents[2].joinpath("notebooks").glob("*.ipynb"))
MAX_BYTES = 600_000
SECONDS = 300
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|tmp|Users|var|opt|usr|mnt|private)/|[A-Z]:\\|file://")

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@each_notebook
def test_is_committed_as_one_clean_run(path: Path) -> None:
    cells = code_cells(read(path))

    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell["outputs"] for cell in cells)
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    assert [output["text"] for cell in cells for output in cell["outputs"] if output.get("name") == "stderr"] == []


@each_notebook
def test_names_no_machine(path: Path) -> None:
    notebook = read(path)

    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert {key for cell in notebook["cells"] for key in cell["metadata"]} <= {"tags"}
    assert MACHINE_PATH.findall("\n".join(texts(notebook))) == []


@each_notebook
def test_is_small_enough_for_a_repository(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("File /home/someone/shardscan/ask.py", True),
        ("store='/tmp/tmpab12'", True),
        (r"C:\Users\someone", True),
        ("max |w| / rms, q/k against v/o", False),
        ("../tests/checkpoints.py", False),
    ],
)
def test_machine_paths_are_recognised(text: str, found: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is found


@pytest.mark.notebooks
@pytest.mark.real
@each_notebook
def test_runs_from_a_clean_kernel_and_finds_the_same(path: Path, smollm2: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(path, tmp_path))

    again, committed = (numbers_apart(tables(notebook)) for notebook in (execute(copy, smollm2), read(path)))

    assert again[0] == committed[0]
    assert [a for a in zip(again[1], committed[1], strict=True) if not is_printed_alike(*a)] == []


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        ("37.3", "37.4", True),
        ("37.3", "37.5", False),
        ("678", "679", False),
        ("1e-05", "1e-05", True),
        ("-0.5", "0.5", False),
    ],
)
def test_numbers_are_alike_to_one_unit_of_their_last_decimal(a: str, b: str, alike: bool) -> None:
    assert is_printed_alike(a, b) is alike


def numbers_apart(found: list[str]) -> tuple[list[str], list[str]]:
    """The texts with every number as # and their white space folded; the numbers."""
    text = "\n".join(found)
    return NUMBER.sub("#", text).split(), NUMBER.findall(text)


def is_printed_alike(a: str, b: str) -> bool:
    """Equal, or rounded to neighbouring decimals: another LAPACK may fall on the other side of the edge."""
    decimals = len(a.partition(".")[2])
    return a == b or ("e" not in a and decimals > 0 and abs(float(a) - float(b)) < 1.5 * 10.0**-decimals)


def execute(path: Path, checkpoint: Path) -> dict[str, Any]:
    """The notebook after a run in a kernel of this Python, which imports the shardscan that this test imports."""
    environment = os.environ | {
        "SHARDSCAN_SMOLLM2": str(checkpoint),
        "PYTHONPATH": str(Path(shardscan.__file__).parents[1]),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output", "run.ipynb"]
    command += [f"--ExecutePreprocessor.timeout={SECONDS}", "--ExecutePreprocessor.kernel_name=python3", path.name]
    run = subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, text=True, timeout=2 * SECONDS)
    assert run.returncode == 0, run.stderr[-3000:]
    return read(path.with_name("run.ipynb"))


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text())
    return notebook


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def tables(notebook: dict[str, Any]) -> list[str]:
    """Every table and printed text, but those of cells tagged `varies`: the numbers that the prose leans on."""
    return [
        text
        for cell in code_cells(notebook)
        if "varies" not in cell["metadata"].get("tags", [])
        for output in cell["outputs"]
        for text in readable(output)
    ]


def texts(notebook: dict[str, Any]) -> list[str]:
    """Everything that is written in a notebook: sources, printed text and tables, but not the bytes of a picture."""
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    return sources + [text for cell in code_cells(notebook) for output in cell["outputs"] for text in readable(output)]


def readable(output: dict[str, Any]) -> list[str]:
    data = {"text/plain": output.get("text", []), **output.get("data", {})}
    return ["".join(value) for kind, value in data.items() if kind.startswith("text/") and value]
