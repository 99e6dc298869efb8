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
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from shardscan.errors import OptionError, shown

if TYPE_CHECKING:
    from shardscan.plan.tasks import Piece
    from shardscan.reduce.kernels import Sums
    from shardscan.reduce.panels import Panel

Found = TypeVar("Found")

# Of a process, on its GPU at once: one block is copied there while another is computed. A block is 16 MiB as it is
# stored and at most 256 MiB as float64, of which cuBLAS may want a copy: 1 GiB is enough for any number of workers.
TURNS = threading.BoundedSemaphore(2)


class Reduced(NamedTuple):
    """Statistics and Gram matrices (heads, d, d) of a piece, None where not asked for, and the device they are from."""

    sums: Sums | None
    grams: np.ndarray | None
    device: Device


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processors, by numba and LAPACK."""

    name: ClassVar[str] = "cpu"
    gram: ClassVar[str] = "gram"  # its spectra from Gram matrices, in METHODS

    def reduce(self, values: np.ndarray, table: np.ndarray | None, piece: Piece) -> Reduced:
        """What is wanted of a piece, from its values (rows, cols) and their table as kernels take them."""
        from shardscan.reduce.kernels import cpu

        sums = cpu.statistics(values, table, piece.first, piece.columns) if piece.statistics else None
        return Reduced(sums, _grams(cpu, piece, values, table), self)

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

    def reduce(self, values: np.ndarray, table: np.ndarray | None, piece: Piece) -> Reduced:
        """As the CPU's."""

        def here(gpu: Any) -> Reduced:
            placed = gpu.load(values, table)
            sums = gpu.statistics(placed, piece.first, piece.columns) if piece.statistics else None
            return Reduced(sums, _grams(gpu, piece, placed), self)

        return self._tried(here) or CPU.reduce(values, table, piece)

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

    def _tried(self, compute: Callable[[Any], Found]) -> Found | None:
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


def chosen(words: str) -> Device:
    """The device of 'cpu', 'cuda' (the first) or 'cuda:1'; of 'auto' the first that works, else the CPU.

    OptionError where the words are none of these, and NoDevice, which is one, where what they name cannot be used.
    """
    if words == "auto":
        return _automatic()
    if words == "cpu":
        return CPU
    found = re.fullmatch(r"cuda(?::([0-9]{1,3}))?", words)
    if not found:
        raise OptionError(f"{shown(words)} is no --device: take auto, cpu, cuda, or cuda:1 for the second GPU.")
    device = Cuda(int(found[1] or 0))
    device.require()
    return device


def of_cuda() -> list[str]:
    """Every CUDA device by id and name; none where there is no CuPy, and nothing of the GPU's is imported then."""
    if find_spec("cupy") is None:
        return []
    from shardscan.reduce.kernels import gpu

    return gpu.available()


def _automatic() -> Device:
    if not of_cuda():
        return CPU
    from shardscan.reduce.kernels import gpu

    try:
        Cuda(0).require()
    except gpu.NoDevice:
        return CPU
    return Cuda(0)


def _grams(kernels: Any, piece: Piece, *values: Any) -> np.ndarray | None:
    """The Gram matrices of a piece's heads, by the CPU's kernels or the GPU's from their own form of its values."""
    if piece.divided is None:
        return None
    axis, dim = piece.divided
    grams: np.ndarray = (kernels.row_grams if axis == "out" else kernels.column_grams)(*values, dim)
    return grams
