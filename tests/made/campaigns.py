"""Cases of the campaigns: all of them with `--campaigns=full`, and some in every run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def in_full(*values: Any, id: str | None = None) -> Any:
    """A case of the full campaigns alone."""
    return pytest.param(*values, id=id, marks=pytest.mark.full_only)


def sampled(values: Iterable[Any], every: int) -> list[Any]:
    """All of them in full, and each `every`-th in every run."""
    return [in_full(value) if number % every else value for number, value in enumerate(values)]
