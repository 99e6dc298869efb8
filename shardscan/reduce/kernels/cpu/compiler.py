"""REDUCE on the CPU, its compiler: numba, told once how kernels are compiled; every kernel takes `kernel` from here.

LLVM holds back from 512-bit vectors on Intel, for the sake of clocks that fell with them until about 2019; here they
halve the time of a block. The wish is the process's, so it is made before the first kernel; where another library
compiled before us, or the user has set NUMBA_CPU_FEATURES or NUMBA_ENABLE_AVX, theirs stands.
"""

from __future__ import annotations

import platform
from functools import partial

from numba import config, njit
from numba.core.codegen import get_host_cpu_features

AS_NUMBA_FINDS_IT = config.CPU_NAME is None and config.CPU_FEATURES is None  # type: ignore[attr-defined]
if AS_NUMBA_FINDS_IT and platform.machine() in ("x86_64", "AMD64"):
    features = (get_host_cpu_features(), "-prefer-256-bit")
    config.CPU_FEATURES = ",".join(filter(None, features))  # type: ignore[attr-defined]

kernel = partial(njit, cache=True, nogil=True)
