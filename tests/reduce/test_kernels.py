"""The kernels on every kind of dtype and on data made to break them, against the plain float64 reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from oracles.exactness import NUMPY
from oracles.kernel_contract import INF, NAN, StatisticsContract, Table, given
from shardscan.reduce.distribution import bin_edges
from shardscan.reduce.kernels import Sums, cpu
from shardscan.reduce.moments import Moments
from shardscan.reduce.values import kernel_values
from shardscan.shards.dtypes import DTYPES


def sums(values: np.ndarray, table: np.ndarray | None, columns: bool = True) -> Any:
    rows, cols = values.shape
    values = values.view()
    values.flags.writeable = False  # as what is mapped is: numba compiles another form for arrays that are not
    return cpu.channel_sums(values, table, cpu.keys(0, rows), cpu.keys(0, cols), columns)


class TestStatistics(StatisticsContract):
    def statistics(self, values: np.ndarray, table: Table = None, first_row: int = 0, columns: bool = True) -> Sums:
        values = values.view()
        values.flags.writeable = False
        return cpu.statistics(values, table, first_row, columns)


def channels(values: np.ndarray, table: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Statistics (9, rows) and (9, cols) through the kernel."""
    shifts, row_sums, _, column_shifts, column_sums, _ = sums(values, table)
    rows, columns = Moments.from_shifted_sums(shifts, row_sums), Moments.from_shifted_sums(column_shifts, column_sums)
    return rows.statistics(), columns.statistics()


def prints(values: np.ndarray, table: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    out = sums(values, table)
    return out[2], out[5]


@pytest.mark.parametrize("x", [1.7e308, 1e200, 1e-200, 5e-324, -1.7e308])
def test_a_constant_at_the_ends_of_float64_has_its_mean_and_no_spread(x: float) -> None:
    rows, columns = channels(np.full((7, 300), x))
    for statistics in (rows, columns):
        mean, std, least, most, _, absmax, rms, kurtosis, zeros = statistics
        assert (mean == x).all()
        assert (std == 0).all()
        assert (least == x).all()
        assert (most == x).all()
        assert (absmax == abs(x)).all()
        assert (rms == abs(x)).all()
        assert np.isnan(kurtosis).all()
        assert (zeros == 0).all()


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (300, 333)], ids=str)
def test_equal_values_have_their_own_mean_and_no_spread(shape: tuple[int, int]) -> None:
    x = np.full(shape, 0.1, ml_dtypes.bfloat16)
    rows, columns = channels(*given(x, "BF16"))
    for statistics in (rows, columns):
        assert (statistics[[0, 2, 3, 5]] == np.float64(x[0, 0])).all()
        np.testing.assert_allclose(statistics[[4, 6]], np.float64(x[0, 0]), rtol=1e-12)
        assert (statistics[[1, 8]] == 0).all()
        assert np.isnan(statistics[7]).all()


def test_without_columns_the_rows_are_the_same() -> None:
    values, table = given(np.random.default_rng(12).standard_normal((37, 300)), "F16")
    with_columns, without = sums(values, table), sums(values, table, columns=False)
    for a, b in zip(with_columns[:3], without[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert without[3].shape == (0,)
    assert without[4].shape == (9, 0)


@pytest.mark.parametrize("code", ["BF16", "F16", "F32", "F64", "I64", "C64"])
def test_misaligned_bytes_give_the_same_sums(code: str) -> None:
    count = 13 * 270
    data = np.random.default_rng(13).integers(0, 200, count * DTYPES[code].bits // 8 + 1, dtype=np.uint8)
    odd, even = kernel_values(data[1:], code, (13, 270)), kernel_values(data[1:].copy(), code, (13, 270))
    for a, b in zip(sums(*odd), sums(*even), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_dtype_takes_one_of_five_compiled_forms() -> None:
    for code in (*DTYPES, *DTYPES):
        raw = np.zeros(6 * 8 * DTYPES[code].bits // 8, np.uint8)
        for columns in (True, False):
            sums(*kernel_values(raw, code, (6, 8)), columns=columns)
            sums(*kernel_values(raw[:0], code, (0, 8)), columns=columns)
        sums(*kernel_values(np.append(raw, raw)[len(raw) :], code, (6, 8)))
    assert len(cpu.channel_sums.signatures) == 5


# fingerprints


@pytest.mark.parametrize("zero", [-0.0, 1e-60, -1e-60, -5e-324])
def test_what_is_zero_in_float32_has_the_fingerprint_of_zero(zero: float) -> None:
    x = np.full((3, 5), zero)
    for wide, narrow, nought in zip(prints(x), prints(x.astype(np.float32)), prints(np.zeros((3, 5))), strict=True):
        np.testing.assert_array_equal(wide, nought)
        np.testing.assert_array_equal(narrow, nought)


def test_any_nan_is_as_any_other() -> None:
    quiet, loud, negative = (np.full((2, 3), pattern, np.uint16) for pattern in (0x7FC0, 0x7F81, 0xFFFF))
    for other in (loud, negative):
        for a, b in zip(prints(quiet), prints(other), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(prints(quiet)[0], prints(np.full((2, 3), NAN))[0])


def test_swapped_values_change_the_fingerprints_of_their_rows_and_columns_alone() -> None:
    x = np.random.default_rng(15).standard_normal((20, 30)).astype(np.float32)
    swapped = x.copy()
    swapped[4, [3, 9]] = x[4, [9, 3]]
    changed_rows, changed_columns = (np.flatnonzero(a != b) for a, b in zip(prints(x), prints(swapped), strict=True))
    assert changed_rows.tolist() == [4]
    assert changed_columns.tolist() == [3, 9]
    swapped = x.copy()
    swapped[[2, 7], 5] = x[[7, 2], 5]
    changed_rows, changed_columns = (np.flatnonzero(a != b) for a, b in zip(prints(x), prints(swapped), strict=True))
    assert changed_rows.tolist() == [2, 7]
    assert changed_columns.tolist() == [5]


def test_a_row_that_moves_keeps_its_fingerprint_and_a_column_loses_it() -> None:
    x = np.random.default_rng(16).standard_normal((20, 30)).astype(np.float32)
    rows, columns = prints(x)
    moved_rows, moved_columns = prints(x[::-1].copy())
    np.testing.assert_array_equal(moved_rows, rows[::-1])
    assert not np.isin(moved_columns, columns).any()


def test_a_hundred_thousand_small_rows_have_as_many_fingerprints() -> None:
    rng = np.random.default_rng(17)
    near = np.repeat(rng.integers(0, 0x7F00, (2000, 3), dtype=np.uint16), 48, axis=0)
    near ^= np.tile(np.uint16(1) << np.arange(16, dtype=np.uint16), 6000)[:, None] * np.tile(
        np.repeat(np.eye(3, dtype=np.uint16), 16, axis=0), (2000, 1)
    )
    few = np.stack(np.meshgrid(*[np.arange(0x3F80, 0x3F80 + 16, dtype=np.uint16)] * 3), -1).reshape(-1, 3)
    rows = np.unique(np.concatenate([near, few, rng.integers(0, 0x7F00, (10_000, 3), dtype=np.uint16)]), axis=0)
    rows = rows[((rows & 0x7F80) != 0x7F80).all(axis=1) & (rows != 0x8000).all(axis=1)]
    assert len(rows) > 100_000
    assert len(np.unique(prints(rows)[0])) == len(rows)
    assert len(np.unique(prints(np.ascontiguousarray(rows.T))[1])) == len(rows)


# histograms


@pytest.mark.parametrize("code", ["BF16", "F8_E4M3", "U8"])
def test_patterns_are_counted(code: str) -> None:
    raw = np.random.default_rng(18).integers(0, 256, 20_000, dtype=np.uint8)
    values, _ = kernel_values(raw, code, (10, 20_000 // 10 * 8 // DTYPES[code].bits))
    counts = np.zeros(65_536, np.uint64)
    cpu.count_patterns(values.ravel(), counts)
    np.testing.assert_array_equal(counts, np.bincount(values.ravel(), minlength=65_536))


@pytest.mark.parametrize("code", ["F32", "F64"])
def test_a_wide_value_is_counted_in_the_bin_that_holds_it(code: str) -> None:
    rng = np.random.default_rng(19)
    ends = [0.0, -0.0, 1.0, -1.0, 1.5, 1e-45, -1e-45, 1e-8, -1e-8, 3.4028234e38, -3.4028234e38, NAN, INF, -INF]
    beyond = [1e-60, -1e-60, 1e60, -1e60, 1.7e308, 5e-324, 1 + 2**-40, 1 - 2**-40, -1 - 2**-40] if code == "F64" else []
    x = np.array([*ends, *beyond, *rng.standard_normal(500), *10.0 ** rng.uniform(-44, 38, 500)]).astype(NUMPY[code])
    finite = x[np.isfinite(x)].astype(np.float64)
    for value in finite:
        counts = np.zeros(65_536, np.uint64)
        cpu.count_truncated(np.array([value], NUMPY[code]), counts)
        (bin_,) = np.flatnonzero(counts)
        (lo,), (hi,) = bin_edges(code, np.array([bin_]))
        assert lo <= value <= hi
        assert hi - lo <= 0.008 * abs(value) or abs(value) < 1.2e-38 or abs(value) > 3.38e38
    counts = np.zeros(65_536, np.uint64)
    zeros, near, nans, infs, least = cpu.count_truncated(x, counts)
    assert counts.sum() == finite.size
    assert (zeros, nans, infs) == (2, 1, 2)
    assert near == np.count_nonzero(np.abs(finite) <= 1e-8)
    assert least == np.abs(finite[finite != 0]).min()


def test_of_nothing_there_are_no_counts() -> None:
    counts = np.zeros(65_536, np.uint64)
    assert cpu.count_truncated(np.empty(0, np.float32), counts) == (0, 0, 0, 0, INF)
    cpu.count_patterns(np.empty(0, np.uint16), counts)
    assert counts.sum() == 0
