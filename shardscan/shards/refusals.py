"""OPEN, its refusals: what is wrong with a checkpoint, and who hears of it.

The rules are written once. `open` stops at the first that is broken; whoever verifies hears of all, and what can still
be read is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from shardscan.errors import CheckpointError


class Fault(NamedTuple):
    """One broken rule: the error that says so, whether it is about a header, an index, …, and the file and tensor.

    Where `leaves_no_doubt`, what the shards have can be read all the same, and means one thing alone.
    """

    error: CheckpointError
    check: str
    file: str | None = None
    tensor: str | None = None
    leaves_no_doubt: bool = False


Report = Callable[[Fault], None]


def refuse(fault: Fault) -> None:
    """Raise the error: for those who want a whole checkpoint or none."""
    raise fault.error
