"""What users get wrong: one sentence, the documented exit code, no traceback, and the store as it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from made import tiny
from shardscan.cli import main

SHARD = "model.safetensors"
Spoil = Callable[[Path], object]
Refused = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny.llama(folder / "model")
    done = CliRunner().invoke(main, ["ingest", str(folder / "model"), "--store", str(folder / "scans")])
    assert done.exit_code == 0, done.stderr
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(name="refused")
def _refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run a command in a fresh folder, expect an exit code and an unharmed store; the message."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHARDSCAN_STORE", str(home / "scans"))
    before = hashes(home / "scans")

    def refused(code: int, *words: str, stdin: str | bytes | None = None) -> str:
        done = CliRunner().invoke(main, words, input=stdin)
        assert (done.exit_code, done.stdout) == (code, ""), done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        assert hashes(home / "scans") == before
        *_, message = done.stderr.partition("Error: ")
        assert message.endswith("\n")
        assert "Traceback" not in message
        return message.removesuffix("\n")

    return refused


def is_sentence(message: str) -> bool:
    return "\n" not in message and message.endswith((".", "?"))


def answers(store: str, sql: str = "select tensor, mean, std from tensors order by tensor") -> str:
    done = CliRunner().invoke(main, ["sql", sql, "--store", store])
    assert done.exit_code == 0, done.stderr
    return done.stdout


# ---- checkpoints: exit code 3


def lfs_pointer(folder: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4000000000\n"
    (folder / SHARD).write_text(text)


def html_page(folder: Path) -> None:
    (folder / SHARD).write_text("<!DOCTYPE html><html><body>Sign in to download</body></html>")


def truncated(folder: Path) -> None:
    whole = (tiny.llama(folder) / SHARD).read_bytes()
    (folder / SHARD).write_bytes(whole[:-8])


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (folder / "model-00001-of-00002.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def a_pickle_that_is_none(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"PK")


CHECKPOINTS: list[tuple[Spoil, int, str]] = [
    (Path.rmdir, 3, "is not there: give a .safetensors or PyTorch file, a model's folder or a hub cache's"),
    (Path.exists, 3, "has no safetensors or PyTorch file"),
    (a_pickle_that_is_none, 3, "pytorch_model.bin' is no PyTorch file"),
    (lfs_pointer, 3, "is a git-lfs pointer and not the file itself: fetch it with `git lfs pull`"),
    (html_page, 3, "is a web page or XML and not a shard: the download got an error page, so download it again"),
    (truncated, 3, "is cut short: 8 of the 10,592 bytes of its tensors are missing, so download it again"),
    (missing_shard, 3, "'model-00002-of-00002.safetensors', which is not there: download it, or correct the index"),
]


@pytest.mark.parametrize(("spoil", "code", "advice"), CHECKPOINTS)
@pytest.mark.parametrize("command", ["ls", "ingest"])
def test_a_checkpoint_that_cannot_be_used(
    command: str, spoil: Spoil, code: int, advice: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "given").mkdir()
    spoil(tmp_path / "given")
    message = refused(code, command, "given")
    assert is_sentence(message)
    assert advice in message


def test_a_name_that_is_not_text_is_refused_and_another_name_helps(refused: Refused, tmp_path: Path) -> None:
    folder = os.fsdecode(b"st\xe9")
    try:
        tiny.llama(tmp_path / folder)
    except OSError:
        pytest.skip("this file system has names in Unicode only")
    for words in (("ls", folder), ("ingest", folder), ("ingest", folder, "--name", folder)):
        message = refused(3, *words)
        assert is_sentence(message)
        assert "The model's name 'st\\udce9' is not valid Unicode text" in message
        assert "--name" in message
    done = CliRunner().invoke(main, ["ingest", folder, "--name", "plain", "--store", "named"])
    assert done.exit_code == 0, done.stderr
    assert '"plain"' in answers("named", "select model, source from models")


def test_a_pruned_model_is_scanned_and_flagged(tmp_path: Path) -> None:
    tiny.llama(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(tiny.CONFIG | {"head_dim": 7}))
    listed = CliRunner().invoke(main, ["ls", str(tmp_path / "model"), "--long", "--format", "jsonl"])
    assert listed.exit_code == 0, listed.stderr
    assert "32 rows, which family llama cannot split into heads of 7" in listed.stdout
    store = str(tmp_path / "scans")
    done = CliRunner().invoke(main, ["ingest", str(tmp_path / "model"), "--store", store])
    assert done.exit_code == 0, done.stderr
    sql = """select count(*) as n, min(t.status) as status, min(t.reason) as reason, count(t.std) as stds,
             count(m.heads) as heads
             from tensors t join matrices m using (model, tensor) where t.role in ('q_proj', 'o_proj')"""
    assert json.loads(answers(store, sql)) == {
        "n": 4,
        "status": "ok",
        "reason": "32 columns, which family llama cannot split into heads of 7",
        "stds": 4,
        "heads": 0,
    }
    sql = "select count(*) as n, count(distinct axis) as axes from channels where role = 'q_proj'"
    assert json.loads(answers(store, sql)) == {"n": 2 * (32 + 16), "axes": 2}


# ---- stores: exit code 5


@pytest.mark.parametrize("words", [("sql", "select 1"), ("ask", "models"), ("catalog",)])
def test_a_store_that_is_not_there(words: tuple[str, ...], refused: Refused, tmp_path: Path) -> None:
    message = refused(5, *words, "--store", "nowhere")
    assert is_sentence(message)
    assert "shardscan ingest" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("sql", "select 1"), ("ask", "models"), ("catalog",), ("ingest", "model")])
def test_a_store_that_is_a_file(words: tuple[str, ...], refused: Refused, tmp_path: Path) -> None:
    tiny.llama(tmp_path / "model")
    (tmp_path / "file").write_text("precious")
    assert is_sentence(refused(5, *words, "--store", "file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_a_store_without_a_name_is_not_the_current_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["ingest", str(tiny.llama(tmp_path / "model")), "--store", ""])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "give the folder of the store." in done.stderr


def test_a_store_whose_name_is_not_text_is_a_wrong_command_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["sql", "select 1", "--store", f"{tmp_path}/st\udce9"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "st\\udce9' is not UTF-8 text" in "".join(done.stderr.split("\n")).replace("  ", " ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_where_nobody_may_write(refused: Refused, tmp_path: Path) -> None:
    tiny.llama(tmp_path / "model")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "'locked/scans' cannot be written (Permission denied)" in refused(
        9, "ingest", "model", "--store", "locked/scans"
    )


@pytest.mark.parametrize(
    "spoil", [lambda whole: b"not a database" * 500, lambda whole: whole[:4096], lambda whole: b""]
)
def test_a_catalog_that_is_spoilt_is_named_and_built_again(
    spoil: Callable[[bytes], bytes], home: Path, refused: Refused
) -> None:
    shutil.copytree(home / "scans", "spoilt")
    file = Path("spoilt", "catalog.duckdb")
    file.write_bytes(spoil(file.read_bytes()))
    message = refused(5, "sql", "select 1", "--store", "spoilt")
    assert is_sentence(message)
    assert "catalog.duckdb" in message
    assert "shardscan catalog --rebuild" in message
    again = CliRunner().invoke(main, ["catalog", "--rebuild", "--store", "spoilt"])
    assert again.exit_code == 0, again.stderr
    assert answers("spoilt") == answers(str(home / "scans"))


def test_another_checkpoint_of_one_name_is_refused_and_the_old_catalog_answers(home: Path, refused: Refused) -> None:
    before = answers(str(home / "scans"))
    tiny.llama(Path("model"), seed=1)
    message = refused(5, "ingest", "model")
    assert is_sentence(message)
    assert "already holds another checkpoint named 'model'" in message
    assert "--name" in message
    assert "--replace" in message
    assert answers(str(home / "scans")) == before


def test_a_folder_with_something_else_is_no_place_for_the_demo(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    message = refused(5, "demo", "thesis")
    assert is_sentence(message)
    assert "holds something else, such as 'chapter.txt': name a folder that is new or empty" in message
    assert is_sentence(refused(5, "demo", "thesis/chapter.txt"))
    assert hashes(tmp_path) == {"thesis/chapter.txt": hashlib.sha256(b"precious").hexdigest()}


# ---- queries: exit code 6


def test_an_error_in_sql_is_shown_with_its_place(refused: Refused) -> None:
    message = refused(6, "sql", "select role, nope from tensors")
    line, caret = message.splitlines()[-2:]
    assert '"nope"' in message
    assert line.endswith("select role, nope from tensors")
    assert caret.index("^") == line.index("nope")


QUERIES: list[tuple[tuple[str, ...], str]] = [
    (("ask", "outlier"), "There is no question 'outlier': did you mean outliers"),
    (("ask", "xyzzy"), "There is no question 'xyzzy': `shardscan questions` lists them"),
    (("ask", "outliers", "-p", "nope=1"), "The question outliers has no parameter 'nope': it takes model, per_matrix"),
    (("ask", "outliers", "-p", "sigma=many"), "The parameter sigma is a number, not 'many': for example 3.0"),
    (("sql", "select $a"), "The parameter 'a' has no value: the query takes a; add `-p a=…`"),
    (("sql", "select 1", "-p", "b=1"), "The query has no parameter 'b': it takes none"),
    (("sql", "select 1", "-p", "b"), "-p takes NAME=VALUE, such as -p layer=3, not 'b'"),
    (("sql", "select 1; select 2"), "This is 2 statements and a query is one: write one SELECT"),
    (("sql", ""), "This is 0 statements and a query is one: write one SELECT"),
    (("sql", "drop table tensors"), "This is DROP and the catalog is only read: write a SELECT"),
    (("sql", "@nowhere.sql"), "'nowhere.sql' cannot be read (No such file or directory): give @FILE with a query"),
    (("sql", "select '\udce9'"), "is not UTF-8 text ('\\udce9' at character 9): give it in UTF-8"),
    (("sql", "select $x", "-p", "x=\udce9"), "is not UTF-8 text ('\\udce9' at character 1): give it in UTF-8"),
    (("ask", "outliers", "-p", "top=" + "9" * 5000), "The parameter top is a whole number, not '999"),
    (("sql", "@"), "'@' cannot be read (No such file or directory): give @FILE with a query"),
]


@pytest.mark.parametrize(("words", "advice"), QUERIES)
def test_a_query_that_cannot_be_asked(words: tuple[str, ...], advice: str, refused: Refused) -> None:
    message = refused(6, *words)
    assert is_sentence(message)
    assert advice in message


def test_a_query_that_is_not_text(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "query.sql").write_bytes(b"\xff\xfe")
    assert "'query.sql' is not UTF-8 text" in refused(6, "sql", "@query.sql")
    assert "'stdin' is not UTF-8 text" in refused(6, "sql", "-", stdin=b"\xff\xfe")


def test_sql_without_a_query_is_a_wrong_command_line() -> None:
    done = CliRunner().invoke(main, ["sql"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Missing argument 'QUERY'." in done.stderr


# ---- outputs: exit code 7

OUTPUTS: list[tuple[tuple[str, ...], str]] = [
    (("-o", "nowhere/rows.csv"), "'nowhere/rows.csv' cannot be written (No such file or directory): choose another"),
    (("-o", "."), "'.' does not say which format it is: end it in .json, .jsonl, .csv, .md, .parquet, .txt"),
    (("-o", ".", "--format", "csv"), "'.' is not a regular file: name a file, or leave the output out to print"),
    (("-o", "rows.xyz"), "'rows.xyz' does not say which format it is: end it in .json, .jsonl"),
    (("-o", "rows.csv", "--format", "json"), "ends in .csv, and the format asked for is json: change one of them"),
]


@pytest.mark.parametrize(("words", "advice"), OUTPUTS)
def test_an_output_that_cannot_be_written(
    words: tuple[str, ...], advice: str, refused: Refused, tmp_path: Path
) -> None:
    message = refused(7, "sql", "select 1 as one", *words)
    assert is_sentence(message)
    assert advice in message
    assert list(tmp_path.iterdir()) == []


def test_the_real_command_ends_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shardscan", "ls", "nowhere"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("Error: 'nowhere' is not there")
    assert len(done.stderr.splitlines()) == 1
