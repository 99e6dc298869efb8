"""One writer, six formats: what a person, a pipe and a spreadsheet get, and what hostile names cannot do to them."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardscan.errors import OutputError
from shardscan.output.writer import ENDINGS, FORMATS, write_rows

ROWS = pa.table(
    {
        "tensor": ["model.layers.0.self_attn.q_proj.weight", "a,b"],
        "layer": pa.array([0, None], pa.int64()),
        "mean": [0.1 + 0.2, float("nan")],
        "shape": [[576, 576], []],
    }
)
NOTHING = ROWS.slice(0, 0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _eighty_columns_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def printed(rows: pa.Table | pa.RecordBatchReader, format: str | None, stream: io.StringIO | None = None) -> str:
    stream = io.StringIO() if stream is None else stream
    write_rows(rows, format=format, stream=stream)
    return stream.getvalue()


def test_a_pipe_gets_json_lines_and_a_terminal_gets_a_table() -> None:
    assert json.loads(printed(ROWS, None).splitlines()[0])["layer"] == 0
    assert printed(ROWS, None, Terminal()).startswith("tensor ")


def test_json_is_one_array_that_keeps_every_digit_and_has_no_nan() -> None:
    rows = json.loads(printed(ROWS, "json"), parse_constant=lambda word: pytest.fail(word))
    assert rows == [
        {"tensor": "model.layers.0.self_attn.q_proj.weight", "layer": 0, "mean": 0.1 + 0.2, "shape": [576, 576]},
        {"tensor": "a,b", "layer": None, "mean": None, "shape": []},
    ]


def test_json_lines_are_the_same_rows_one_per_line() -> None:
    assert [json.loads(line) for line in printed(ROWS, "jsonl").splitlines()] == json.loads(printed(ROWS, "json"))


def test_csv_reads_back_with_every_digit_and_null_is_empty() -> None:
    header, first, second = csv.reader(io.StringIO(printed(ROWS, "csv")))
    assert header == ["tensor", "layer", "mean", "shape"]
    assert first == ["model.layers.0.self_attn.q_proj.weight", "0", "0.30000000000000004", "[576, 576]"]
    assert second[:2] == ["a,b", ""]


def test_markdown_shows_six_digits_and_aligns_numbers_to_the_right() -> None:
    assert printed(ROWS, "markdown").splitlines() == [
        "| tensor | layer | mean | shape |",
        "| --- | ---: | ---: | --- |",
        "| model.layers.0.self_attn.q_proj.weight | 0 | 0.3 | [576, 576] |",
        "| a,b | – | nan | [] |",
    ]


def test_a_table_in_a_pipe_is_as_wide_as_it_needs_and_has_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR")
    long = pa.table({"tensor": ["x" * 300], "n": [12345]})
    assert printed(long, "table").splitlines() == ["tensor" + " " * 300 + "n", "─" * 307, "x" * 300 + "  12345"]


def test_a_terminal_folds_long_names_and_never_cuts_a_number() -> None:
    rows = pa.table({"tensor": ["model.layers.0." + "x" * 100], "n": [2**63 - 1]})
    lines = printed(rows, None, Terminal()).splitlines()
    assert max(map(len, lines)) <= 80
    assert "9223372036854775807" in lines[2]
    assert "".join(line[:59].strip() for line in lines[2:]) == "model.layers.0." + "x" * 100


def test_a_row_too_wide_for_the_terminal_becomes_a_record() -> None:
    rows = pa.table({f"column_number_{i}": [f"value {i}"] for i in range(12)})
    lines = printed(rows, None, Terminal()).splitlines()
    assert lines[0].startswith("row 1 ")
    assert [line.split() for line in lines[1:]] == [[f"column_number_{i}", "value", str(i)] for i in range(12)]


@pytest.mark.parametrize("columns", ["20", "80"])
def test_a_table_made_in_pieces_is_the_table_made_at_once(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    rows = pa.table({"tensor": ["x" * (i % 30) for i in range(50)], "n": [10**i for i in range(18)] * 2 + [1] * 14})
    at_once = [printed(rows, "table", stream) for stream in (io.StringIO(), Terminal())]
    monkeypatch.setattr("shardscan.output.batches._ROWS", 7)
    assert [printed(rows, "table", stream) for stream in (io.StringIO(), Terminal())] == at_once


def test_only_a_terminals_table_cuts_long_values_and_names_and_says_how_long_they_are() -> None:
    long, name = "x" * 1_000_000, "n" * 5_000
    rows = pa.table({name: [long, "short"], "list": [[1] * 100_000, []]})
    for columns in (rows, rows.select([0])):  # records, and a table
        text = printed(columns, None, Terminal())
        assert len(text) < 10_000
        assert {"(1,000,000", "(5,000"} <= {word for word in text.split() if word.startswith("(")}
    assert long in printed(rows, "table")
    assert all(long in printed(rows, format, Terminal()) for format in ("json", "jsonl", "csv", "markdown"))


def test_a_date_that_python_does_not_have_is_text_also_inside_a_list() -> None:
    days = pa.array([2**31 - 1, None, 0], pa.int32()).cast(pa.date32())
    rows = pa.table({"list": pa.ListArray.from_arrays([0, 1, 3], days)})
    assert json.loads(printed(rows, "json")) == [
        {"list": "[<value out of range: 2147483647>]"},
        {"list": "[null,1970-01-01]"},
    ]


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("json", "[]\n"),
        ("jsonl", ""),
        ("csv", '"tensor","layer","mean","shape"\n'),
        ("markdown", "| tensor | layer | mean | shape |\n| --- | ---: | ---: | --- |\n"),
        ("table", "tensor  layer  mean  shape\n──────────────────────────\n0 rows\n"),
    ],
)
def test_nothing_is_a_valid_result_in_every_format(format: str, expected: str) -> None:
    assert printed(NOTHING, format) == expected


def test_nothing_too_wide_for_the_terminal_still_names_its_columns() -> None:
    rows = pa.table({f"column_number_{i}": pa.array([], pa.string()) for i in range(12)})
    text = printed(rows, None, Terminal())
    assert all(f"column_number_{i}" in text for i in range(12))
    assert text.endswith("0 rows\n")


@pytest.mark.parametrize("format", FORMATS)
def test_batches_give_the_same_text_as_one_table(format: str) -> None:
    batches = pa.RecordBatchReader.from_batches(ROWS.schema, ROWS.to_batches(max_chunksize=1))
    assert printed(batches, format) == printed(ROWS, format)


def test_rows_are_written_before_the_next_batch_is_asked_for() -> None:
    stream = io.StringIO()
    seen: list[int] = []

    def batches() -> object:
        for batch in ROWS.to_batches(max_chunksize=1):
            seen.append(stream.getvalue().count("\n"))
            yield batch

    write_rows(pa.RecordBatchReader.from_batches(ROWS.schema, batches()), format="jsonl", stream=stream)
    assert seen == [0, 1]


HOSTILE = "\x1b[2J\x9b1m\u202egnp\u200b\x07\r\nend"


@pytest.mark.parametrize("format", FORMATS)
def test_a_hostile_name_never_reaches_a_terminal_raw(format: str) -> None:
    rows = pa.table({HOSTILE: [HOSTILE], "in": [[HOSTILE]], "of": [{HOSTILE: HOSTILE}]})
    text = printed(rows, format, Terminal())
    assert not set("\x1b\x9b\u202e\u200b\x07\r") & set(text)
    assert "u202e" in text


def test_a_csv_in_a_pipe_keeps_the_characters_as_they_are() -> None:
    _, (cell,) = csv.reader(io.StringIO(printed(pa.table({"a": [HOSTILE]}), "csv"), newline=""))
    assert cell == HOSTILE


@pytest.mark.parametrize("format", FORMATS)
def test_rich_markup_in_data_is_text(format: str) -> None:
    assert "[red]x[/red] :smile:" in printed(pa.table({"[bold]": ["[red]x[/red] :smile:"]}), format, Terminal())


def test_markdown_markup_in_data_is_escaped() -> None:
    rows = pa.table({"a|b": ["x|y", "<b>", "![i](http://h)", "`c`", "__init__", "q_proj", "back\\|slash"]})
    cells = [line[2:-2] for line in printed(rows, "markdown").splitlines()]
    assert cells[0] == r"a\|b"
    assert cells[2:] == [
        r"x\|y",
        r"\<b>",
        r"![i\](http://h)",
        r"\`c\`",
        r"\_\_init\_\_",
        "q_proj",
        r"back\\\|slash",
    ]


def test_csv_text_that_a_spreadsheet_would_run_is_disarmed_and_numbers_are_not() -> None:
    texts = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "a=1", ""]
    rows = pa.table({"=h": texts, "n": [-1] * 8, "x": [-0.5] * 8, "d": [Decimal("-1.5")] * 8})
    header, *lines = csv.reader(io.StringIO(printed(rows, "csv"), newline=""))
    assert header[0] == "'=h"
    assert [line[0] for line in lines] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "'\rx", "a=1", ""]
    assert lines[0][1:] == ["-1", "-0.5", "-1.5"]


def test_a_null_and_an_empty_text_differ_in_csv() -> None:
    assert printed(pa.table({"a": ["", None], "b": [1, 2]}), "csv").splitlines()[1:] == ['"",1', ",2"]


def test_every_arrow_type_has_a_sensible_text() -> None:
    rows = pa.table(
        {
            "big": pa.array([2**64 - 1], pa.uint64()),
            "hugeint": pa.array([Decimal(10**37)], pa.decimal128(38, 0)),
            "half": pa.array([Decimal("0.5")], pa.decimal128(2, 1)),
            "long": pa.array([Decimal("0.12345678901234567890")], pa.decimal128(20, 20)),
            "when": [datetime(2026, 1, 2, 3, 4, 5)],
            "nanoseconds": pa.array([1], pa.timestamp("ns")),
            "struct": [{"a": [1.0, float("inf")]}],
            "bytes": [b"\x00\xff"],
            "enum": pa.array(["q"]).dictionary_encode(),
            "true": [True],
        }
    )
    (row,) = json.loads(printed(rows, "json"))
    assert row == {
        "big": 2**64 - 1,
        "hugeint": 10**37,
        "half": 0.5,
        "long": "0.12345678901234567890",
        "when": "2026-01-02T03:04:05",
        "nanoseconds": "1970-01-01 00:00:00.000000001",
        "struct": {"a": [1.0, None]},
        "bytes": "00ff",
        "enum": "q",
        "true": True,
    }
    for format in ("csv", "markdown", "table"):
        text = printed(rows, format)
        for expected in (
            "18446744073709551615",
            "1" + "0" * 37,
            "0.12345678901234567890",
            "2026-01-02",
            "00ff",
            "true",
        ):
            assert expected in text


def test_a_join_that_repeats_a_column_keeps_both() -> None:
    rows = pa.Table.from_arrays([pa.array([i]) for i in range(4)], names=["model", "model", "model_1", "model"])
    assert json.loads(printed(rows, "json")) == [{"model": 0, "model_2": 1, "model_1": 2, "model_3": 3}]


@pytest.mark.parametrize(("ending", "format"), [item for item in ENDINGS.items() if item[1] != "parquet"])
def test_a_file_gets_the_format_of_its_ending(tmp_path: Path, ending: str, format: str) -> None:
    write_rows(ROWS, output=tmp_path / f"rows{ending}")
    assert (tmp_path / f"rows{ending}").read_text() == printed(ROWS, format)
    assert [path.name for path in tmp_path.iterdir()] == [f"rows{ending}"]


def test_a_parquet_file_reads_back_as_the_same_rows(tmp_path: Path) -> None:
    write_rows(ROWS, output=str(tmp_path / "rows.parquet"))
    back = pq.read_table(tmp_path / "rows.parquet")
    assert back.drop_columns("mean") == ROWS.drop_columns("mean")
    assert str(back["mean"]) == str(ROWS["mean"])


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write_rows(ROWS, output=tmp_path / "rows.csv")
    (tmp_path / "other").touch()
    assert (tmp_path / "rows.csv").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    def batches() -> object:
        yield ROWS.to_batches()[0]
        raise RuntimeError("interrupted")

    target = tmp_path / "rows.json"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="interrupted"):
        write_rows(pa.RecordBatchReader.from_batches(ROWS.schema, batches()), output=target)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    write_rows(ROWS, output=tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == printed(ROWS, "csv")


def test_an_unknown_ending_needs_a_format(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.json, \.jsonl, \.csv, \.md, \.parquet, \.txt"):
        write_rows(ROWS, output=tmp_path / "rows.xlsx")
    write_rows(ROWS, output=tmp_path / "rows.data", format="csv")
    assert (tmp_path / "rows.data").read_text() == printed(ROWS, "csv")


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match="not a regular file"):
        write_rows(ROWS, output=tmp_path / "folder.csv")
    with pytest.raises(OutputError, match="not a regular file"):
        write_rows(ROWS, output=os.devnull, format="csv")
    with pytest.raises(OutputError, match="No such file or directory"):
        write_rows(ROWS, output=tmp_path / "absent" / "rows.csv")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Not a directory"):
        write_rows(ROWS, output=tmp_path / "file" / "rows.csv")
    with pytest.raises(OutputError, match="File name too long"):
        write_rows(ROWS, output=tmp_path / ("x" * 300 + ".csv"))
    interval = pa.table({"a": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pytest.raises(OutputError, match="Parquet cannot hold"):
        write_rows(interval, output=tmp_path / "rows.parquet")
    with pytest.raises(OutputError, match=r"ends in \.json, and the format asked for is csv"):
        write_rows(ROWS, output=tmp_path / "rows.json", format="csv")
    with pytest.raises(OutputError, match=r"ends in \.parquet"):
        write_rows(ROWS, format="parquet")
    with pytest.raises(OutputError, match="'xml'"):
        write_rows(ROWS, format="xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.csv"]


def test_a_full_disk_is_one_sentence() -> None:
    with open("/dev/full", "w") as full, pytest.raises(OutputError, match="No space left"):
        write_rows(ROWS, format="csv", stream=full)


MANY = (
    "import pyarrow as pa; from shardscan.output.writer import write_rows; "
    "write_rows(pa.table({'n': range(200_000)}), format='jsonl')"
)


def test_a_reader_that_goes_away_is_silent() -> None:
    with subprocess.Popen([sys.executable, "-c", MANY], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b'{"n": 0}\n'
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_real_terminal_without_no_color_gets_bold_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stream:
        write_rows(ROWS, stream=stream)
        text = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\x1b[1mtensor" in text


def test_a_stream_that_cannot_encode_a_character_escapes_it() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    write_rows(pa.table({"a": ["σ"]}), format="csv", stream=stream)
    stream.seek(0)
    assert stream.read() == '"a"\n"\\u03c3"\n'


def test_importing_the_writer_loads_no_heavy_library() -> None:
    code = "import sys, shardscan.output.writer; print({'pyarrow', 'rich', 'numpy', 'duckdb'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
