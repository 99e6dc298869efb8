"""STORE, its facts: what a scan knows of its checkpoint, as its groups in Zarr have it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from shardscan.errors import StoreError
from shardscan.store.chunks import METADATA
from shardscan.store.commits import Scan
from shardscan.store.records import StoredGroup, StoredScan, read_record

LAYOUT = 5
ATTRIBUTE = "shardscan"  # of a group: what is said of it


def read_scan(scan: Scan) -> StoredScan:
    """What a scan knows of its checkpoint."""
    try:
        return read_record(StoredScan, _read_attribute(scan.arrays))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(
            f"the arrays in {scan.arrays} are gone or damaged: ingest their checkpoint again, or remove {scan.commits}."
        ) from error


def read_groups(scan: Scan) -> Iterator[tuple[str, StoredGroup]]:
    """Folder and contents of every group of a scan, in the order of the checkpoint's headers."""
    for folder in read_scan(scan).groups:
        yield folder, read_record(StoredGroup, _read_attribute(scan.arrays / folder))


def _read_attribute(group: Path) -> object:
    return json.loads((group / METADATA).read_bytes())["attributes"][ATTRIBUTE]
