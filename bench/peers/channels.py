"""Channel statistics of both axes and exact p99 and p99.9 of |x| of one bfloat16 tensor, in float32, with all cores.

    python bench/peers/channels.py torch|numpy CHECKPOINT

Both take NumPy's selection for the quantiles, which is faster than torch.kthvalue and torch.sort. No histogram and no
fingerprints. The first pass is not timed. Prints JSON.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open


def quantiles(magnitude: np.ndarray) -> tuple[float, float]:
    ranks = [math.ceil(magnitude.size * q / 1000) - 1 for q in (990, 999)]
    p99, p999 = np.partition(magnitude.ravel(), ranks)[ranks]
    return float(p99), float(p999)


def numpy_moments(x: np.ndarray, axis: int) -> dict[str, Any]:
    mean = x.mean(axis, keepdims=True)
    d = x - mean
    square = d * d
    variance = square.mean(axis)
    magnitude = np.abs(x)
    return {
        "mean": mean.squeeze(axis),
        "std": np.sqrt(variance),
        "min": x.min(axis),
        "max": x.max(axis),
        "mean_abs": magnitude.mean(axis),
        "absmax": magnitude.max(axis),
        "rms": np.sqrt((x * x).mean(axis)),
        "kurtosis": (square * square).mean(axis) / variance**2,
        "zeros": (x == 0).sum(axis),
    }


def numpy_way(path: str) -> Callable[[], tuple[Any, Any, float, float]]:
    import ml_dtypes  # noqa: F401  # gives NumPy the dtype

    with safe_open(path, "numpy") as file:
        weight = file.get_tensor(next(iter(file.keys())))

    def compute() -> tuple[Any, Any, float, float]:
        x = weight.astype(np.float32)
        return numpy_moments(x, 1), numpy_moments(x, 0), *quantiles(np.abs(x))

    return compute


def torch_way(path: str) -> Callable[[], tuple[Any, Any, float, float]]:
    import torch

    with safe_open(path, "pt") as file:
        weight = file.get_tensor(next(iter(file.keys())))

    def moments(x: "torch.Tensor", axis: int) -> dict[str, Any]:
        mean = x.mean(axis, keepdim=True)
        square = (x - mean).square()
        variance = square.mean(axis)
        magnitude = x.abs()
        return {
            "mean": mean.squeeze(axis),
            "std": variance.sqrt(),
            "min": x.amin(axis),
            "max": x.amax(axis),
            "mean_abs": magnitude.mean(axis),
            "absmax": magnitude.amax(axis),
            "rms": x.square().mean(axis).sqrt(),
            "kurtosis": square.square().mean(axis) / variance**2,
            "zeros": (x == 0).sum(axis),
        }

    def compute() -> tuple[Any, Any, float, float]:
        x = weight.float()
        return moments(x, 1), moments(x, 0), *quantiles(x.abs().numpy())

    return compute


def main(which: str, folder: Path) -> None:
    (path,) = folder.glob("*.safetensors")
    compute = {"torch": torch_way, "numpy": numpy_way}[which](str(path))
    compute()
    started = time.perf_counter()
    out, into, p99, p999 = compute()
    seconds = time.perf_counter() - started
    sums = {"std_out": float(out["std"].sum()), "kurtosis_in": float(into["kurtosis"].sum())}
    print(json.dumps({"seconds": seconds, "p99": p99, "p999": p999, **sums}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
