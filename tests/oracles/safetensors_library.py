"""The safetensors library as the judge of what is a file of that format."""

from __future__ import annotations

from typing import Any

import safetensors
from safetensors import SafetensorError

DESERIALIZE: Any = safetensors.deserialize  # it has no types


def accepts(data: bytes) -> bool:
    """Whether the library reads these bytes."""
    try:
        DESERIALIZE(data)
    except SafetensorError:
        return False
    return True
