"""STORE, its promises: what a scan has finished, as small JSON files that appear whole or not at all.

<store>/commits/<scan>/begun                     the scan exists; which scans it is to replace
<store>/commits/<scan>/<task>.<product>.json     these tensors are done, these files hold them
<store>/commits/<scan>/runs/<number>.json        what one run took
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of one model in one store: where its arrays and its commits are."""

    store: Path
    id: str

    @property
    def arrays(self) -> Path:
        return self.store / "arrays.zarr" / self.id

    @property
    def commits(self) -> Path:
        return self.store / "commits" / self.id


def begin(scan: Scan, replaces: list[str]) -> None:
    """Make the scan exist."""
    _write(scan.commits / "begun", {"replaces": replaces})


def begun(store: Path) -> list[Scan]:
    """Every scan of a store that exists."""
    return [Scan(store, path.parent.name) for path in sorted((store / "commits").glob("*/begun"))]


def replaces(scan: Scan) -> list[str]:
    """Ids of the scans this one is to replace when it is complete."""
    return list(_read(scan.commits / "begun")["replaces"])


def witness(scan: Scan) -> Mapping[str, Any] | None:
    """What `record_witness` last kept."""
    path = scan.commits / "witness"
    return _read(path) if path.exists() else None


def record_witness(scan: Scan, seen: Mapping[str, Any]) -> None:
    """Keep what the checkpoint's files looked like when their contents were known to be this scan's."""
    _write(scan.commits / "witness", seen)


def forget(scan: Scan) -> None:
    """Remove a scan, its commits first, so that nobody trusts half of its arrays."""
    shutil.rmtree(scan.commits, ignore_errors=True)
    shutil.rmtree(scan.arrays, ignore_errors=True)


def commit(scan: Scan, record: Mapping[str, Any]) -> None:
    """Vouch for one product of one task: `record` has task, product, tensors, files and version."""
    _write(scan.commits / f"{record['task']}.{record['product'].replace('/', '-')}.json", record)


def committed(scan: Scan) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Every commit, by task and product."""
    records = (_read(path) for path in sorted(scan.commits.glob("*.json")))
    return {(record["task"], record["product"]): record for record in records}


def record_run(scan: Scan, run: Mapping[str, Any]) -> None:
    """Keep what only this run knows: times, memory, machine."""
    number = 1 + len(list((scan.commits / "runs").glob("*.json")))
    _write(scan.commits / "runs" / f"{number:06d}.json", run)


def runs(scan: Scan) -> list[Mapping[str, Any]]:
    """The runs of a scan, in order."""
    return [_read(path) for path in sorted((scan.commits / "runs").glob("*.json"))]


def _read(path: Path) -> Mapping[str, Any]:
    record = json.loads(path.read_bytes())
    assert isinstance(record, dict)
    return record


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own, since two threads may commit at once, and one that no glob for commits finds
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with temporary.open("w", encoding="ascii") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
