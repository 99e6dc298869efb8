"""shardscan opens a model checkpoint once, out of core, and turns it into tables.

The public names load on first use, so `import shardscan` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "connect", "diff", "ingest", "open"]

if TYPE_CHECKING:
    from shardscan.ask import connect
    from shardscan.flow import ingest
    from shardscan.matching import diff
    from shardscan.reduce.arrays import open

_HOMES = {
    "connect": "shardscan.ask",
    "diff": "shardscan.matching",
    "ingest": "shardscan.flow",
    "open": "shardscan.reduce.arrays",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'shardscan' has no attribute {name!r}")
