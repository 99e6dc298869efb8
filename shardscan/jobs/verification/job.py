"""VERIFY, beside the line: whether a checkpoint or a store is whole, and what in it is odd.

Promises: a problem never ends the looking: everything that can be read is looked at, all of it once, in windows of
bounded size. Nothing is written, nothing outside PATH is opened because a file in it says so, and names are data.
"""

from __future__ import annotations

import os
from pathlib import Path

from shardscan.jobs.scan.options import Reading
from shardscan.jobs.verification import checkpoint, store
from shardscan.jobs.verification.findings import NOTE, PROBLEM, Advance, Finding, Verdict
from shardscan.shards.sources.schemes import scheme_of

__all__ = ["NOTE", "PROBLEM", "Finding", "Verdict", "verify"]


def verify(
    path: str | os.PathLike[str],
    advance: Advance = lambda done, total: None,
    reading: Reading | None = None,
) -> Verdict:
    """Everything that is wrong or odd with the checkpoint or the store at `path`.

    `advance` is called with the bytes read and the bytes there are; `reading` is how a checkpoint is opened.
    Raises CheckpointNotFound where there is neither, CheckpointError and StoreError where that cannot even be told.
    """
    text = os.fspath(path)
    if text and not scheme_of(text) and store.is_store(Path(text)):  # an empty path is not the current folder
        return store.verify(Path(text), advance)
    return checkpoint.verify(text, advance, reading or Reading())
