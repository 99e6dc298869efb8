"""Fixtures that several tests share, the options of the long campaigns, and the count of what was tried."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from made.checkpoints import Unavailable, cached
from oracles.keys import repeated
from shardscan.catalog import build as catalog


@pytest.fixture(scope="session", autouse=True)
def _keys_are_keys() -> Iterator[None]:
    """Every catalog that any test builds in this process has unique keys."""
    build = catalog.build

    def checked(folder: Path, *, rebuild: bool = False) -> Path:
        file = build(folder, rebuild=rebuild)
        assert repeated(file) == []
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "build", checked)
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What shardscan keeps in the user's cache folder is kept elsewhere, for commands in processes of their own too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


TRIED = ("inputs", "kills", "write faults")
FOUND = ("lost", "laxer", "tracebacks")


OPTIONS: dict[str, tuple[type, float, str]] = {
    "every": (int, 24, "A fault at every n-th write of a small scan."),
    "kills": (int, 50, "Kills at random moments."),
    "seconds": (float, 10, "How long eight readers meet one writer."),
    "headers": (int, 100_000, "Mutated headers."),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, (kind, default, help_) in OPTIONS.items():
        parser.addoption(f"--{name}", type=kind, default=default, help=f"{help_} [{default}]")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test has the value of an option as an argument of the same name."""
    for name in OPTIONS.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(name, [metafunc.config.getoption(f"--{name}")])


Tally = Callable[..., None]


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Count what a test tries and finds, from the moment on that it does: `tally(kills=1)`, `tally(lost=0)`."""

    def count(**numbers: int) -> None:
        for name, number in numbers.items():
            record_property(name.replace("_", " "), number)

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests that are marked `faults` and `hostile` tried, as they counted it, and what came of it."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    counts: Counter[str] = Counter()
    for report in reports:
        for name, value in report.user_properties:
            if name in TRIED + FOUND:
                counts[name] += value
    tried, found = (", ".join(f"{counts[n]:,} {n}" for n in names if n in counts) for names in (TRIED, FOUND))
    if tried:
        terminalreporter.write_line(f"{tried}: {found}")


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
