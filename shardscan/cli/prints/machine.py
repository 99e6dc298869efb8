"""What `info` prints: the machine and the libraries, for bug reports."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING

from shardscan.machine import processors, versions

if TYPE_CHECKING:
    import pyarrow as pa


def tabulate_machine() -> pa.Table:
    """Rows of (what, value): versions, each BLAS with its threads, processors, memory, devices, layout of the store."""
    import numpy as np  # noqa: F401  # threadpoolctl sees only what is loaded
    import pyarrow as pa
    from threadpoolctl import threadpool_info

    from shardscan.reduce import devices
    from shardscan.store.facts import LAYOUT

    facts = {**versions(), "platform": platform.platform(), "executable": sys.executable}
    for library in threadpool_info():
        if library["user_api"] == "blas":
            loaded = f"{library['internal_api']} {library['version']} ({library.get('architecture', '?')})"
            facts[f"blas of {_package(library['filepath'])}"] = f"{loaded}, {library['num_threads']} threads"
    facts["processors"] = f"{processors()} usable of {os.cpu_count()}"
    facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    facts["devices"] = ", ".join(["cpu", *devices.list_cuda_devices()])
    facts["store layout"] = str(LAYOUT)
    return pa.table({"what": list(facts), "value": list(facts.values())})


def _package(path: str) -> str:
    """The package that brought a shared library: `numpy` of …/numpy.libs/libscipy_openblas.so."""
    return path.replace("\\", "/").rsplit("/", 2)[-2].partition(".")[0]
