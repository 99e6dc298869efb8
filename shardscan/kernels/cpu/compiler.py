"""REDUCE on the CPU, its compiler: numba, told once how kernels are compiled; every kernel takes `kernel` from here.

LLVM holds back from 512-bit vectors on Intel, for the sake of clocks that fell with them until about 2019; here they
halve the time of a block. The wish is the process's, so it is made before the first kernel; where another library
compiled before us, or the user has set NUMBA_CPU_FEATURES, theirs stands.
"""

from __future__ import annotations

from functools import partial

from llvmlite import binding
from numba import config, njit

if config.CPU_NAME is None and config.CPU_FEATURES is None:  # type: ignore[attr-defined]
    config.CPU_FEATURES = f"{binding.get_host_cpu_features().flatten()},-prefer-256-bit"  # type: ignore[attr-defined]

kernel = partial(njit, cache=True, nogil=True)
