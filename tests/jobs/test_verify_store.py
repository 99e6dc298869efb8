"""`verify` of a store: whatever is flipped, cut, lost or left over in it is told, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

import shardscan
from made import tiny
from shardscan.catalog import build as catalog
from shardscan.cli import main
from shardscan.errors import CheckpointNotFound, StoreError
from shardscan.jobs.scan.job import execute as execute_scan
from shardscan.jobs.scan.prepare import prepare
from shardscan.jobs.verification.job import Finding, verify
from shardscan.store import commits
from shardscan.store.arrays import list_current_scans
from shardscan.store.lock import writing_store
from shardscan.store.names import CATALOG

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one tiny model."""
    folder = tmp_path_factory.mktemp("store")
    shardscan.ingest(tiny.llama(folder / "tiny"), folder / "scans", channels="all")
    return folder / "scans"


@pytest.fixture
def scans(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "scans")


def flip(path: Path, position: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def commits_of(scans: Path) -> Path:
    return scans / "commits" / commits.list_scans(scans)[0].id


def arrays_of(scans: Path) -> Path:
    return scans / "arrays.zarr" / commits.list_scans(scans)[0].id


def brief(findings: tuple[Finding, ...], scans: Path) -> list[tuple[str, str, str | None]]:
    """Severity, check and file, the scan's name left out."""
    name = commits.list_scans(scans)[0].id if commits.list_scans(scans) else "?"
    return [(f.severity, f.check, f.file and f.file.replace(name, "*")) for f in findings]


def test_a_store_is_clean_and_verifying_it_changes_nothing(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    done = CliRunner().invoke(main, ["verify", str(whole)])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Clean: 1 scan, " in done.stderr
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_one_flipped_bit_in_any_file_of_a_store_is_found(scans: Path) -> None:
    files = {path for path in scans.rglob("*") if path.is_file() and path.name != "lock"}
    alone = [{path} for path in files if path.name == "begun" or path.parent in (scans, scans / "arrays.zarr")]
    arrays = {path for path in files if path.is_relative_to(arrays_of(scans))}
    records = {path for path in files if path.is_relative_to(commits_of(scans)) and path.name != "begun"}
    assert {"witness", "channels", "000001.json"} <= {path.name for path in records}
    assert len(arrays) > 200
    assert set().union(arrays, records, *alone) == files
    for some in (arrays, records, *alone):
        kept = {path: path.read_bytes() for path in some}
        for path in some:
            flip(path)
        told = {scans / (f.file or "") for f in verify(scans).findings if f.severity == "problem"}
        assert told == some
        for path, data in kept.items():
            path.write_bytes(data)
    assert verify(scans).findings == ()


@pytest.mark.parametrize("position", [0, 0.001, 0.25, 0.75, 1])
def test_a_flip_anywhere_in_the_catalog_is_found(position: float, scans: Path) -> None:
    flip(scans / CATALOG, position)
    assert {f.check for f in verify(scans).findings} == {"catalog"}
    assert verify(scans).problems


def touch(*paths: Path) -> None:
    for path in paths:
        path.touch()


def be_a_fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def strays(scans: Path) -> None:
    (scans / "arrays.zarr/abc-1").mkdir()
    (scans / "commits/abc-2").mkdir()
    touch(scans / "notes.txt", arrays_of(scans) / "text/x")


UP = "arrays.zarr/*/text/up_proj"
SPOILT: list[tuple[str, Spoil, list[tuple[str, str, str | None]]]] = [
    (
        "a flipped chunk",
        lambda s: flip(arrays_of(s) / "text/up_proj/moments_weight/c/1/0/0"),
        [("problem", "checksum", f"{UP}/moments_weight/c/1/0/0")],
    ),
    (
        "a cut chunk",
        lambda s: cut(arrays_of(s) / "text/up_proj/moments_weight/c/1/0/0"),
        [("problem", "file", f"{UP}/moments_weight/c/1/0/0")],
    ),
    (
        "a lost chunk",
        lambda s: (arrays_of(s) / "text/up_proj/moments_weight/c/1/0/0").unlink(),
        [("problem", "file", f"{UP}/moments_weight/c/1/0/0")],
    ),
    (
        "lost metadata",
        lambda s: (arrays_of(s) / "text/up_proj/zarr.json").unlink(),
        [("problem", "file", f"{UP}/zarr.json")],
    ),
    (
        "flipped metadata",
        lambda s: flip(arrays_of(s) / "text/up_proj/sizes/zarr.json"),
        [("problem", "checksum", f"{UP}/sizes/zarr.json")],
    ),
    (
        "a chunk that is a FIFO",
        lambda s: be_a_fifo(arrays_of(s) / "zarr.json"),
        [("problem", "file", "arrays.zarr/*/zarr.json")],
    ),
    (
        "a cut commit, whose files nobody vouches for then",
        lambda s: cut(commits_of(s) / "text.up_proj.1.stats-1.json"),
        [
            ("problem", "commit", "commits/*/text.up_proj.1.stats-1.json"),
            *(
                ("note", "file", f"{UP}/{name}/c/1/0/0{'/0' * name.startswith('channels')}")
                for name in (
                    *("channels_in", "channels_out", "distribution_weight", "fingerprints_in", "fingerprints_out"),
                    "moments_weight",
                )
            ),
        ],
    ),
    (
        "a commit that is a FIFO",
        lambda s: be_a_fifo(commits_of(s) / "x.json"),
        [("problem", "commit", "commits/*/x.json")],
    ),
    (
        "a commit without its checksum",
        lambda s: rewrite(commits_of(s) / "text.final_norm.-.stats-1.json", checksum=None),
        [
            ("problem", "commit", "commits/*/text.final_norm.-.stats-1.json"),
            ("note", "file", "arrays.zarr/*/text/final_norm/distribution_weight/c/0/0/0"),
            ("note", "file", "arrays.zarr/*/text/final_norm/moments_weight/c/0/0/0"),
        ],
    ),
    (
        "a lost run",
        lambda s: flip(commits_of(s) / "runs/000001.json"),
        [("problem", "commit", "commits/*/runs/000001.json")],
    ),
    (
        "leftovers of killed runs",
        lambda s: touch(
            arrays_of(s) / "text/up_proj/sizes/c/0/0/0.1234.partial",
            commits_of(s) / "text.up_proj.1.stats-1.json.partial",
            s / "catalog.duckdb.77.partial",
        ),
        [
            ("note", "file", "catalog.duckdb.77.partial"),
            ("note", "file", "commits/*/text.up_proj.1.stats-1.json.partial"),
            ("note", "file", f"{UP}/sizes/c/0/0/0.1234.partial"),
        ],
    ),
    (
        "folders of no scan and other strays",
        strays,
        [
            ("note", "file", "notes.txt"),
            ("note", "file", "arrays.zarr/abc-1"),
            ("note", "file", "commits/abc-2"),
            ("note", "file", "arrays.zarr/*/text/x"),
        ],
    ),
    ("no catalog", lambda s: (s / CATALOG).unlink(), [("note", "catalog", CATALOG)]),
    (
        "a catalog that is none",
        lambda s: (s / CATALOG).write_bytes(b"x"),
        [("problem", "catalog", CATALOG)],
    ),
    (
        "a catalog with a row twice",
        lambda s: execute(s, "INSERT INTO tensors SELECT * FROM tensors LIMIT 1"),
        [("problem", "catalog", CATALOG)],
    ),
    (
        "a catalog without a model",
        lambda s: execute(s, "DELETE FROM models"),
        [("note", "catalog", CATALOG)],
    ),
    ("a lost root", lambda s: (s / "arrays.zarr/zarr.json").unlink(), [("problem", "file", "arrays.zarr/zarr.json")]),
]


def rewrite(path: Path, **changes: object) -> None:
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def execute(scans: Path, sql: str) -> None:
    with duckdb.connect(scans / CATALOG) as connection:
        connection.execute(sql).fetchall()


@pytest.mark.parametrize(("spoil", "expected"), [s[1:] for s in SPOILT], ids=[s[0] for s in SPOILT])
def test_every_way_to_spoil_a_store_is_told(
    spoil: Spoil, expected: list[tuple[str, str, str | None]], scans: Path
) -> None:
    spoil(scans)
    verdict = verify(scans)
    assert brief(verdict.findings, scans) == expected
    assert bool(verdict.problems) == any(severity == "problem" for severity, *_ in expected)
    assert all(f.detail.isprintable() and f.detail.endswith(".") for f in verdict.findings)


def test_what_is_not_scanned_yet_is_a_note(scans: Path) -> None:
    (commits_of(scans) / "text.up_proj.1.stats-1.json").unlink()
    verdict = verify(scans)
    assert verdict.problems == 0
    (row,) = [f for f in verdict.findings if f.check == "scan"]
    assert row.detail == "1 of 16 tensors of 'tiny' are not scanned yet: ingest continues."
    assert row.tensor == "model.layers.1.mlp.up_proj.weight"
    assert [f.detail for f in verdict.findings if f.check == "catalog"] == [
        "Its rows of 'tiny' are not of what is committed: build it again with shardscan catalog --rebuild."
    ]


def test_tensors_that_failed_are_a_note_with_their_reason(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    prepared = prepare(model)
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-64])
    execute_scan(prepared, tmp_path / "scans")
    verdict = verify(tmp_path / "scans")
    assert {(f.severity, f.check) for f in verdict.findings} == {("note", "scan")}
    assert verdict.findings
    assert all(f.detail.startswith("It failed: ") and f.tensor for f in verdict.findings)


def test_a_second_ingest_under_another_config_keeps_the_store_clean(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    shardscan.ingest(model, tmp_path / "scans")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    shardscan.ingest(model, tmp_path / "scans", spectra="heads,full,circuits")
    shardscan.ingest(tiny.llama(tmp_path / "b" / "tiny", seed=1), tmp_path / "scans", replace=True)
    assert verify(tmp_path / "scans").findings == ()


def test_a_record_that_vouches_for_a_file_elsewhere_is_refused(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    scan = commits.list_scans(scans)[0]
    stamp = commits.stamp(tmp_path / "secret")
    (arrays_of(scans) / "out").symlink_to(tmp_path)
    outside = ("../../../secret", str(tmp_path / "secret"), "out/secret")
    commits.begin(scan, [], {**commits.read_first_stamps(scan), **dict.fromkeys(outside, stamp), "a\0b": stamp})
    told = [(f.check, f.detail.partition(":")[0]) for f in verify(scans).findings if f.severity == "problem"]
    assert told == [("commit", "A record vouches for it and it is not in the scan")] * 3 + [
        ("file", "It cannot be read (ValueError)")
    ]


@pytest.mark.parametrize("record", [{}, {"task": 1}, {"task": "a", "product": "b", "tensors": 1, "files": {}}])
def test_records_of_another_form_end_in_a_row_and_not_in_a_traceback(record: dict[str, object], scans: Path) -> None:
    path = commits_of(scans) / "text.final_norm.-.stats-1.json"
    commits._write(path, record)
    assert ("problem", "scan", "commits/*") in brief(verify(scans).findings, scans)


def test_a_scan_that_replaces_a_number_is_of_another_form(scans: Path) -> None:
    scan = commits.list_scans(scans)[0]
    commits._write(scan.commits / "begun", {"replaces": 1, "files": commits.read_first_stamps(scan)})
    assert brief(verify(scans).findings, scans) == [("problem", "scan", "commits/*")]


def test_a_store_that_is_being_written_is_not_judged(scans: Path) -> None:
    with writing_store(scans):
        done = CliRunner().invoke(main, ["verify", str(scans)])
    assert (done.exit_code, done.stdout) == (5, "")
    assert "is being written by process" in done.stderr


def test_a_store_that_was_written_meanwhile_is_not_judged(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = commits.list_scans

    def written_meanwhile(folder: Path) -> list[commits.Scan]:
        with writing_store(folder):
            return begun(folder)

    monkeypatch.setattr(commits, "list_scans", written_meanwhile)
    with pytest.raises(StoreError, match="was written meanwhile: do it again"):
        verify(scans)


def test_an_empty_path_is_not_the_store_in_the_current_folder(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scans)
    assert verify(".").findings == ()
    for path in ("", "a\0b", "x" * 5000):
        with pytest.raises(CheckpointNotFound, match="is not there"):
            verify(path)


def test_an_empty_store_is_clean_and_arrays_without_commits_are_notes(tmp_path: Path, scans: Path) -> None:
    (tmp_path / "empty" / "commits").mkdir(parents=True)
    assert verify(tmp_path / "empty").findings == ()
    shutil.rmtree(scans / "commits")
    (scans / CATALOG).unlink()
    assert [f.severity for f in verify(scans).findings] == ["note"]


def test_a_flipped_record_is_refused_by_whoever_reads_the_store(scans: Path) -> None:
    path = commits_of(scans) / "text.up_proj.1.stats-1.json"
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "gpu"'))
    with pytest.raises(StoreError, match=r"text\.up_proj\.1\.stats-1\.json is damaged: ingest its checkpoint"):
        catalog.build(scans)
    path.unlink()
    assert [scan.id for scan in list_current_scans(scans)] == [commits.list_scans(scans)[0].id]
