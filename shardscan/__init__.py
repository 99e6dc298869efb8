"""shardscan opens a model checkpoint once, out of core, and turns it into tables.

The public names load on first use, so `import shardscan` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shardscan.version import __version__

__all__ = ["__version__", "ask", "connect", "diff", "ingest", "open"]

if TYPE_CHECKING:
    from shardscan.answers.connection import ask, connect
    from shardscan.jobs.comparison.job import diff
    from shardscan.jobs.scan.job import ingest
    from shardscan.reduce.arrays import open

_HOMES = {
    "ask": "shardscan.answers.connection",
    "connect": "shardscan.answers.connection",
    "diff": "shardscan.jobs.comparison.job",
    "ingest": "shardscan.jobs.scan.job",
    "open": "shardscan.reduce.arrays",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'shardscan' has no attribute {name!r}")
