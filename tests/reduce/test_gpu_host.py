"""What of the GPU's kernels runs on every machine: what is said without a device, and how its solver is watched.

CuPy is not needed: where arrays are computed, NumPy stands for it.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from made import numpy_gpu
from shardscan.reduce.kernels import cpu, gpu
from shardscan.reduce.kernels.cpu import channels as cpu_channels
from shardscan.reduce.kernels.gpu import channels, device, spectra, values
from shardscan.reduce.spectra import GRAM_FLOOR

WITHOUT_CUPY = "import sys; sys.modules['cupy'] = None; import numpy as np; from shardscan.reduce.kernels import gpu;"


@pytest.fixture
def on_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy in the place of CuPy."""
    numpy_gpu.install(monkeypatch)


def test_devices_are_listed_or_there_are_none() -> None:
    assert all(name.startswith("cuda:") for name in gpu.available())


@pytest.mark.parametrize(
    "use",
    [
        "gpu.load(np.zeros((2, 3), np.float32), None)",
        "gpu.gram_spectra(np.zeros((1, 2, 2)), 2, 1e-5)",
        "gpu.full_spectrum(iter([]), 3)",
        "gpu.use(0).__enter__()",
    ],
)
def test_without_cupy_there_are_no_devices_and_use_says_what_to_install(use: str) -> None:
    code = f"{WITHOUT_CUPY}\nassert gpu.available() == []\n{use}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("shardscan.reduce.kernels.gpu.device.NoDevice: ")
    assert "pip install 'shardscan[gpu]'" in last


def test_importing_the_kernels_loads_neither_cupy_nor_numba() -> None:
    code = "import sys; import shardscan.reduce.kernels.gpu; print([m for m in ('cupy', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (numpy_gpu.DeviceIsFull("allocating 512 bytes"), gpu.OutOfMemory),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), gpu.OutOfMemory),
        (RuntimeError("CUSOLVER_STATUS_ALLOC_FAILED"), gpu.OutOfMemory),
        (RuntimeError("cudaErrorMemoryAllocation: out of memory"), gpu.OutOfMemory),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), gpu.OutOfMemory),
        (RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected"), gpu.NoDevice),
        (RuntimeError('Failure finding "libnvrtc.so.13": No such file'), gpu.NoDevice),
        (ImportError('Failure finding "libcusolver.so.12": No such file'), gpu.NoDevice),
        (ImportError("No module named 'other'"), ImportError),
        (RuntimeError("cudaErrorIllegalAddress"), RuntimeError),
        (MemoryError("the host's"), MemoryError),
    ],
    ids=str,
)
def test_a_lack_of_memory_or_of_a_device_is_told_from_other_errors(error: Exception, becomes: type[Exception]) -> None:
    @device.bordered()
    def fails() -> None:
        raise error

    with pytest.raises(becomes) as caught:
        fails()
    assert caught.type is becomes


def test_blocks_of_threads_are_whole_warps_and_powers_of_two() -> None:
    for n in range(1100):
        threads = values.threads_for(n)
        assert threads % 32 == 0
        assert threads & (threads - 1) == 0
        assert threads >= min(n, values.THREADS)
        assert values.blocks_of(n, threads) * threads >= n


def test_sums_are_in_the_cpus_order() -> None:
    order = ("S1", "S2", "S3", "S4", "SABS", "MIN", "MAX", "COUNT", "ZEROS")
    assert [getattr(cpu_channels, name) for name in order] == list(range(channels.SUMS))


# the solver, watched


def random_grams(count: int, dim: int, scale: float = 1.0) -> np.ndarray:
    return cpu.row_grams(np.random.default_rng(dim).standard_normal((count * dim, 3 * dim)) * scale, None, dim)


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e150, 1e-70, 1e-145, 0.0])
def test_spectra_are_the_cpus_at_any_scale(scale: float) -> None:
    grams = random_grams(5, 16, scale)
    grams[1, 2, 3] = np.nan
    sigma, holds = gpu.gram_spectra(grams, 16, GRAM_FLOOR)
    expected, expected_holds = cpu.gram_spectra(grams, 16, GRAM_FLOOR)
    assert holds.tolist() == expected_holds.tolist()
    np.testing.assert_allclose(sigma, expected, rtol=1e-12)


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize(
    "wrong",
    [
        lambda g: np.diagonal(g, axis1=1, axis2=2),  # the sum is right
        lambda g: np.sqrt(np.square(np.linalg.eigvalsh(g)).sum(axis=1) / g.shape[1])[:, None] * np.ones(g.shape[1]),
        lambda g: np.linalg.eigvalsh(g) * (1 + 1e-9),
        lambda g: np.full(g.shape[:2], np.nan),
        lambda g: np.full(g.shape[:2], 1.7e308),
        lambda g: np.zeros(g.shape[:2]),
    ],
    ids=["the diagonal", "the norm alone", "a little off", "NaN", "garbage", "nothing"],
)
def test_eigenvalues_with_wrong_sums_do_not_hold(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    grams, solve = random_grams(3, 16), np.linalg.eigvalsh
    monkeypatch.setattr(spectra, "_solved", lambda g: np.concatenate([solve(g[:1]), wrong(g[1:2]), solve(g[2:])]))
    sigma, holds = gpu.gram_spectra(grams, 16, GRAM_FLOOR)
    assert holds.tolist() == [True, False, True]
    assert np.isnan(sigma[1]).all()


@pytest.mark.usefixtures("on_numpy")
def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def solved(grams: np.ndarray) -> np.ndarray:
        sizes.append(len(grams))
        if len(grams) > 3:
            raise gpu.OutOfMemory
        return np.linalg.eigvalsh(grams)

    monkeypatch.setattr(spectra, "_solved", solved)
    grams = random_grams(11, 4)
    sigma, holds = gpu.gram_spectra(grams, 4, GRAM_FLOOR)
    assert sizes == [11, 5, 2, 3, 6, 3, 3]
    assert holds.all()
    np.testing.assert_allclose(sigma, cpu.gram_spectra(grams, 4, GRAM_FLOOR)[0], rtol=1e-12)


@pytest.mark.usefixtures("on_numpy")
def test_one_matrix_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: np.ndarray) -> np.ndarray:
        raise numpy_gpu.DeviceIsFull

    monkeypatch.setattr(np.linalg, "eigvalsh", full)
    with pytest.raises(gpu.OutOfMemory):
        gpu.gram_spectra(random_grams(5, 4), 4, GRAM_FLOOR)


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize(("dim", "most"), [(1, 10), (32, 10), (64, 2), (128, 1), (1000, 1)])
def test_batches_keep_the_workspace_bounded(monkeypatch: pytest.MonkeyPatch, dim: int, most: int) -> None:
    sizes = []

    def solved(grams: np.ndarray) -> np.ndarray:
        sizes.append(len(grams))
        return np.zeros(grams.shape[:2])

    monkeypatch.setattr(spectra, "WORKSPACE", 10 * 4 * 8 * 32**2)
    monkeypatch.setattr(spectra, "_solved", solved)
    gpu.gram_spectra(np.zeros((21, dim, dim)), dim, GRAM_FLOOR)
    assert sum(sizes) == 21
    assert max(sizes) == most


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize("scale", [1.0, 1e140, 1e-150, 0.0])
def test_full_spectra_are_the_svds(scale: float) -> None:
    x = np.random.default_rng(1).standard_normal((60, 40)) * scale
    sigma = gpu.full_spectrum(((x[i : i + 7], None) for i in range(0, 60, 7)), 40)
    np.testing.assert_allclose(sigma, np.linalg.svd(x, compute_uv=False), rtol=1e-9)
    assert gpu.full_spectrum(iter([]), 0).shape == (0,)


@pytest.mark.usefixtures("on_numpy")
def test_a_full_spectrum_with_wrong_sums_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(2).standard_normal((60, 40))
    monkeypatch.setattr(np.linalg, "eigvalsh", np.diagonal)
    with pytest.raises(gpu.Inaccurate, match="sums"):
        gpu.full_spectrum(iter([(x, None)]), 40)


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_no_full_matrix_that_is_not_finite_reaches_the_solver(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.delattr(np.linalg, "eigvalsh")
    x = np.random.default_rng(3).standard_normal((60, 40))
    x[30, 7] = value
    with pytest.raises(gpu.Inaccurate, match="not finite"):
        gpu.full_spectrum(iter([(x, None)]), 40)
