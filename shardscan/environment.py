"""What `shardscan info` prints: the machine and the libraries, for bug reports."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def facts() -> pa.Table:
    """Rows of (what, value): versions, each BLAS with its threads, processors, memory, device, layout of the store."""
    import numpy as np  # noqa: F401  # threadpoolctl sees only what is loaded
    import pyarrow as pa
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info

    from shardscan.flow import versions
    from shardscan.store import LAYOUT

    found = {**versions(), "platform": platform.platform(), "executable": sys.executable}
    for library in threadpool_info():
        if library["user_api"] == "blas":
            loaded = f"{library['internal_api']} {library['version']} ({library.get('architecture', '?')})"
            found[f"blas of {_package(library['filepath'])}"] = f"{loaded}, {library['num_threads']} threads"
    found["processors"] = _processors()
    found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    found["device"] = "cpu"
    found["store layout"] = str(LAYOUT)
    return pa.table({"what": list(found), "value": list(found.values())})


def _processors() -> str:
    # macOS cannot say which processors a process may use
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} usable of {os.cpu_count()}"


def _package(path: str) -> str:
    """The package that brought a shared library: `numpy` of …/numpy.libs/libscipy_openblas.so."""
    return path.replace("\\", "/").rsplit("/", 2)[-2].partition(".")[0]
