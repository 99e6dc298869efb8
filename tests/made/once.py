"""Folders that tests only read or copy, made once for all tests and all workers of a run."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Once:
    """`once("tiny", make)` is a folder that `make(folder)` has filled, by the first who asks for that name.

    Whoever asks meanwhile waits for it. `root` is a folder that the workers share. A store keeps the paths of its
    checkpoints, so the folder is filled where it stays; one whose making failed is made anew.
    """

    root: Path

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        folder, made = self.root / name, self.root / f"{name}.made"
        with (self.root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                made.touch()
        return folder
