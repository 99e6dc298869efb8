"""What all tests share: stores that are made once, the lengths of the campaigns, and the count of what was tried."""

from __future__ import annotations

import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import settings

import shardscan
from made import catalogs, tiny
from made.catalogs import Catalog
from made.checkpoints import Unavailable, cached
from made.once import Once
from oracles.keys import repeated
from oracles.tally import Tally, summed, tally_into
from shardscan.catalog import build as building
from shardscan.catalog import empty


@pytest.fixture(scope="session", autouse=True)
def _keys_are_keys() -> Iterator[None]:
    """Every catalog that any test builds in this process has unique keys."""
    build = building.build

    def checked(folder: Path, *, rebuild: bool = False) -> Path:
        file = build(folder, rebuild=rebuild)
        assert repeated(file) == []
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "build", checked)
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What shardscan keeps in the user's cache folder is kept elsewhere, for commands in processes of their own too.

    An empty catalog is ready there from the start: runs whose writes are counted have none that is not the store's.
    """
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        empty.create(folder / "empty.duckdb")
        yield


# ---- how long the campaigns are, and what runs at all


@dataclass(frozen=True)
class Length:
    """Of a campaign: as a smoke in every run, and in full."""

    smoke: int
    full: int
    says: str


LENGTHS = {
    "every": Length(120, 24, "A fault at every n-th write of a small scan."),
    "kills": Length(4, 50, "Kills at random moments."),
    "writes": Length(2, 12, "Scans that are written while eight processes read."),
    "headers": Length(10_000, 100_000, "Mutated headers."),
}


def pytest_configure() -> None:
    """No example has a deadline; and what a shell runs in the background hears Ctrl-C, which it would ignore there."""
    settings.register_profile("slow and busy machines too", deadline=None)
    settings.load_profile("slow and busy machines too")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--campaigns", choices=("smoke", "full"), default="smoke", help="Faults, kills and strangers' files. [smoke]"
    )
    for name, length in LENGTHS.items():
        says = f"{length.says} [{length.smoke:,}, in full {length.full:,}]"
        parser.addoption(f"--{name}", type=int, default=None, help=says)
    parser.addoption("--notebooks", action="store_true", help="Run the notebooks, each in a kernel of its own.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test has the length of a campaign as an argument of its name."""
    option = metafunc.config.getoption
    for name in LENGTHS.keys() & set(metafunc.fixturenames):
        length = LENGTHS[name].full if option("--campaigns") == "full" else LENGTHS[name].smoke
        metafunc.parametrize(name, [length if option(f"--{name}") is None else option(f"--{name}")])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this run was not asked for."""
    full = config.getoption("--campaigns") == "full"
    asked = {"full_only": full, "real": full, "notebooks": config.getoption("--notebooks")}
    unasked = [item for item in items if any(item.get_closest_marker(mark) and not asked[mark] for mark in asked)]
    if unasked:
        config.hook.pytest_deselected(items=unasked)
        items[:] = [item for item in items if item not in set(unasked)]


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Count what a test tries and finds, from the moment on that it does: `tally(kills=1)`, `tally(lost=0)`."""
    return tally_into(record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests that are marked `faults` and `hostile` tried, as they counted it, and what came of it."""
    stats = terminalreporter.stats
    if sums := summed(report for outcome in ("passed", "failed") for report in stats.get(outcome, [])):
        terminalreporter.write_line(sums)


# ---- what is made once


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Once:
    """Folders that are made once for all workers: `once("name", make)`. Who changes one changes a copy."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if hasattr(request.config, "workerinput") else base) / "once"
    root.mkdir(exist_ok=True)
    return Once(root)


@pytest.fixture(scope="session")
def catalog(once: Once, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The catalog of `made.catalogs`, whose answers are known: this worker's own, read only."""

    def make(folder: Path) -> None:
        (folder / "known").write_bytes(pickle.dumps(catalogs.build(folder)))

    known: Catalog = pickle.loads((once("catalog", make) / "known").read_bytes())
    return replace(known, path=Path(shutil.copy(known.path, tmp_path_factory.mktemp("catalog"))))


@pytest.fixture(scope="session")
def scan_of_tiny(once: Once) -> Path:
    """The store of `tiny.llama` as `ingest` leaves it, read only; the checkpoint is `tiny` beside it."""

    def make(folder: Path) -> None:
        shardscan.ingest(tiny.llama(folder / "tiny"), folder / "scans")

    return once("tiny", make) / "scans"


@pytest.fixture
def tiny_scans(scan_of_tiny: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(scan_of_tiny, tmp_path / "scans")


@pytest.fixture(scope="session")
def two_scans(once: Once) -> Path:
    """The store of two models of one layer, `a` and `b`, read only; the checkpoints are beside it."""

    def make(folder: Path) -> None:
        for seed, name in enumerate("ab"):
            shardscan.ingest(tiny.llama(folder / name, seed=seed, inner=(8,)), folder / "scans")

    return once("two", make) / "scans"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2: BERT, one F32 shard. Tests that use it are marked `real`."""
    return _checkpoint("minilm")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct: Llama with GQA, BF16 in 5 shards. Tests that use it are marked `real`."""
    return _checkpoint("smollm2")


def _checkpoint(name: str) -> Path:
    try:
        return cached(name)
    except Unavailable as error:
        pytest.skip(str(error))
