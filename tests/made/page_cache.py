"""Files out of the page cache, which are read as a checkpoint is that nobody has read yet."""

from __future__ import annotations

import os
from pathlib import Path


def evict(path: Path) -> None:
    """Have the page cache forget a file, where the system lets one."""
    if not hasattr(os, "posix_fadvise"):
        return
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
