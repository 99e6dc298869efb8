"""Moments merge: any cut of the values, in any grouping, gives what the reference gives for all of them at once."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oracles.exactness import channel_errors
from shardscan.reduce.moments import CHANNEL_STATISTICS, Moments


def moments(x: np.ndarray, shift: np.ndarray | float = 0.0) -> Moments:
    """Of each row of `x`, from sums taken about `shift`, in plain NumPy."""
    finite = np.isfinite(x)
    shifts = np.broadcast_to(np.asarray(shift, np.float64), (x.shape[0],)).copy()
    v = np.where(finite, x, 0.0)
    d = np.where(finite, v - shifts[:, None], 0.0)
    least, most = (
        np.where(finite, x, np.inf).min(1, initial=np.inf),
        np.where(finite, x, -np.inf).max(1, initial=-np.inf),
    )
    powers = [(d**k).sum(1) for k in (1, 2, 3, 4)]
    zeros = ((x == 0) & finite).sum(1)
    return Moments.from_shifted_sums(shifts, np.array([*powers, np.abs(v).sum(1), least, most, finite.sum(1), zeros]))


def pieces(x: np.ndarray, cuts: list[int]) -> list[Moments]:
    """Moments of runs of columns, each about its own first value."""
    parts = np.split(x, sorted(cuts), axis=1)
    return [moments(part, np.nan_to_num(part[:, 0], posinf=0, neginf=0) if part.shape[1] else 0.0) for part in parts]


ORDINARY = st.floats(-1e3, 1e3).map(lambda x: x if abs(x) > 1e-30 else 0.0)
VALUES = st.one_of(ORDINARY, st.sampled_from([0.0, -0.0, 1.0, 1e-30, -1e-30, 1e20, np.nan, np.inf, -np.inf]))


@settings(max_examples=300)
@given(st.lists(VALUES, min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=6), st.randoms())
def test_any_cut_in_any_grouping_agrees_with_the_reference(
    values: list[float], cuts: list[int], random: object
) -> None:
    x = np.array([values, values[::-1]])
    finite = x[np.isfinite(x)]
    spread = np.ptp(finite) if finite.size else 0.0
    assume(spread == 0 or spread > 1e-12 * np.abs(finite).max())  # the reference has its own roundings
    parts = pieces(x, [min(cut, len(values)) for cut in cuts])
    while len(parts) > 1:
        i = random.randrange(len(parts) - 1)  # type: ignore[attr-defined]
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    channel_errors(parts[0].statistics(), x, "out")


def test_merging_with_nothing_changes_no_bit() -> None:
    x = np.random.default_rng(0).normal(3.3, 0.1, (5, 40))
    whole, nothing = moments(x, x[:, 0]), moments(np.empty((5, 0)))
    for merged in (whole.merge(nothing), nothing.merge(whole), nothing.merge(nothing).merge(whole)):
        np.testing.assert_array_equal(merged.statistics(), whole.statistics())


def test_a_channel_without_finite_values_has_zeros_only() -> None:
    x = np.array([[np.nan, np.inf], [-np.inf, np.nan]])
    merged = moments(x).merge(moments(np.empty((2, 0))))
    statistics = merged.statistics()
    assert np.isnan(statistics[:-1]).all()
    assert (statistics[CHANNEL_STATISTICS.index("zeros")] == 0).all()
    assert np.isnan(merged.total().statistics()[:-1]).all()


def test_of_no_channels_there_is_a_total() -> None:
    total = moments(np.empty((0, 4))).total().statistics()
    assert total.shape == (9, 1)
    assert np.isnan(total[:-1]).all()
    assert total[-1] == 0


def test_the_total_is_the_moments_of_all_channels_as_one() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(50, 3, (40, 100)) * rng.choice([1, 100], (40, 1))
    x[3] = np.nan
    x[4, :50] = np.inf
    channel_errors(moments(x, 50.0).total().statistics(), x.reshape(1, -1), "out")


@pytest.mark.parametrize("step", [2.0**-23, 2.0**-26, 2.0**-34])
@pytest.mark.parametrize("offset", [1.0, 1000.1, -3e5])
def test_blocks_whose_means_hardly_differ_keep_their_spread(offset: float, step: float) -> None:
    rng = np.random.default_rng(2)
    step *= abs(offset)
    parts = [offset + step * (rng.random((3, 101)) < share) for share in (0.02, 0.97, 0.03, 0.99)]
    merged = reduce(Moments.merge, [moments(part, offset) for part in parts])
    x = np.concatenate(parts, axis=1)
    channel_errors(merged.statistics(), x, "out")
    rows = reduce(Moments.concatenate, [moments(part, offset) for part in parts])
    channel_errors(rows.total().statistics(), x.reshape(1, -1), "out")


def test_a_fold_over_thousands_of_blocks_agrees_with_one_pass() -> None:
    x = np.random.default_rng(3).normal(0.3, 1.0, (2, 40_000))
    merged = reduce(Moments.merge, pieces(x, list(range(8, 40_000, 8))))
    channel_errors(merged.statistics(), x, "out")


def test_a_trillion_values_are_merged_without_loss() -> None:
    one = moments(np.array([[-1.0, 0.0, 1.0, 4.0]]))
    merged = one
    for _ in range(40):
        merged = merged.merge(merged)
    assert merged.count[0] == 4 * 2**40
    assert merged.zeros[0] == 2**40
    np.testing.assert_allclose(merged.statistics()[:-1], one.statistics()[:-1], rtol=1e-13)


def test_a_constant_has_no_spread_and_no_kurtosis_however_it_is_cut() -> None:
    x = np.full((1, 1000), 0.1)
    mean, std, *_, rms, kurtosis, _ = reduce(Moments.merge, pieces(x, [7, 8, 500, 999])).statistics()[:, 0]
    assert (mean, std, rms) == (0.1, 0.0, 0.1)
    assert np.isnan(kurtosis)


def test_sums_that_overflow_are_missing_without_a_warning() -> None:
    x = np.array([[1.7e308, -1.7e308, 1.0, 1.7e308]])
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [moments(x), moments(x)]
    statistics = parts[0].merge(parts[1]).statistics()[:, 0]
    named = dict(zip(CHANNEL_STATISTICS, statistics, strict=True))
    assert (named["min"], named["max"], named["absmax"]) == (-1.7e308, 1.7e308, 1.7e308)
    assert np.isnan([named["std"], named["rms"], named["mean_abs"], named["kurtosis"]]).all()
    assert parts[0].concatenate(parts[1]).total().statistics().shape == (9, 1)
