"""REDUCE on the GPU, its values: a block on the device, and the raw kernels that decode it there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from shardscan.reduce.kernels.gpu.device import bordered, library

if TYPE_CHECKING:
    import cupy

THREADS, WARP = 256, 32
FORMS = {  # what kernels.cu calls values of a dtype, without a table and with one
    ("uint16", False): "Bfloat16",
    ("uint8", True): "Table8",
    ("uint16", True): "Table16",
    ("float32", False): "Float32",
    ("float64", False): "Float64",
}


@dataclass(frozen=True, slots=True)
class Block:
    """Values (rows, cols) on the device as they are stored, the float32 table that decodes them, and their form."""

    values: cupy.ndarray
    table: cupy.ndarray
    form: str

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.values.shape
        return rows, cols

    @property
    def wide(self) -> bool:
        """Whether a value has more than 16 bits."""
        return bool(self.values.dtype.kind == "f")


@bordered()
def load(values: np.ndarray, table: np.ndarray | None) -> Block:
    """Put a block on the current device: values (rows, cols) and their table as the CPU's kernels take them."""
    form = FORMS[values.dtype.name, table is not None]
    cupy = library()
    # kernels see pointers and no strides
    placed = cupy.asarray(np.ascontiguousarray(values))
    return Block(placed, cupy.asarray(np.empty(0, np.float32) if table is None else table), form)


def launch(block: Block, name: str, grid: tuple[int, ...], threads: int, *args: Any) -> None:
    """Start a kernel on the blocks' values; a grid without blocks, which CUDA refuses, has nothing to do."""
    if 0 not in grid:
        _kernel(block.form, name)(grid, (threads,), args)


def decoded(block: Block) -> cupy.ndarray:
    """The values as float64, on the device."""
    out = library().empty(block.shape, np.float64)
    grid = (min(blocks_of(out.size), 1 << 16),)
    launch(block, "decode", grid, THREADS, block.values, block.table, np.int64(out.size), out)
    return out


def threads_for(n: int) -> int:
    """Threads of a block that has n things to do: a power of two, whole warps."""
    return min(THREADS, max(WARP, 1 << max(n - 1, 0).bit_length()))


def blocks_of(n: int, threads: int = THREADS) -> int:
    """Blocks of threads for n things to do."""
    return -(-n // threads)


@cache
def _kernel(form: str, name: str) -> Any:
    """CuPy compiles it once for each device and keeps the binary in a folder of its own."""
    source = resources.files(__package__).joinpath("kernels.cu").read_text("utf-8")
    options = ("-std=c++17", f"-DVALUES={form}", f"-DTHREADS={THREADS}")
    return library().RawModule(code=source, options=options).get_function(name)
