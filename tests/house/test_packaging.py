"""What an installation holds: SQL, families and the GPU's kernels travel in the wheel; a checkout uses its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRINT = (
    "from shardscan.catalog import sqlfiles; from shardscan.anatomy.families.loading import load_families; "
    "print(sqlfiles.folder(), *load_families())"
)
FAMILIES = sorted(path.stem for path in (ROOT / "shardscan" / "anatomy" / "families").glob("*.toml"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built and unpacked with nothing but what dev installs."""
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "installed"
    for name in ("shardscan", "sql"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*install, str(target), str(source)], check=True, capture_output=True)
    return target


def printed(where: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(where)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PRINT], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_wheel_brings_its_sql_and_its_families(installed: Path) -> None:
    assert printed(installed) == f"{installed / 'shardscan' / 'sql'} {' '.join(FAMILIES)}"


def test_a_checkout_uses_its_own_sql() -> None:
    assert printed(ROOT) == f"{ROOT / 'sql'} {' '.join(FAMILIES)}"


def test_the_wheel_holds_every_sql_file_and_no_tests(installed: Path) -> None:
    packed = {p.relative_to(installed / "shardscan" / "sql") for p in (installed / "shardscan" / "sql").rglob("*.sql")}
    assert packed == {p.relative_to(ROOT / "sql") for p in (ROOT / "sql").rglob("*.sql")}
    assert not list(installed.rglob("test_*.py"))


def test_the_wheel_holds_the_source_of_the_gpus_kernels(installed: Path) -> None:
    name = Path("shardscan", "reduce", "kernels", "gpu", "kernels.cu")
    assert (installed / name).read_text("ascii") == (ROOT / name).read_text("ascii")


def test_the_wheel_is_typed(installed: Path) -> None:
    assert (installed / "shardscan" / "py.typed").exists()
