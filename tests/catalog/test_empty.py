"""CATALOG, an empty one: what is kept ready is what the statements make, and is believed only where it is whole."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest

from shardscan.catalog import checks, empty
from shardscan.catalog.reading import OLD, OURS, attach_locked, fetch, open_empty, read_definitions


@cache
def wanted() -> list[Any]:
    """What the statements make."""
    with open_empty() as connection:
        for script in empty.list_scripts():
            fetch(connection, script)
        return read_definitions(connection, OURS)


def definitions(file: Path) -> list[Any]:
    with open_empty() as connection:
        attach_locked(connection, file)
        return read_definitions(connection, OLD)


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is kept in a cache folder of its own, once one catalog was made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    empty.create(tmp_path / "first.duckdb")
    (kept,) = (tmp_path / "cache" / "shardscan").iterdir()
    return kept


def test_a_copy_is_what_the_statements_make(ready: Path, tmp_path: Path) -> None:
    made = (tmp_path / "first.duckdb").read_bytes()
    empty.create(tmp_path / "copied.duckdb")
    assert (tmp_path / "copied.duckdb").read_bytes() == made == ready.read_bytes()[: -empty.DIGEST_BYTES]
    assert definitions(tmp_path / "copied.duckdb") == wanted()


def _cut(ready: Path) -> None:
    ready.write_bytes(ready.read_bytes()[:-4096])


def _change(ready: Path) -> None:
    kept = bytearray(ready.read_bytes())
    kept[len(kept) // 2] ^= 1
    ready.write_bytes(kept)


def _link(ready: Path) -> None:
    """Whole, but a link, so that whoever owns what it leads to could change it."""
    elsewhere = ready.replace(ready.parent.parent / "elsewhere")
    ready.symlink_to(elsewhere)


def _open_to_all(ready: Path) -> None:
    ready.parent.chmod(0o777)


def _empty(ready: Path) -> None:
    ready.write_bytes(b"")


@pytest.mark.parametrize("spoil", [_cut, _change, _link, _open_to_all, _empty])
def test_what_cannot_be_trusted_is_not_read(ready: Path, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(ready)
    assert empty._read_kept(ready) is None
    empty.create(tmp_path / "again.duckdb")
    assert definitions(tmp_path / "again.duckdb") == wanted()


def _remember_a_file(home: Path) -> None:
    home.write_bytes(b"")


def _forbid_writing(home: Path) -> None:
    home.mkdir(mode=0o500)


def _remember_nothing(home: Path) -> None:
    """The folder is not there and cannot be made."""
    home.parent.joinpath("gone").write_bytes(b"")
    home.symlink_to(home.parent / "gone" / "home")


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
@pytest.mark.parametrize("spoil", [_remember_a_file, _forbid_writing, _remember_nothing])
def test_without_a_folder_to_keep_it_in_a_catalog_is_made_all_the_same(
    variable: str, spoil: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(tmp_path / "home")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "home"))
    empty.create(tmp_path / "made.duckdb")
    assert definitions(tmp_path / "made.duckdb") == wanted()


def test_a_home_that_is_no_place_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "here")
    empty.create(tmp_path / "made.duckdb")
    assert [path.name for path in tmp_path.iterdir()] == ["made.duckdb"]


@pytest.mark.parametrize("refused", ["mkdir", "lstat", "replace", "unlink"])
def test_a_cache_that_refuses_costs_nothing_but_time(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, refused, refuse)
        empty.create(tmp_path / "made.duckdb")
    assert definitions(tmp_path / "made.duckdb") == wanted()


def test_a_catalog_that_the_disk_did_not_take_whole_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def fill_disk(*_: object) -> None:
        raise duckdb.IOException("No space left on device")

    monkeypatch.setattr(empty, "_run_scripts", fill_disk)
    with pytest.raises(duckdb.IOException):
        empty.create(tmp_path / "made.duckdb")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("is_writable", [True, False])
def test_a_catalog_is_told_from_one_of_another_version(
    is_writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.create(tmp_path / "ours.duckdb")
    empty.create(tmp_path / "older.duckdb")
    with duckdb.connect(tmp_path / "older.duckdb") as connection:
        connection.execute("DROP MACRO TABLE outlier_channels").fetchall()
    if not is_writable:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert not checks.is_outdated(tmp_path / "ours.duckdb")
    assert checks.is_outdated(tmp_path / "older.duckdb")
    assert checks.is_outdated(tmp_path / "none.duckdb")
