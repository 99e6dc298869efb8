"""The command in a process of its own, as a person's shell starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "shardscan", *words]


def environment() -> dict[str, str]:
    """This one, with nothing of ours in it but the checkout."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SHARDSCAN")} | {"PYTHONPATH": str(ROOT)}


def shardscan(store: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """What a command that needs a store says and how it ends."""
    words = (*words, "--store", str(store))
    return subprocess.run(command(*words), capture_output=True, text=True, env=environment(), timeout=600, **more)


def ingest(*words: str | Path) -> Any:
    """What an ingest counts of itself."""
    words = ("ingest", *words, "--format", "json")
    return json.loads(subprocess.run(command(*map(str, words)), capture_output=True, text=True, check=True).stdout)[0]
