"""REDUCE on the CPU, its compiler: numba, told once how kernels are compiled; every kernel takes `kernel` from here.

LLVM holds back from 512-bit vectors on Intel, for the sake of clocks that fell with them until about 2019; here they
halve the time of a block. The wish is the process's, so it is made before the first kernel; where another library
compiled before us, or the user has set NUMBA_CPU_FEATURES or NUMBA_ENABLE_AVX, theirs stands.

What is compiled is kept where numba keeps it: beside the sources, else in the user's cache folder, or where
NUMBA_CACHE_DIR says. Where none of these can be written to, as in a read-only image for a user without a home, a
temporary folder of this user's own is; where there is none of those either, kernels are compiled in every process.
"""

from __future__ import annotations

import os
import platform
import tempfile
from functools import partial
from pathlib import Path

from numba import config, njit
from numba.core.codegen import get_host_cpu_features

from shardscan.machine import is_private

AS_NUMBA_FINDS_IT = config.CPU_NAME is None and config.CPU_FEATURES is None  # type: ignore[attr-defined]
if AS_NUMBA_FINDS_IT and platform.machine() in ("x86_64", "AMD64"):
    features = (get_host_cpu_features(), "-prefer-256-bit")
    config.CPU_FEATURES = ",".join(filter(None, features))  # type: ignore[attr-defined]


def _is_kept() -> bool:
    """Whether numba has a folder to keep kernels in, which it looks for before it compiles any."""
    try:
        njit(cache=True)(_is_kept)
    except RuntimeError:
        return False
    return True


def _make_temporary_cache() -> Path | None:
    """A temporary folder of this user's own, for all processes; not one that somebody else could put code into."""
    try:
        folder = Path(tempfile.gettempdir(), f"shardscan-numba-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder if is_private(folder) else None
    except OSError:
        return None


IS_USUAL = _is_kept()
if not IS_USUAL and (temporary := _make_temporary_cache()):
    config.CACHE_DIR = str(temporary)  # type: ignore[attr-defined]
IS_KEPT = IS_USUAL or _is_kept()

kernel = partial(njit, cache=IS_KEPT, nogil=True)


def describe_compiling() -> str:
    """What to say before kernels are compiled, which is silent for long enough that people would think it hangs."""
    if not IS_KEPT:
        return (
            "Compiling the kernels, which takes up to a minute in every run, because no folder keeps them: "
            "NUMBA_CACHE_DIR can name one."
        )
    said = "Compiling the kernels, which happens once and takes up to a minute."
    return said if IS_USUAL else f"{said} Only {config.CACHE_DIR} keeps them: NUMBA_CACHE_DIR can name another."  # type: ignore[attr-defined]
