"""REDUCE, its devices: the CPU or a CUDA device as a value that pickles, and the few functions that both have.

Each function also gives the device that did the work: what a GPU has no room for, or gets wrong, the CPU does. Kernels
are imported when they compute: a plan loads no numba, and a scan on the CPU nothing of the GPU's.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from shardscan.errors import OptionError, shown

if TYPE_CHECKING:
    from shardscan.reduce.kernels import Sums
    from shardscan.reduce.panels import Panel

Made = TypeVar("Made")

# Of a process, on its GPU at once: one block is copied there while another is computed. A block is 16 MiB as it is
# stored and at most 256 MiB as float64, of which cuBLAS may want a copy: 1 GiB is enough for any number of workers.
TURNS = threading.BoundedSemaphore(2)


class DeviceBlock(Protocol):
    """Values (rows, cols) where a device computes with them."""

    def statistics(self, first: int, columns: bool) -> Sums:
        """The sums of rows, the first of which has this number, and of columns if they mean something."""

    def grams(self, axis: str, dim: int) -> np.ndarray:
        """Gram matrices (heads, dim, dim) of the heads along an axis, 'out' for rows."""


class CpuBlock(NamedTuple):
    """Values and their table, as the CPU's kernels take them."""

    values: np.ndarray
    table: np.ndarray | None

    def statistics(self, first: int, columns: bool) -> Sums:
        """See DeviceBlock."""
        from shardscan.reduce.kernels import cpu

        return cpu.statistics(self.values, self.table, first, columns)

    def grams(self, axis: str, dim: int) -> np.ndarray:
        """See DeviceBlock."""
        from shardscan.reduce.kernels import cpu

        return (cpu.row_grams if axis == "out" else cpu.column_grams)(self.values, self.table, dim)


class GpuBlock(NamedTuple):
    """The GPU's kernels and what they have loaded, once for all that is asked of it."""

    kernels: Any
    loaded: Any

    def statistics(self, first: int, columns: bool) -> Sums:
        """See DeviceBlock."""
        sums: Sums = self.kernels.statistics(self.loaded, first, columns)
        return sums

    def grams(self, axis: str, dim: int) -> np.ndarray:
        """See DeviceBlock."""
        grams: np.ndarray = (self.kernels.row_grams if axis == "out" else self.kernels.column_grams)(self.loaded, dim)
        return grams


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processors, by numba and LAPACK."""

    name: ClassVar[str] = "cpu"
    gram: ClassVar[str] = "gram"  # its spectra from Gram matrices, in METHODS

    def on_block(
        self, values: np.ndarray, table: np.ndarray | None, compute: Callable[[DeviceBlock], Made]
    ) -> tuple[Made, Device]:
        """What `compute` makes of values (rows, cols) and their table as kernels take them, and which device did."""
        return compute(CpuBlock(values, table)), self

    def gram_spectra(self, grams: np.ndarray, rank: int, floor: float) -> tuple[np.ndarray, np.ndarray, Device]:
        """σ (n, rank) of Gram matrices (n, d, d), and which of the n rows hold: see the kernels."""
        from shardscan.reduce.kernels import cpu

        return *cpu.gram_spectra(grams, rank, floor), self

    def full_spectrum(self, panels: Callable[[], Iterator[Panel]], n: int) -> tuple[np.ndarray, Device]:
        """σ (n,) of a matrix of n columns, from its panels; NaN where a value, or a square, is not finite."""
        from shardscan.reduce.kernels import cpu

        return cpu.full_spectrum((panel.decoded() for panel in panels()), n), self


@dataclass(frozen=True, slots=True)
class Cuda:
    """A CUDA device by its number, by CuPy; NoDevice where it cannot be used, which ends the run."""

    index: int
    gram: ClassVar[str] = "gram_gpu"

    @property
    def name(self) -> str:
        return f"cuda:{self.index}"

    def on_block(
        self, values: np.ndarray, table: np.ndarray | None, compute: Callable[[DeviceBlock], Made]
    ) -> tuple[Made, Device]:
        """As the CPU's."""
        made = self._tried(lambda gpu: (compute(GpuBlock(gpu, gpu.load(values, table))), self))
        return made or CPU.on_block(values, table, compute)

    def gram_spectra(self, grams: np.ndarray, rank: int, floor: float) -> tuple[np.ndarray, np.ndarray, Device]:
        """As the CPU's; a row whose eigenvalues fail a check does not hold."""
        found = self._tried(lambda gpu: (*gpu.gram_spectra(grams, rank, floor), self))
        return found or CPU.gram_spectra(grams, rank, floor)

    def full_spectrum(self, panels: Callable[[], Iterator[Panel]], n: int) -> tuple[np.ndarray, Device]:
        """As the CPU's."""
        found = self._tried(lambda gpu: (gpu.full_spectrum((panel.stored() for panel in panels()), n), self))
        return found or CPU.full_spectrum(panels, n)

    def require(self) -> None:
        """Put one value through every library that a run needs; NoDevice where one or the device is missing."""
        from shardscan.reduce.kernels import gpu

        try:
            with gpu.use(self.index):
                block = gpu.load(np.ones((1, 1), np.float32), None)
                gpu.statistics(block, 0, True)
                gpu.gram_spectra(gpu.row_grams(block, 1), 1, 0.0)
        except gpu.OutOfMemory as error:
            raise gpu.NoDevice(f"{self.name} has no memory free, not even for one value.") from error

    def _tried(self, compute: Callable[[Any], Made]) -> Made | None:
        """What `compute` makes with the GPU's kernels; None where it does not fit or does not pass their checks."""
        from shardscan.reduce.kernels import gpu

        try:
            with TURNS, gpu.use(self.index):
                return compute(gpu)
        except (gpu.OutOfMemory, gpu.Inaccurate):
            return None


Device = Cpu | Cuda
CPU = Cpu()


@dataclass(frozen=True, slots=True)
class Solver:
    """How whole matrices are solved; `exact` redoes by QR and SVD what lies below the floor of a Gram matrix."""

    exact: bool = False
    device: Device = CPU


def choose_device(words: str) -> Device:
    """The device of 'cpu', 'cuda' (the first) or 'cuda:1'; of 'auto' the first that works, else the CPU.

    OptionError where the words are none of these, and NoDevice, which is one, where what they name cannot be used.
    """
    if words == "auto":
        return _automatic()
    if words == "cpu":
        return CPU
    match = re.fullmatch(r"cuda(?::([0-9]{1,3}))?", words)
    if not match:
        raise OptionError(f"{shown(words)} is no --device: take auto, cpu, cuda, or cuda:1 for the second GPU.")
    device = Cuda(int(match[1] or 0))
    device.require()
    return device


def list_cuda_devices() -> list[str]:
    """Every CUDA device by id and name; none where there is no CuPy, and nothing of the GPU's is imported then."""
    if find_spec("cupy") is None:
        return []
    from shardscan.reduce.kernels import gpu

    return gpu.available()


def _automatic() -> Device:
    if not list_cuda_devices():
        return CPU
    from shardscan.reduce.kernels import gpu

    try:
        Cuda(0).require()
    except gpu.NoDevice:
        return CPU
    return Cuda(0)
