"""The documents: short where people begin, complete where they look things up, and true of the code."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from house.generated import PART, PARTS, ROOT, list_documents, renew
from shardscan import errors
from shardscan.cli import main
from shardscan.cli.frame import EXIT_CODES, INCOMPLETE, UNCLEAN
from shardscan.output import progress

README = ROOT / "README.md"
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in list_documents()}
MOST_BYTES = 9_000  # of README: what somebody reads in two minutes
CODE = re.compile(r"^```.*?^```|^(?: {4}[^\n]*\n)+|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
TIMED = re.compile(r"in [\d.,]+ s\.$")
MEANWHILE = re.compile(rf"^Compiling |: [\d.]+ of [\d.]+ [kMG]B|{progress.FINISHING}")


def find_links(text: str) -> Iterator[str]:
    """The targets of all links of a document, those within code aside."""
    return (link[1] for link in LINK.finditer(CODE.sub("", text)))


def list_anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_broken_links(documents: dict[str, str]) -> list[str]:
    """Every link within the repository that leads to no file, or to no heading of a document."""
    broken = []
    for name, text in documents.items():
        for link in find_links(text):
            file, _, anchor = link.partition("#")
            if re.match(r"\w+:", link):
                continue
            target = (ROOT / name).parent.joinpath(file).resolve() if file else ROOT / name
            is_there = target.exists() and target.is_relative_to(ROOT)
            if not is_there or (anchor and anchor not in list_anchors(documents[str(target.relative_to(ROOT))])):
                broken.append(f"{name}: {link}")
    return broken


def read_tour() -> Iterator[tuple[list[str], list[str]]]:
    """Every command of README's tour with the lines that it shows of what the command prints."""
    tour = README.read_text("utf-8").partition("## A tour")[2].partition("\n## ")[0]
    for block in re.findall(r"^    \$ .*\n(?:^    .*\n)*", tour, re.MULTILINE):
        command, *lines = (line[4:] for line in block.splitlines())
        yield shlex.split(command.removeprefix("$ shardscan ")), lines


def shows(lines: list[str], printed: list[str]) -> bool:
    """Whether a document's lines are those that were printed, in order, `…` standing for any lines or none."""
    if not lines:
        return not printed
    if lines[0] == "…":
        return any(shows(lines[1:], printed[i:]) for i in range(len(printed) + 1))
    return bool(printed) and lines[0] == printed[0] and shows(lines[1:], printed[1:])


def mask_time(lines: list[str]) -> list[str]:
    """The lines without what depends on time: how long it took, and what a slow machine says meanwhile."""
    return [TIMED.sub("in … s.", line) for line in lines if not MEANWHILE.search(line)]


def test_readme_is_read_in_two_minutes() -> None:
    assert len(README.read_bytes()) <= MOST_BYTES


def test_every_link_leads_somewhere() -> None:
    assert sum(len(list(find_links(text))) for text in DOCUMENTS.values()) > 50
    assert find_broken_links(DOCUMENTS) == []


@pytest.mark.parametrize("link", ["nothing.md", "#nowhere", "README.md#nowhere", "../../beyond.md"])
def test_a_broken_link_is_seen(link: str) -> None:
    assert find_broken_links({"README.md": f"# Here\n\n[this](#here) and [that]({link})"}) == [f"README.md: {link}"]


def test_readme_links_to_every_document() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in find_links(DOCUMENTS["README.md"])}
    assert {name for name in DOCUMENTS if (ROOT / name) not in linked} == {"README.md"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_parts_are_current(name: str) -> None:
    assert renew(DOCUMENTS[name]) == DOCUMENTS[name], "python tests/house/generated.py writes it again"


def test_every_generated_part_is_in_a_document() -> None:
    assert sorted(part[2] for text in DOCUMENTS.values() for part in PART.finditer(text)) == sorted(PARTS)


@pytest.mark.parametrize("name", main.commands)
def test_every_command_and_option_is_documented(name: str) -> None:
    section = re.search(rf"^### shardscan {name}\n(.*?)(?=^### |\Z)", DOCUMENTS["shardscan/cli/README.md"], re.M | re.S)
    assert section
    options = [p for p in main.commands[name].params if isinstance(p, click.Option)]
    assert [o for p in options for o in p.opts if not re.search(rf"[`, ]{o}[`, ]", section[1])] == []
    variables = [p.envvar for p in options if isinstance(p.envvar, str)]
    assert [v for v in variables if f"`{v}`" not in DOCUMENTS["shardscan/cli/README.md"]] == []


def test_documents_help_and_errors_tell_of_the_same_exit_codes() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.ShardscanError)]
    signals = {128 + signal.SIGINT, 128 + signal.SIGTERM}
    codes = {0, 2, INCOMPLETE, UNCLEAN, *signals} | {c.exit_code for c in classes}
    table = DOCUMENTS["shardscan/cli/README.md"].partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(n) for n in re.findall(r"^ +(\d+)  ", EXIT_CODES, re.MULTILINE)} == codes
    assert {int(n) for n in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == codes
    assert {int(n) for n in re.findall(r"^\| (\d+) \|", errors.__doc__ or "", re.MULTILINE)} == codes


def test_what_is_shown_may_leave_lines_out_and_change_none() -> None:
    assert shows(["a", "…", "c"], ["a", "b", "c"]) and shows(["a", "…"], ["a"])
    assert not shows(["a", "c"], ["a", "b", "c"]) and not shows(["a", "…", "d"], ["a", "b", "c"])


def test_a_slow_machine_shows_the_same() -> None:
    slow = [
        *(
            "Compiling the kernels, which happens once and takes up to a minute.",
            "Read 1.0 MB and built the catalog in 9 s.",
        ),
        *(
            f"m: {progress.describe_progress(10**7, 10**9, None)}.",
            f"m: {progress.describe_progress(10**9, 10**9, 10**6)}.",
        ),
    ]
    assert mask_time(slow) == mask_time(["Read 1.0 MB and built the catalog in 1,234.5 s."])


@pytest.mark.real
def test_the_tours_listing_is_what_the_command_prints(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "125")
    (tmp_path / "SmolLM2-135M").symlink_to(smollm2)
    monkeypatch.chdir(tmp_path)
    (words, lines), *_ = read_tour()
    assert words[0] == "ls"
    assert shows(lines, take_the_tour(words))


@pytest.mark.real
def test_the_tour_is_what_its_commands_print(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "125")
    (tmp_path / "SmolLM2-135M").symlink_to(smollm2)
    monkeypatch.chdir(tmp_path)
    tour = list(read_tour())
    assert [words[0] for words, _ in tour] == ["ls", "ingest", "ask", "sql"]
    for words, lines in tour:
        assert shows(mask_time(lines), take_the_tour(words)), words


def take_the_tour(words: list[str]) -> list[str]:
    """What a command of the tour prints on a terminal, sentences and rows, without the times that it took."""
    done = CliRunner().invoke(main, [*words, "--format", "table"])
    assert done.exit_code == 0, done.output
    return mask_time([line.rstrip() for line in done.output.splitlines()])
