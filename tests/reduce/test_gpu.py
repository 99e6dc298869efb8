"""The GPU's kernels against the CPU's, on every kind of dtype and on data made to break them. Needs a CUDA device."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shardscan
from made import tiny
from oracles.devices import same_tables
from oracles.exactness import NUMPY, channel_errors
from oracles.kernel_contract import INF, NAN, StatisticsContract, Table, given, moments
from shardscan.reduce.kernels import Sums, cpu, gpu
from shardscan.reduce.kernels.gpu.device import library
from shardscan.reduce.spectra import GRAM_FLOOR

if not gpu.available():
    pytest.skip("there is no CUDA device, or no CuPy: pip install 'shardscan[gpu]'", allow_module_level=True)

EXACT = [5, 6, 7, 8]  # MIN, MAX, COUNT, ZEROS


def on_cpu(values: np.ndarray, table: np.ndarray | None, first_row: int = 0, columns: bool = True) -> Sums:
    """What the CPU's kernels make of a block."""
    values = values.view()
    values.flags.writeable = False
    return cpu.statistics(values, table, first_row, columns)


def on_gpu(values: np.ndarray, table: np.ndarray | None = None, first_row: int = 0, columns: bool = True) -> Sums:
    return gpu.statistics(gpu.load(values, table), first_row, columns)


def equal(found: Sums, expected: Sums) -> None:
    """All that is counted, compared or hashed is equal, and has the same dtypes and shapes."""
    assert found.tails == expected.tails
    for name in Sums._fields[:-1]:
        a, b = getattr(found, name), getattr(expected, name)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        if name.endswith("_sums"):
            np.testing.assert_array_equal(a[EXACT], b[EXACT], err_msg=name)
        elif not name.endswith("_shifts"):
            np.testing.assert_array_equal(a, b, err_msg=name)


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    """Channel statistics of both devices within the promised 1e-9."""
    mean, std, mean_abs = expected[[0, 1, 4]]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert (np.abs(found[0] - mean) <= 1e-9 * mean_abs)[~np.isnan(mean)].all()
    np.testing.assert_allclose(found[1:7], expected[1:7], rtol=1e-9)
    narrow = std < 1e-3 * np.abs(mean)
    np.testing.assert_allclose(found[7, ~narrow], expected[7, ~narrow], rtol=1e-9)
    np.testing.assert_allclose(found[7, narrow], expected[7, narrow], rtol=1e-6)


def check(values: np.ndarray, table: np.ndarray | None = None, x: np.ndarray | None = None) -> None:
    """Parity of a block, and agreement of both with the reference `x`, its values as float64."""
    found, expected = on_gpu(values, table), on_cpu(values, table)
    equal(found, expected)
    for axis, mine, theirs in zip(("out", "in"), moments(found), moments(expected), strict=True):
        agree(mine, theirs)
        if x is not None:
            channel_errors(mine, x, axis)


class TestStatistics(StatisticsContract):
    """The contract of all devices; and all that is exact is what the CPU has."""

    def statistics(self, values: np.ndarray, table: Table = None, first_row: int = 0, columns: bool = True) -> Sums:
        sums = on_gpu(values, table, first_row, columns)
        equal(sums, on_cpu(np.ascontiguousarray(values), table, first_row, columns))
        return sums

    def check(self, values: np.ndarray, table: Table, x: np.ndarray) -> None:
        check(values, table, x)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, 65504.0, 5e-324, 1.7e308, -1.7e308])
@pytest.mark.parametrize("code", ["BF16", "F16", "F32", "F64"])
def test_a_constant_has_its_mean_and_no_spread(code: str, value: float) -> None:
    with np.errstate(over="ignore"):
        x = np.full((70, 300), value).astype(NUMPY[code])
    values, table = given(x, code)
    found, expected = on_gpu(values, table), on_cpu(values, table)
    equal(found, expected)
    for mine, theirs in zip(moments(found), moments(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_a_mean_near_the_end_of_float64_is_no_overflow() -> None:
    x = np.random.default_rng(6).uniform(0.5, 1.0, (300, 300)) * 1e306
    for found, axis in zip(moments(on_gpu(x)), (1, 0), strict=True):
        np.testing.assert_allclose(found[0], (x / 300).mean(axis) * 300, rtol=1e-12)


@pytest.mark.parametrize("code", ["BF16", "F8_E4M3", "F32"])
def test_without_columns_theirs_are_empty_and_the_rest_is_the_same(code: str) -> None:
    values, table = given(np.random.default_rng(11).standard_normal((37, 300)), code)
    equal(on_gpu(values, table, columns=False), on_cpu(values, table, columns=False))


@pytest.mark.parametrize("first_row", [1, 8, 2**33])
def test_a_block_further_down_has_the_fingerprints_of_its_place(first_row: int) -> None:
    values, table = given(np.random.default_rng(12).standard_normal((70, 130)), "BF16")
    found = on_gpu(values, table, first_row)
    equal(found, on_cpu(values, table, first_row))
    assert (found.column_prints != on_gpu(values, table).column_prints).all()


@pytest.mark.parametrize("value", [-0.0, 1e-60, -1e-60, 5e-324, -5e-324, 1e-45, -1e-45, 1e60, -1e60, NAN, INF, -INF])
def test_float64_values_at_the_ends_of_float32_are_hashed_and_counted_as_on_the_cpu(value: float) -> None:
    equal(on_gpu(np.full((3, 5), value)), on_cpu(np.full((3, 5), value), None))


def test_any_nan_is_as_any_other() -> None:
    patterns = np.array([[0x7FC0, 0x7F81, 0xFFFF, 0xFFC1]] * 3, np.uint16)
    equal(on_gpu(patterns), on_cpu(patterns, None))
    wide = (patterns.astype(np.uint32) << 16 | 1).view(np.float32)
    equal(on_gpu(wide), on_cpu(wide, None))


@pytest.mark.parametrize("code", ["F32", "F64"])
def test_tails_are_the_cpus(code: str) -> None:
    rng = np.random.default_rng(14)
    ends = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-8, -1e-8, 1.0000001e-8, 3.4028234e38, -3.4028234e38, NAN, INF, -INF]
    beyond = [1e-60, 1e60, -1e60, 1.7e308, 5e-324, 1 + 2**-40, 1 - 2**-40, -1 - 2**-40, 3.4028235677973366e38]
    for size in (0, 1, 31, 33, 255, 257, 70_000):
        x = np.array([*ends, *(beyond if code == "F64" else []), *10.0 ** rng.uniform(-44, 38, size)], NUMPY[code])
        x = rng.permutation(x)[None]
        equal(on_gpu(x), on_cpu(x, None))
    for x in (np.zeros((3, 5), NUMPY[code]), np.full((3, 5), NAN, NUMPY[code]), np.empty((3, 0), NUMPY[code])):
        equal(on_gpu(x), on_cpu(x, None))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_pattern_that_fills_a_tensor_is_counted_once_for_each_value(dtype: Any) -> None:
    values = np.random.default_rng(15).integers(0, 2, (300, 301)).astype(dtype) * dtype(200)
    table = np.arange(1 << 8 * values.itemsize, dtype=np.float32)
    check(values, table)


def test_a_device_repeats_its_own_bits() -> None:
    x = np.random.default_rng(16).standard_normal((1000, 700)).astype(np.float32)
    block = gpu.load(x, None)
    first = gpu.statistics(block, 0, True)
    for _ in range(5):
        again = gpu.statistics(block, 0, True)
        assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in Sums._fields)


def test_values_may_be_read_only_and_misaligned_by_rows() -> None:
    x = np.random.default_rng(17).standard_normal((40, 90)).astype(np.float32)
    x.flags.writeable = False
    check(x[3:, :])
    check(np.ascontiguousarray(x[:, 5:]))
    equal(on_gpu(x[:, 5:]), on_cpu(np.ascontiguousarray(x[:, 5:]), None))


# Gram matrices and spectra


@pytest.mark.parametrize(("heads", "dim", "other"), [(1, 8, 40), (3, 7, 41), (4, 16, 7), (5, 1, 9), (2, 64, 300)])
@pytest.mark.parametrize(
    ("code", "scale"), [("BF16", 1.0), ("F16", 1.0), ("F32", 1e30), ("F64", 1.0), ("F8_E4M3", 1.0), ("I8", 50.0)]
)
def test_grams_along_both_axes(code: str, scale: float, heads: int, dim: int, other: int) -> None:
    x = np.random.default_rng(dim).standard_normal((heads * dim, other)) * scale
    for of_gpu, of_cpu, w in (
        (gpu.row_grams, cpu.row_grams, x),
        (gpu.column_grams, cpu.column_grams, np.ascontiguousarray(x.T)),
    ):
        values, table = given(w, code)
        found, expected = of_gpu(gpu.load(values, table), dim), of_cpu(values, table, dim)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(0, 20), (24, 0), (0, 0)], ids=str)
def test_grams_of_nothing(shape: tuple[int, int]) -> None:
    x = np.empty(shape, np.float32)
    for of_gpu, of_cpu, w in ((gpu.row_grams, cpu.row_grams, x), (gpu.column_grams, cpu.column_grams, x.T.copy())):
        np.testing.assert_array_equal(of_gpu(gpu.load(w, None), 8), of_cpu(w, None, 8))


def test_a_gram_of_a_value_that_is_not_finite_is_not_finite() -> None:
    x = np.random.default_rng(18).standard_normal((24, 30))
    x[9, 4] = INF
    grams = gpu.row_grams(gpu.load(x, None), 8)
    assert np.isfinite(grams).all(axis=(1, 2)).tolist() == [True, False, True]


def same_spectra(grams: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The GPU's spectra, after they are compared with the CPU's."""
    sigma, holds = gpu.gram_spectra(grams, rank, GRAM_FLOOR)
    expected, expected_holds = cpu.gram_spectra(grams, rank, GRAM_FLOOR)
    assert holds.tolist() == expected_holds.tolist()
    for found, known in zip(sigma[holds], expected[holds], strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-6, atol=1e-9 * known.max(initial=0.0))
    np.testing.assert_array_equal(np.isnan(sigma), np.isnan(expected))
    return sigma, holds


@pytest.mark.parametrize(("heads", "dim", "other"), [(1, 1, 9), (3, 2, 9), (7, 8, 40), (5, 33, 20), (40, 64, 200)])
def test_spectra_are_the_cpus_and_the_svds(heads: int, dim: int, other: int) -> None:
    w = np.random.default_rng(dim).standard_normal((heads * dim, other))
    rank = min(dim, other)
    sigma, holds = same_spectra(cpu.row_grams(w, None, dim), rank)
    assert holds.all()
    expected = np.linalg.svd(w.reshape(heads, dim, other), compute_uv=False)
    np.testing.assert_allclose(sigma, expected, rtol=1e-9)


@pytest.mark.parametrize("least", [1e-4, 1.2e-5, 0.9e-5, 1e-6, 1e-9, 0.0])
def test_spectra_hold_above_the_floor_alone(least: float) -> None:
    rng = np.random.default_rng(19)
    expected = np.geomspace(1.0, least, 32) if least else np.repeat([1.0, 0.0], 16)
    left, right = (np.linalg.qr(rng.standard_normal((n, 32)))[0] for n in (32, 200))
    w = np.concatenate([(left * expected) @ right.T, rng.standard_normal((32, 200))])
    _, holds = same_spectra(cpu.row_grams(w, None, 32), 32)
    assert holds.tolist() == [least > GRAM_FLOOR, True]


@pytest.mark.parametrize("scale", [1e300, 1e160, 1e150, 1e77, 1e-130, 1e-158, 1e-300])
def test_grams_that_overflow_or_vanish_hold_as_on_the_cpu(scale: float) -> None:
    w = np.random.default_rng(20).standard_normal((24, 30)) * scale
    w[8:16] = 0
    _, holds = same_spectra(cpu.row_grams(w, None, 8), 8)
    assert not holds[1]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_no_matrix_that_is_not_finite_reaches_the_solver(value: float) -> None:
    grams = cpu.row_grams(np.random.default_rng(21).standard_normal((24, 30)), None, 8)
    grams[1, 3, 4] = value
    sigma, holds = same_spectra(grams, 8)
    assert holds.tolist() == [True, False, True]
    assert np.isnan(sigma[1]).all()
    grams[:] = value
    assert not same_spectra(grams, 8)[1].any()


@pytest.mark.parametrize(("count", "dim", "rank"), [(0, 8, 8), (3, 8, 0), (2, 8, 3), (0, 0, 0)])
def test_spectra_of_few_or_none(count: int, dim: int, rank: int) -> None:
    w = np.random.default_rng(22).standard_normal((count * dim, 3))
    sigma, _ = same_spectra(w.reshape(count, dim, 3) @ w.reshape(count, dim, 3).transpose(0, 2, 1), rank)
    assert sigma.shape == (count, rank)


@pytest.mark.parametrize(("rows", "n", "step"), [(50, 20, 50), (300, 130, 64), (70, 1, 9), (3, 3, 1), (0, 4, 1)])
@pytest.mark.parametrize("code", ["BF16", "F32", "F64", "F8_E4M3"])
def test_full_spectra_are_the_svds(code: str, rows: int, n: int, step: int) -> None:
    x = np.random.default_rng(n).standard_normal((rows, n)).astype(NUMPY[code])
    sigma = gpu.full_spectrum((given(x[i : i + step], code) for i in range(0, rows, step)), n)
    expected = np.linalg.svd(x.astype(np.float64), compute_uv=False) if rows else np.zeros(n)
    assert sigma.dtype == np.float64
    np.testing.assert_allclose(sigma, expected, rtol=1e-9, atol=1e-7 * expected[0] if code == "F8_E4M3" else 0)


@pytest.mark.parametrize("scale", [1e140, 1e-150])
def test_full_spectra_at_the_ends_of_float64(scale: float) -> None:
    x = np.random.default_rng(23).standard_normal((60, 40)) * scale
    sigma = gpu.full_spectrum(iter([(x, None)]), 40)
    np.testing.assert_allclose(sigma, np.linalg.svd(x, compute_uv=False), rtol=1e-9)


@pytest.mark.parametrize("value", [NAN, INF, 1e200])
def test_a_full_matrix_that_is_not_finite_is_refused(value: float) -> None:
    x = np.random.default_rng(24).standard_normal((60, 40))
    x[30, 7] = value
    with pytest.raises(gpu.Inaccurate, match="not finite"):
        gpu.full_spectrum(iter([(x[:20], None), (x[20:], None)]), 40)


# memory and devices


@pytest.fixture
def room() -> Iterator[Callable[[int], None]]:
    """Limit CuPy's pool to so many bytes more than it holds."""
    pool = library().get_default_memory_pool()

    def leave(nbytes: int) -> None:
        gc.collect()
        pool.free_all_blocks()
        pool.set_limit(size=pool.used_bytes() + nbytes)

    yield leave
    pool.set_limit(size=0)


def test_batches_that_do_not_fit_are_halved(room: Callable[[int], None]) -> None:
    w = np.random.default_rng(25).standard_normal((64 * 64, 100))
    grams = cpu.row_grams(w, None, 64)
    room(grams.nbytes * 3 // 2)  # the matrices fit, but not the copy that the solver works on
    sigma, holds = same_spectra(grams, 64)
    assert holds.all()
    np.testing.assert_allclose(sigma, np.linalg.svd(w.reshape(64, 64, 100), compute_uv=False), rtol=1e-6)


def test_what_does_not_fit_is_said(room: Callable[[int], None]) -> None:
    x = np.random.default_rng(26).standard_normal((128, 128))
    block = gpu.load(x, None)
    room(16 << 10)
    grams = cpu.row_grams(x, None, 64)
    for attempt in (
        lambda: gpu.load(x, None),
        lambda: gpu.statistics(block, 0, True),
        lambda: gpu.row_grams(block, 64),
        lambda: gpu.column_grams(block, 64),
        lambda: gpu.gram_spectra(grams, 64, GRAM_FLOOR),
        lambda: gpu.full_spectrum(iter([(x, None)]), 128),
    ):
        with pytest.raises(gpu.OutOfMemory):
            attempt()
    room(64 << 20)
    check(x)


def test_a_scan_has_the_tables_of_the_cpu(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    for device in ("cuda", "cpu"):
        shardscan.ingest(model, tmp_path / device, spectra="heads,full", device=device)
    same_tables(tmp_path / "cuda", tmp_path / "cpu")


def test_devices_have_names_and_can_be_chosen() -> None:
    names = gpu.available()
    assert all(name.startswith(f"cuda:{index} ") for index, name in enumerate(names))
    with gpu.use(len(names) - 1):
        check(np.ones((3, 5)))
    for index in (-1, len(names)):
        with pytest.raises(gpu.NoDevice, match=f"cuda:{index}"), gpu.use(index):
            raise AssertionError
