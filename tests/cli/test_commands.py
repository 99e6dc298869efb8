"""The command line as people and pipes use it: help, options, environment, stdout and stderr, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from made import tiny
from made.commands import ROOT, command, environment
from shardscan import errors
from shardscan.cli import main
from shardscan.cli.frame import EXIT_CODES, INCOMPLETE, UNCLEAN
from shardscan.jobs.scan import prepare as preparing
from shardscan.output import progress
from shardscan.output.writer import ENDINGS, FORMATS

ROW_PRINTING = ["demo", "ls", "anatomy", "ingest", "diff", "sql", "ask", "questions", "catalog", "verify", "info"]
USES_STORE = ["ingest", "diff", "sql", "ask", "catalog"]
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint `model` and the store `scans` that it was scanned into."""
    folder = tmp_path_factory.mktemp("home")
    tiny.llama(folder / "model")
    run = CliRunner().invoke(
        main, ["ingest", str(folder / "model"), "--store", str(folder / "scans"), "--workers", "1"]
    )
    assert run.exit_code == 0, run.stderr
    return folder


@pytest.fixture(name="run")
def _run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in `home`, with nothing of ours in the environment."""
    for name in [name for name in os.environ if name.startswith("SHARDSCAN")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(home)

    def run(*words: str, stdin: str | bytes | None = None, **environment: str) -> Result:
        return CliRunner().invoke(main, words, input=stdin, env=environment)

    return run


# ---- help


def test_the_commands_are_listed_in_the_order_of_a_first_session(run: Run) -> None:
    shown = run("--help").stdout.partition("Commands:")[2]
    assert re.findall(r"^  (\w+)  ", shown, re.MULTILINE) == ROW_PRINTING
    assert "..." not in shown


@pytest.mark.parametrize("name", main.commands)
def test_every_command_has_help_with_an_example_that_it_understands(name: str, run: Run) -> None:
    help_ = run(name, "--help").stdout
    examples = re.findall(rf"^  shardscan {name}\b.*$", help_, re.MULTILINE)
    assert examples
    used = {word for example in examples for word in re.findall(r"(?<=\s)--?[a-z-]+", example)}
    known = {option for parameter in main.commands[name].params for option in parameter.opts}
    assert used <= known


def test_help_documents_every_exit_code(run: Run) -> None:
    tree = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.ShardscanError)]
    wanted = {0, 2, INCOMPLETE, INTERRUPTED, TERMINATED, UNCLEAN, *(c.exit_code for c in tree)}
    assert {int(code) for code in re.findall(r"^ +(\d+)  ", EXIT_CODES, re.MULTILINE)} == wanted
    assert all(line.strip() in run("--help").stdout for line in EXIT_CODES.splitlines()[2:])


@pytest.mark.parametrize("name", ROW_PRINTING)
def test_every_command_that_prints_rows_has_the_same_output_options(name: str) -> None:
    options = {p.name: p for p in main.commands[name].params if isinstance(p, click.Option)}
    assert {tuple(options[o].opts) for o in ("format_", "output")} == {("--format",), ("-o", "--output")}
    assert isinstance(options["format_"].type, click.Choice)
    assert tuple(options["format_"].type.choices) == FORMATS


def test_the_version_is_the_packages(run: Run) -> None:
    from shardscan.version import __version__

    assert run("--version").stdout == f"shardscan, version {__version__}\n"


# ---- stdout is data, stderr is the rest


@pytest.mark.parametrize(
    "words",
    [
        ("ls", "model"),
        ("ls", "model", "--long"),
        ("anatomy", "model"),
        ("ingest", "model", "--dry-run"),
        ("ingest", "model"),
        ("sql", "select role, count(*) as n from tensors group by role"),
        ("ask", "models"),
        ("questions",),
        ("catalog",),
        ("info",),
    ],
)
def test_stdout_holds_rows_and_nothing_else_in_every_format(words: tuple[str, ...], run: Run) -> None:
    lines = run(*words)
    assert lines.exit_code == 0, lines.output
    rows = [json.loads(line) for line in lines.stdout.splitlines()]
    assert rows
    same = [json.loads(run(*words, "--format", "json").stdout), list(run_parquet(run, words))]
    assert [[sorted(row) for row in other] for other in same] == [[sorted(row) for row in rows]] * 2
    assert len(run(*words, "--format", "csv").stdout.splitlines()) >= len(rows) + 1


def run_parquet(run: Run, words: tuple[str, ...]) -> Iterator[dict[str, object]]:
    done = run(*words, "-o", "rows.parquet")
    assert (done.exit_code, done.stdout) == (0, "")
    yield from pq.read_table("rows.parquet").to_pylist()


def test_a_query_says_nothing_on_stderr(run: Run) -> None:
    assert run("sql", "select 1 as one").stderr == ""


def test_ls_shows_places_and_long_shows_why(run: Run) -> None:
    short, long = (json.loads(run("ls", "model", "--format", "json", *more).stdout) for more in ((), ("-l",)))
    first = {"tensor": "lm_head.weight", "layer": None, "role": "lm_head", "part": "weight"}
    q = next(row for row in short if row["tensor"] == "model.layers.1.self_attn.q_proj.weight")
    assert (q["layer"], q["role"], q["heads"], q["dtype"], q["shape"]) == (1, "q_proj", 4, "BF16", [32, 16])
    assert first not in short
    assert {"component", "parameters", "file", "reason"} == set(long[0]) - set(short[0])


def test_notes_are_sentences_on_stderr(home: Path, run: Run) -> None:
    tiny.llama(home / "noted")
    (home / "noted" / "pytorch_model.bin").write_bytes(b"")
    done = run("ls", "noted")
    notes = [line for line in done.stderr.splitlines() if line.startswith("Note: ")]
    assert notes == ["Note: 'pytorch_model.bin' left out: only the safetensors files were read."]
    assert all(line.endswith(".") for line in done.stderr.splitlines())


def test_ingest_says_what_it_scans_and_what_it_read(home: Path, run: Run) -> None:
    first, again = run("ingest", "model", "--store", "twice"), run("ingest", "model", "--store", "twice")
    size = f"{json.loads(first.stdout)['bytes_read'] / 1000:.1f} kB"
    assert re.search(
        rf"^model: \d+ tensors, .* {re.escape(size)} in 1 file; family llama, 100 % of the parameters placed\.$",
        first.stderr,
        re.MULTILINE,
    )
    assert re.search(rf"^Read {re.escape(size)} and built the catalog in \d+\.\d s\.$", first.stderr, re.MULTILINE)
    assert "Everything of model was committed already: nothing was scanned." in again.stderr
    assert json.loads(again.stdout)["bytes_read"] == 0


def test_a_tensor_that_fails_is_named_and_the_exit_code_says_so(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny.llama(home / "shrinking") / "model.safetensors"
    prepare = preparing.prepare

    def prepare_then_shrink(*given: Any, **named: Any) -> preparing.Prepared:
        prepared = prepare(*given, **named)
        file.write_bytes(file.read_bytes()[:-8])
        return prepared

    monkeypatch.setattr(preparing, "prepare", prepare_then_shrink)
    done = run("ingest", "shrinking", "--store", "failing")
    assert (done.exit_code, json.loads(done.stdout)["failed"]) == (INCOMPLETE, 16)  # all of the file
    assert re.search(r"^Failed: 'model\..*': .* is shorter than its header says: .*\.$", done.stderr, re.MULTILINE)


# ---- options and environment


def test_workers_is_at_least_one(run: Run) -> None:
    for words, env in ((("--workers", "0"), {}), ((), {"SHARDSCAN_WORKERS": "0"}), (("--workers", "many"), {})):
        done = run("ingest", "model", *words, **env)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "--workers" in done.stderr


def test_store_workers_and_format_come_from_the_environment(home: Path, run: Run) -> None:
    env = {"SHARDSCAN_STORE": "elsewhere", "SHARDSCAN_WORKERS": "1", "SHARDSCAN_FORMAT": "json"}
    done = run("ingest", "model", **env)
    assert [row["store"] for row in json.loads(done.stdout)] == ["elsewhere"]
    asked = run("sql", "select options->>'workers' as workers from runs", **env)
    assert json.loads(asked.stdout) == [{"workers": "1"}]
    assert run("sql", "select 1 as one", "--format", "csv", **env).stdout == '"one"\n1\n'
    assert run("sql", "select 1", SHARDSCAN_FORMAT="sideways").exit_code == 2


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_outputs_ending_goes_before_the_environments_format(ending: str, home: Path, run: Run) -> None:
    done = run("sql", "select 1 as one", "-o", f"env{ending}", SHARDSCAN_FORMAT="json")
    assert (done.exit_code, done.output) == (0, "")
    assert (home / f"env{ending}").stat().st_size > 0


def test_a_format_that_contradicts_the_ending_is_refused(run: Run) -> None:
    assert run("sql", "select 1 as one", "-o", "rows.csv", "--format", "json").exit_code == 7


def test_parameters_are_named_and_typed(run: Run) -> None:
    query = "select $n + 1 as n, $word as word, $none is null as none"
    done = run("sql", query, "-p", "n=41", "-p", "word=a=b", "-p", "none=null")
    assert json.loads(done.stdout) == {"n": 42, "word": "a=b", "none": True}


@pytest.mark.parametrize("words", ["n", "=1", ""])
def test_a_parameter_without_name_or_sign_is_refused(words: str, run: Run) -> None:
    done = run("sql", "select 1", "-p", words)
    assert (done.exit_code, done.stderr) == (6, f"Error: -p takes NAME=VALUE, such as -p layer=3, not {words!r}.\n")


def test_a_query_comes_from_a_file_or_from_stdin(home: Path, run: Run) -> None:
    (home / "query.sql").write_text("\ufeffselect 'é' as word -- a comment\n", "utf-8")
    for done in (run("sql", "@query.sql"), run("sql", "-", stdin="select 'é' as word")):
        assert json.loads(done.stdout) == {"word": "é"}


def test_a_value_in_an_error_cannot_steer_a_terminal_nor_flood_it(run: Run) -> None:
    done = run("sql", "select (chr(27) || '[2J' || repeat('x', 1000000))::int")
    assert (done.exit_code, done.stdout) == (6, "")
    assert r"'\x1b[2Jxxx" in done.stderr
    assert len(done.stderr) < 5_000


# ---- processes


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    words = command("sql", "select range as i from range(1000000)", "--store", str(home / "scans"))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b'{"i": 0}\n'
        process.stdout.close()
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (0, b"")


def test_an_interrupt_ends_in_a_sentence_and_130() -> None:
    with subprocess.Popen(
        command("sql", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin
        # more than a pipe holds: once it is written, the command is there and reads
        process.stdin.write(b" " * 1_000_000)
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=600)
    assert (process.returncode, *shown) == (INTERRUPTED, b"", b"Interrupted.\n")


# ---- progress


def test_progress_is_in_bytes_of_one_unit_a_second_and_time_left() -> None:
    assert progress.describe_progress(400, 800, 100) == "0.40 of 0.80 kB, 0.10 kB/s, 4 s left"
    assert progress.describe_progress(400_000, 800_000, 1e5) == "400.00 of 800.00 kB, 100.00 kB/s, 4 s left"
    assert progress.describe_progress(4_000_000, 8_000_000, None) == "4.00 of 8.00 MB"
    assert progress.describe_progress(0, 8_030_000_000, None) == "0.00 of 8.03 GB"
    assert progress.describe_progress(1_200_000_000, 8_030_000_000, 1.21e9) == "1.20 of 8.03 GB, 1.21 GB/s, 6 s left"
    assert progress.describe_progress(0, 1_000_000_000_000, 1e9) == "0.00 of 1000.00 GB, 1.00 GB/s, 16 min left"
    assert progress.describe_progress(0, 14_400_000_000_000, 1e9) == "0.00 of 14400.00 GB, 1.00 GB/s, 4.0 h left"


def test_a_log_hears_of_long_work_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("shardscan.output.progress.time.monotonic", lambda: now)
    with progress.showing_progress("model") as advance:
        for now in range(1, 26):
            advance(now * 1_000_000_000, 25_000_000_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "model: 10.00 of 25.00 GB, 1.00 GB/s, 15 s left.",
        "model: 20.00 of 25.00 GB, 1.00 GB/s, 5 s left.",
    ]


def test_a_terminal_sees_a_bar_and_stdout_stays_clean(home: Path) -> None:
    terminal, theirs = pty.openpty()
    words = command("ingest", str(home / "model"), "--store", str(home / "seen"), "--workers", "1")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=theirs, env=environment() | {"TERM": "xterm", "COLUMNS": "100"}
    ) as process:
        os.close(theirs)
        assert process.stdout
        shown = b"".join(iter(lambda: _read(terminal), b"")).decode()
        rows = process.stdout.read()
    assert process.returncode == 0
    assert len(rows.splitlines()) == 1
    assert json.loads(rows)["failed"] == 0
    assert "━" in shown
    assert progress.FINISHING in shown
    assert "Read " in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side of a terminal is closed
        return b""


def test_a_question_of_ones_own_is_asked_from_its_file_with_its_defaults(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "wide.sql"
    own.write_text(
        "-- title: Wide tensors\n-- why: To see.\n-- parameter: least = 20: rows\n-- example: shardscan sql @wide.sql\n"
        "SELECT count(*) AS n FROM matrices WHERE rows >= $least\n"
    )
    few, many = (run("sql", f"@{own}", *given) for given in ((), ("-p", "least=1")))
    assert json.loads(few.stdout)["n"] < json.loads(many.stdout)["n"]


def test_a_model_that_is_not_there_is_no_empty_answer(run: Run) -> None:
    asked = run("ask", "outliers", "-p", "model=Model")
    assert (asked.exit_code, asked.stdout) == (6, "")
    assert "No model here is like 'Model': there are 'model'" in asked.stderr


def test_no_rows_are_said_to_be_none_on_stderr(run: Run) -> None:
    asked = run("sql", "select 1 where false")
    assert (asked.exit_code, asked.stdout, asked.stderr) == (0, "", "0 rows.\n")


def test_questions_complete() -> None:
    asked = {"_SHARDSCAN_COMPLETE": "bash_complete", "COMP_WORDS": "shardscan ask outl", "COMP_CWORD": "2"}
    command = [sys.executable, "-m", "shardscan"]
    done = subprocess.run(command, env=os.environ | asked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,outliers\n"
