"""The reference gives what a person gets with pencil and paper."""

import math

import numpy as np
import pytest

from oracles.reference import channel_statistics, head_singular_values, tensor_statistics

NAN, INF = math.nan, math.inf

X = np.array(
    [
        [1.0, 2.0, 3.0, 4.0],  # mean 2.5, squares about it 2.25 .25 .25 2.25, fourth powers 5.0625 .0625 .0625 5.0625
        [0.0, -0.0, -2.0, 2.0],
        [7.0, 7.0, 7.0, 7.0],
        [NAN, INF, 0.0, -4.0],
        [NAN, NAN, -INF, INF],
    ]
)

OUT: dict[str, list[float]] = {
    "count": [4, 4, 4, 2, 0],
    "mean": [2.5, 0, 7, -2, NAN],
    "std": [math.sqrt(1.25), math.sqrt(2), 0, 2, NAN],
    "min": [1, -2, 7, -4, NAN],
    "max": [4, 2, 7, 0, NAN],
    "mean_abs": [2.5, 1, 7, 2, NAN],
    "absmax": [4, 2, 7, 4, NAN],
    "rms": [math.sqrt(7.5), math.sqrt(2), 7, math.sqrt(8), NAN],
    "kurtosis": [2.5625 / 1.25**2, 2, NAN, 1, NAN],
    "zeros": [0, 2, 0, 1, 0],
}


@pytest.mark.parametrize("name", OUT)
def test_rows_are_the_out_channels_and_columns_the_in_channels(name: str) -> None:
    np.testing.assert_allclose(channel_statistics(X, "out")[name], OUT[name], rtol=1e-15)
    np.testing.assert_allclose(channel_statistics(X.T, "in")[name], OUT[name], rtol=1e-15)


def test_a_constant_that_float64_cannot_average_has_no_spread() -> None:
    found = channel_statistics(np.full((1, 3), 0.1), "out")
    assert found["std"].tolist() == [0.0]
    assert np.isnan(found["kurtosis"]).all()


def test_values_far_from_zero_do_not_cancel() -> None:
    found = channel_statistics(np.array([[1e6 - 1, 1e6, 1e6 + 1]]), "out")
    assert found["std"][0] == pytest.approx(math.sqrt(2 / 3), rel=1e-15)
    assert found["kurtosis"][0] == pytest.approx(1.5, rel=1e-14)


def test_a_tensor_counts_what_it_does_not_average() -> None:
    found = tensor_statistics(np.array([[NAN, INF, -INF, 0.0], [1e-8, -2e-8, 3.0, -5.0]]))
    assert {name: found[name] for name in ("count", "nans", "infs", "zeros", "near_zeros")} == {
        "count": 5,
        "nans": 1,
        "infs": 2,
        "zeros": 1,
        "near_zeros": 2,
    }
    assert (found["min"], found["max"], found["absmax"], found["absmin"]) == (-5, 3, 5, 1e-8)
    assert found["mean"] == pytest.approx(-2e-9 - 0.4, rel=1e-15)
    assert found["mean_abs"] == pytest.approx(1.6 + 6e-9, rel=1e-15)
    assert found["rms"] == pytest.approx(math.sqrt(34 / 5), rel=1e-15)


@pytest.mark.parametrize(
    ("n", "p99", "p999"),
    [(1, 1, 1), (99, 99, 99), (100, 99, 100), (101, 100, 101), (1000, 990, 999), (1001, 991, 1000)],
)
def test_a_quantile_is_the_value_at_an_integer_rank(n: int, p99: int, p999: int) -> None:
    found = tensor_statistics(np.where(np.arange(1, n + 1) % 2, -1.0, 1.0) * np.arange(n, 0, -1))
    assert (found["p99_abs"], found["p999_abs"]) == (p99, p999)


def test_a_tensor_of_zeros_and_an_empty_one_have_no_smallest_magnitude() -> None:
    zeros, empty = tensor_statistics(np.zeros(3)), tensor_statistics(np.zeros((0, 4)))
    assert math.isnan(zeros["absmin"])
    assert zeros["p99_abs"] == 0
    assert all(math.isnan(empty[name]) for name in ("mean", "std", "min", "absmin", "p99_abs", "kurtosis"))
    assert empty["count"] == empty["zeros"] == empty["nans"] == 0


def test_heads_are_rows_of_q_and_columns_of_o() -> None:
    q = np.zeros((4, 3))
    q[0, 2], q[1, 0] = 3, -5  # head 0: rows 0 and 1
    q[2:] = [[1, 2, 2], [2, 4, 4]]  # head 1: rank one, ‖·‖_F = √(9 + 36)
    expected: list[list[float]] = [[5, 3], [math.sqrt(45), 0]]
    np.testing.assert_allclose(head_singular_values(q, 2, "(heads d) m"), expected, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(head_singular_values(q.T, 2, "m (heads d)"), expected, rtol=1e-14, atol=1e-14)
