"""REDUCE on the GPU, its device: the one place where CuPy is loaded, and where its errors become ours.

CuPy is loaded when something is computed, never before, so that this folder can be imported where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shardscan.errors import OptionError

# what the libraries below CuPy say, each in its own class of RuntimeError
NO_MEMORY = ("ALLOC_FAILED", "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")
NO_DEVICE = ("cudaErrorNoDevice", "cudaErrorInsufficientDriver")
NO_LIBRARY = ("Failure finding", "failed to load")


class NoDevice(OptionError):
    """CuPy, a CUDA library, its driver or the device that was asked for is not there."""


class OutOfMemory(Exception):
    """What was asked for does not fit on the device."""


def library() -> Any:
    """CuPy; NoDevice where it is not installed."""
    try:
        import cupy
    except ImportError as error:
        raise NoDevice("The GPU's kernels need CuPy, which is not here: pip install 'shardscan[gpu]'.") from error
    return cupy


@contextmanager
def bordered() -> Iterator[None]:
    """The border to CuPy, used as a decorator: what it raises for a lack of memory or of a device becomes ours."""
    cupy = library()
    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise OutOfMemory(f"The device has no room for it: {error}") from error
    except (ImportError, RuntimeError) as error:
        if _says(error, NO_MEMORY):
            raise OutOfMemory(f"The device has no room for it: {error}") from error
        if _says(error, NO_DEVICE):
            raise NoDevice(f"There is no CUDA device that can be used: {error}.") from error
        if _says(error, NO_LIBRARY):
            remedy = "install the CUDA toolkit, or pip install 'cupy-cuda13x[ctk]'"
            raise NoDevice(f"CuPy does not find a library of CUDA: {remedy} ({error}).") from error
        raise


def _says(error: Exception, words: tuple[str, ...]) -> bool:
    return any(word in str(error) for word in words)


def available() -> list[str]:
    """Every device by id and name, such as `cuda:0 NVIDIA H100 80GB HBM3`; none where CuPy or a driver is missing."""
    try:
        return _names()
    except NoDevice:
        return []


@bordered()
def _names() -> list[str]:
    runtime = library().cuda.runtime
    names = (runtime.getDeviceProperties(index)["name"].decode() for index in range(runtime.getDeviceCount()))
    return [f"cuda:{index} {name}" for index, name in enumerate(names)]


@contextmanager
def use(index: int) -> Iterator[None]:
    """Compute on `cuda:index` within, in this thread: other threads keep theirs. A block stays on its device."""
    names = _names()
    if not 0 <= index < len(names):
        raise NoDevice(f"There is no device cuda:{index}; there are: {', '.join(names) or 'none'}.")
    with library().cuda.Device(index):
        yield
