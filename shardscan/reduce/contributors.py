"""REDUCE, its contributors: more statistics of output channels, reduced beside the moments and committed with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.reduce.moments import Moments


@dataclass(frozen=True, slots=True)
class Contributor:
    """Statistics by their `names`, which are stored behind those of moments; new ones come last.

    `reduce(matrix, values, table, rows)` makes of whole stored rows, whose moments are there, what merges with that of
    the rows that come after; None where there is nothing to tell. `finish(matrix, merged)` gives float64 (names, rows)
    of all output channels. `compile(values, table)` makes kernels ready.
    """

    names: tuple[str, ...]
    reduce: Callable[[Matrix | None, np.ndarray, np.ndarray | None, Moments], Any]
    finish: Callable[[Matrix, Any], np.ndarray]
    compile: Callable[[np.ndarray, np.ndarray | None], None]
