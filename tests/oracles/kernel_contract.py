"""What the statistics of a block must be, whatever device computes them: each device's tests are a class of this one.

Data is of every kind of dtype, and made to break the arithmetic; what is right is the plain float64 reference.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from oracles.exactness import NUMPY, SUB_BYTE, channel_errors, packed
from shardscan.reduce.kernels import Sums
from shardscan.reduce.moments import Moments
from shardscan.reduce.values import kernel_values
from shardscan.shards.dtypes import DTYPES

NAN, INF = math.nan, math.inf
MILLION = pytest.param(1_000_000, marks=pytest.mark.full_only)
SHAPES = [
    *((1, 1), (1, 300), (300, 1), (0, 5), (5, 0), (0, 0), (5, 3), (4, 4), (33, 255), (34, 256), (35, 257), (70, 520)),
    *((0, 300), (1, 3), (3000, 1), (2500, 3), (65, 31), (64, 32), (7, 4097), (1030, 129)),
]
ANY_BITS = [code for code in DTYPES if code not in {"F64", "C128", *SUB_BYTE}]

Table = np.ndarray | None


def given(values: np.ndarray, code: str) -> tuple[np.ndarray, Table]:
    """A block as kernels take it: patterns with the table of their values, or values without."""
    raw = np.frombuffer(packed(values, code), np.uint8)
    return kernel_values(raw, code, (values.shape[0], values.shape[1]))


def widened(values: np.ndarray, code: str) -> np.ndarray:
    """The values that statistics are of, as float64."""
    with np.errstate(invalid="ignore"):
        if code in ("C64", "C128"):
            return np.abs(values.astype(np.complex128))
        return np.asarray(values.astype(np.float32) if code in SUB_BYTE else values).astype(np.float64)


def moments(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Statistics (9, rows) and (9, cols)."""
    rows = Moments.from_shifted_sums(sums.row_shifts, sums.row_sums)
    return rows.statistics(), Moments.from_shifted_sums(sums.column_shifts, sums.column_sums).statistics()


class StatisticsContract:
    """Tests of one device's statistics; it says how they are computed."""

    def statistics(self, values: np.ndarray, table: Table = None, first_row: int = 0, columns: bool = True) -> Sums:
        """The sums of a block, a matrix that may be read only."""
        raise NotImplementedError

    def check(self, values: np.ndarray, table: Table, x: np.ndarray) -> None:
        """A block agrees with the reference along both axes; `x` are its values as float64."""
        for found, axis in zip(moments(self.statistics(values, table)), ("out", "in"), strict=True):
            channel_errors(found, x, axis)

    def check_values(self, x: np.ndarray, code: str = "F32") -> None:
        """Likewise of values that the dtype holds exactly."""
        self.check(*given(x, code), np.asarray(x, np.float64))

    def check_long(self, x: np.ndarray) -> None:
        """Likewise of one long channel, seen from both axes: the other axis is too long for the reference."""
        wide = x.astype(np.float64)
        channel_errors(moments(self.statistics(x))[0], wide, "out")
        channel_errors(moments(self.statistics(np.ascontiguousarray(x.T)))[1], wide.T, "in")

    @pytest.mark.parametrize("code", ANY_BITS)
    def test_random_bits_of_every_dtype_and_shape(self, code: str) -> None:
        for rows, cols in SHAPES:
            raw = np.random.default_rng(rows * cols).integers(
                0, 256, rows * cols * DTYPES[code].bits // 8, dtype=np.uint8
            )
            if code == "BOOL":
                raw &= 1
            x = widened(raw.view(NUMPY[code]).reshape(rows, cols), code)
            self.check(*kernel_values(raw, code, (rows, cols)), x)

    @pytest.mark.parametrize("shape", [(8, 1), (8, 3), (16, 255), (40, 300), (0, 7)], ids=str)
    @pytest.mark.parametrize("code", SUB_BYTE)
    def test_packed_values(self, code: str, shape: tuple[int, int]) -> None:
        patterns = np.random.default_rng(1).integers(0, 1 << DTYPES[code].bits, shape, dtype=np.uint8)
        values = patterns.view(SUB_BYTE[code])
        self.check(*given(values, code), widened(values, code))

    def test_float64_values_of_many_magnitudes(self) -> None:
        rng = np.random.default_rng(2)
        self.check_values(rng.standard_normal((50, 300)) * 10.0 ** rng.integers(-30, 30, (50, 1)), "F64")

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda x: x.__setitem__((3, 7), NAN),
            lambda x: x.__setitem__((slice(None), 4), NAN),
            lambda x: x.__setitem__((5, slice(None)), INF),
            lambda x: x.__setitem__((slice(None), slice(None)), NAN),
            lambda x: x.__setitem__((slice(None, None, 2), slice(None)), -INF),
            lambda x: x.__setitem__((0, [0, -1]), [INF, -INF]),
            lambda x: x.__setitem__((slice(None), slice(0, 256)), NAN),
        ],
        ids=["a NaN", "a column", "a row", "all", "every other row", "both infinities", "a tile"],
    )
    @pytest.mark.parametrize("code", ["BF16", "F16", "F32", "F64"])
    def test_values_that_are_not_finite_are_left_out(self, code: str, spoil: Any) -> None:
        x = np.random.default_rng(3).standard_normal((137, 530)).astype(NUMPY[code])
        spoil(x)
        self.check_values(x, code)

    @pytest.mark.parametrize(
        ("code", "scale"),
        [
            *(("F32", 3.4e38), ("F32", 1e-44), ("BF16", 3.3e38), ("BF16", 1e-40)),
            *(("F16", 65504.0), ("F16", 6e-8), ("F64", 1e70)),
        ],
    )
    def test_the_ends_of_a_dtypes_range_neither_overflow_nor_vanish(self, code: str, scale: float) -> None:
        x = (np.random.default_rng(4).uniform(-1, 1, (20, 300)) * scale).astype(NUMPY[code])
        x[3, 5] = scale
        assert np.isfinite(x).all()
        assert np.count_nonzero(x) > 100
        self.check_values(x, code)

    @pytest.mark.parametrize("scale", [1e300, 1e155, 1e-90, 1e-160, 1e-300])
    def test_what_float64_cannot_hold_is_missing_and_never_wrong(self, scale: float) -> None:
        x = np.random.default_rng(5).standard_normal((140, 300))
        for found, axis in zip(moments(self.statistics(x * scale)), (1, 0), strict=True):
            std, kurtosis, centred = found[1] / scale, found[7], x - x.mean(axis, keepdims=True)
            known = ~np.isnan(std)
            np.testing.assert_allclose(std[known], x.std(axis)[known], rtol=1e-9)
            known = ~np.isnan(kurtosis)
            right = (centred**4).mean(axis) / x.var(axis) ** 2
            np.testing.assert_allclose(kurtosis[known], right[known], rtol=1e-9)
            np.testing.assert_array_equal(found[5], np.abs(x * scale).max(axis))

    @pytest.mark.parametrize("code", ["F32", "F64"])
    def test_a_small_spread_about_a_large_mean_does_not_cancel(self, code: str) -> None:
        self.check_long(np.random.default_rng(6).normal(1000.1, 0.01, (1, 100_000)).astype(NUMPY[code]))

    def test_neighbouring_floats_have_a_spread(self) -> None:
        x = np.full((64, 512), 1.0, np.float32)
        x[np.random.default_rng(7).random(x.shape) < 0.3] = np.nextafter(np.float32(1), np.float32(2))
        self.check_values(x)

    @pytest.mark.parametrize("length", [4096, 5000, 65_536, MILLION])
    @pytest.mark.parametrize("outlier", [1e4, 3e38, -50.0])
    def test_outliers_at_a_fixed_stride_do_not_cost_the_others_their_digits(self, length: int, outlier: float) -> None:
        x = np.random.default_rng(8).standard_normal((1, length)).astype(np.float32)
        x[:, ::256] = outlier
        self.check_long(x)

    @pytest.mark.parametrize("length", [4096, 65_537, MILLION])
    def test_one_finite_outlier_among_nans_does_not_cost_the_others_their_digits(self, length: int) -> None:
        x = np.random.default_rng(9).standard_normal((1, length)).astype(np.float32)
        x[:, ::256] = NAN
        x[:, 512] = 1e8
        self.check_long(x)
        x[:, 512] = NAN
        x[:, 1] = 1e8
        self.check_long(x)

    def test_half_of_a_channel_may_be_nan(self) -> None:
        x = np.random.default_rng(10).normal(5.0, 0.001, (300, 300)).astype(np.float32)
        x[np.random.default_rng(11).random(x.shape) < 0.5] = NAN
        self.check_values(x)

    def test_a_bfloat16_tensor_and_its_wider_copies_have_one_fingerprint(self) -> None:
        x = np.random.default_rng(14).standard_normal((19, 300)).astype(ml_dtypes.bfloat16)
        x[3, 5], x[4, 6], x[5, 7], x[6, 8] = NAN, INF, -INF, -0.0
        narrow = self.statistics(*given(x, "BF16"))
        for code in ("F32", "F64"):
            wide = self.statistics(*given(x.astype(NUMPY[code]), code))
            np.testing.assert_array_equal(wide.row_prints, narrow.row_prints)
            np.testing.assert_array_equal(wide.column_prints, narrow.column_prints)

    @pytest.mark.parametrize("first_row", [1, 8, 2**33])
    def test_a_block_further_down_has_the_fingerprints_of_its_place(self, first_row: int) -> None:
        values, table = given(np.random.default_rng(12).standard_normal((70, 130)), "BF16")
        here, there = self.statistics(values, table), self.statistics(values, table, first_row)
        np.testing.assert_array_equal(there.row_prints, here.row_prints)
        assert (there.column_prints != here.column_prints).all()
