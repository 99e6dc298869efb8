"""All singular values of one normal float32 matrix, values only, all cores.

    python bench/peers/full_svd.py numpy|torch ROWS COLS

Prints JSON. A small matrix goes first, so that threads and libraries are there.
"""

import json
import sys
import time

import numpy as np


def matrix(rows: int, cols: int) -> np.ndarray:
    """The matrix that both sides take."""
    return np.random.default_rng(0).standard_normal((rows, cols), np.float32)


def main(which: str, rows: int, cols: int) -> None:
    weight = matrix(rows, cols)
    if which == "torch":
        import torch

        tensor = torch.from_numpy(weight)
        torch.linalg.svdvals(tensor[:64, :64])
        started = time.perf_counter()
        sigma = torch.linalg.svdvals(tensor).numpy()
    else:
        np.linalg.svd(weight[:64, :64], compute_uv=False)
        started = time.perf_counter()
        sigma = np.linalg.svd(weight, compute_uv=False)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "largest": float(sigma[0]), "nuclear": float(sigma.sum(dtype=np.float64))}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
