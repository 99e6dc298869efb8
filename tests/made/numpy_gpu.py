"""A GPU of NumPy's: `kernels.gpu` as it is, but for its raw kernels, with NumPy in the place of CuPy.

What is computed by arrays (Gram matrices, spectra and their checks) is the GPU's own code. `decode` and `statistics`,
which are CUDA, are the CPU's.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from shardscan.reduce import devices
from shardscan.reduce.kernels import Sums, gpu
from shardscan.reduce.kernels.cpu.statistics import statistics
from shardscan.reduce.kernels.cpu.values import to_float64
from shardscan.reduce.kernels.gpu import device, spectra, values


class DeviceIsFull(MemoryError):
    """What CuPy raises."""


def install(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> None:
    """As if there were CuPy and so many devices."""
    cuda = SimpleNamespace(
        Device=lambda _: nullcontext(),
        memory=SimpleNamespace(OutOfMemoryError=DeviceIsFull),
        runtime=SimpleNamespace(getDeviceCount=lambda: count, getDeviceProperties=lambda _: {"name": b"NumPy"}),
    )
    cupy = SimpleNamespace(
        asarray=np.asarray, asnumpy=np.array, cuda=cuda, linalg=np.linalg, square=np.square, zeros=np.zeros
    )
    for module in (device, spectra, values):
        monkeypatch.setattr(module, "library", lambda: cupy)
    monkeypatch.setattr(spectra, "decoded", _decoded)
    monkeypatch.setattr(gpu, "statistics", _statistics)
    monkeypatch.setattr(devices, "find_spec", lambda _: "CuPy's")


def _decoded(block: gpu.Block) -> np.ndarray:
    return to_float64(*_given(block), 0, 0, np.empty(block.shape))


def _statistics(block: gpu.Block, first_row: int, columns: bool) -> Sums:
    return statistics(*_given(block), first_row, columns)


def _given(block: gpu.Block) -> tuple[np.ndarray, np.ndarray | None]:
    """The block in the CPU's form."""
    seen = block.values.view()
    seen.flags.writeable = False
    return seen, block.table if block.table.size else None
