"""Names of strangers: they are text on a terminal, in a log, in a table and in an id, whatever they look like."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

import shardscan
from made import tiny
from oracles.keys import repeated
from oracles.tally import Tally
from shardscan.anatomy.names import canonical
from shardscan.cli import main
from shardscan.output import progress
from shardscan.output.cells import disarm_formula, visible
from shardscan.output.writer import write_rows
from shardscan.shards.ahead import Ahead
from shardscan.store.names import CATALOG

pytestmark = pytest.mark.hostile
NAMES = [
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\nb", "a\r::error::x", "\u202egnp.exe", "\u2066x\u2069", "a\u200bb",
    "\x9b31m",
    "=1+1", " =cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\uff1d1+1", "'; DROP TABLE tensors; --", "{0}%s%n",
    "[bold]x[/bold]",
    "`x` | *y* <script>", "../../etc/passwd", "C:\\x", "\u0600x", "\U000e0041", "a" * 1_000_000,
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A checkpoint whose tensors are named so, one after the other, in a folder named like the second.

    Rich takes seconds to fold a name of a million characters, so that it is shorter but in the full campaigns.
    """
    longest = 1_000_000 if pytestconfig.getoption("--campaigns") == "full" else 50_000
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    names = (name[:longest] for name in NAMES)
    return tiny.write(tmp_path_factory.mktemp("names") / NAMES[1], dict.fromkeys(names, values))


@pytest.mark.parametrize("words", [("ls",), ("ls", "--long"), ("anatomy",), ("verify",), ("ingest", "--dry-run")])
@pytest.mark.parametrize("form", ["table", "json", "jsonl", "markdown"])
def test_no_command_prints_them_raw(words: tuple[str, ...], form: str, model: Path, tally: Tally) -> None:
    done = CliRunner().invoke(main, [words[0], str(model), *words[1:], "--format", form])
    tally(inputs=len(NAMES), tracebacks=int(done.exit_code == 1))
    assert done.exit_code == 0
    assert hidden(done.output.replace("\n", "")) == ""


def test_an_ingest_and_what_is_asked_of_it_do_not_either(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Ahead.raw

    def cutting(self: Ahead, window: object) -> object:
        os.truncate(model / "model.safetensors", (model / "model.safetensors").stat().st_size - 1)
        return raw(self, window)  # type: ignore[arg-type]

    whole = (model / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Ahead, "raw", cutting)
        failed = CliRunner().invoke(main, ["ingest", str(model), "--store", str(tmp_path / "failed"), "--io", "read"])
    (model / "model.safetensors").write_bytes(whole)
    done = CliRunner().invoke(main, ["ingest", str(model), "--store", str(tmp_path / "scans")])
    assert (failed.exit_code, done.exit_code) == (8, 0)
    with shardscan.connect(tmp_path / "scans") as connection:
        assert connection.sql("select count(distinct tensor) from tensors").fetchall() == [(len(NAMES),)]
    for output in (failed.output, done.output):
        assert hidden(output.replace("\n", "")) == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failed", "scans"]


def hidden(text: str) -> str:
    """What of a text a terminal would obey or hide."""
    return "".join(character for character in text if visible(character) != character)


def test_a_log_has_one_line_whatever_the_model_is_called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with progress.showing_progress("x\x1b]0;t\x07\n::error::y") as advance:
        advance(1, 10)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["=1", " =1", "\n=1", "\u00a0=1", "\u3000+1", "\ufeff@x", "\x00-1", "\uff1d1", "\uff20x", "\tx"]
)
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    assert disarm_formula(text) == f"'{text}"


@pytest.mark.parametrize("text", ["a=1", "1-2", "", "model.layers.0", "é"])
def test_other_text_does_not(text: str) -> None:
    assert disarm_formula(text) == text


def test_ids_are_unique_also_where_tensors_are_named_like_parts_experts_heads_and_circuits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    square = rng.standard_normal((tiny.HEADS * tiny.HEAD_DIM, tiny.HIDDEN)).astype(np.float32)
    layer = "model.layers.0.self_attn."
    names = [f"{layer}{role}_proj.weight" for role in "qkvo"]
    tensors = {name: square.T.copy() if "o_proj" in name else square for name in names}
    tensors |= {f"{name}{end}": square for name in names for end in ("@0", "@0#", "#", "#q_proj", "[1]")}
    tensors |= {f"circuit:text.0.{kind}{end}": square for kind in ("ov", "qk") for end in ("", ".0", "@0")}
    model = tiny.write(tmp_path / "model", tensors, tiny.CONFIG | {"num_key_value_heads": tiny.HEADS})
    done = shardscan.ingest(model, tmp_path / "scans", spectra="heads,full,circuits")
    assert done.failures == {}
    assert repeated(tmp_path / "scans" / CATALOG) == []


def test_many_wrappers_before_a_name_are_taken_off_at_once() -> None:
    assert canonical("module." * 200_000 + "a.weight") == "a.weight"


def test_many_columns_of_one_name_have_names_of_their_own() -> None:
    rows = pa.table([pa.array([i]) for i in range(3000)], names=["c"] * 2999 + ["c_1"])
    stream = io.StringIO()
    write_rows(rows, format="jsonl", stream=stream)
    assert sorted(json.loads(stream.getvalue()).values()) == list(range(3000))


def test_a_checkpoint_is_never_taken_for_a_store(tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "model", {"a.weight": np.full((2, 3), np.nan, np.float32)})
    (model / "commits").mkdir()
    done = CliRunner().invoke(main, ["verify", str(model), "--format", "jsonl"])
    assert done.exit_code == 10
    assert '"check": "nan"' in done.stdout


@pytest.mark.parametrize("name", ["models", "tensors"])
def test_a_strangers_catalog_reaches_nothing_beyond_it(name: str, tmp_path: Path) -> None:
    shardscan.ingest(tiny.llama(tmp_path / "tiny"), tmp_path / "scans")
    (tmp_path / "secret.txt").write_text("SECRET")
    with duckdb.connect(tmp_path / "scans" / CATALOG) as connection:
        connection.execute(f"drop table {name}").fetchall()
        view = f"create view {name} as select error(content) as model from read_text('{tmp_path}/secret.txt')"
        connection.execute(view).fetchall()
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "scans"), "--format", "jsonl"])
    assert done.exit_code == 10
    assert f"It has no table {name}" in done.stdout
    assert "SECRET" not in done.output
    assert shardscan.ingest(tmp_path / "tiny", tmp_path / "scans").tasks == 0
    assert CliRunner().invoke(main, ["verify", str(tmp_path / "scans")]).exit_code == 0


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
