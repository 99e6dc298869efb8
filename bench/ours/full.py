"""All singular values of the matrix of bench/peers/full_svd.py, by our kernel, from panels of rows, all cores.

    python -m bench.ours.full ROWS COLS

Turning float32 panels into float64 is timed with it. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.peers.full_svd import matrix
from shardscan.reduce.kernels import cpu

PANEL = 512  # rows: 16 MB in float64


def main(rows: int, cols: int) -> None:
    full_spectrum: Any = getattr(cpu, "full_spectrum", None)
    if full_spectrum is None:
        print(json.dumps({"missing": "shardscan.reduce.kernels.cpu has no full_spectrum"}))
        return
    weight = matrix(rows, cols)
    full_spectrum(_panels(weight[:64, :64]), 64)
    started = time.perf_counter()
    found = full_spectrum(_panels(weight), cols)
    seconds = time.perf_counter() - started
    sigma = np.asarray(found[0] if isinstance(found, tuple) else found)
    print(json.dumps({"seconds": seconds, "largest": float(sigma[0]), "nuclear": float(np.nansum(sigma))}))


def _panels(weight: np.ndarray) -> Iterator[np.ndarray]:
    for row in range(0, len(weight), PANEL):
        yield weight[row : row + PANEL].astype(np.float64)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
