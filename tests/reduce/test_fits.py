"""Fits of spectra: against the slow reference, known answers, and WeightWatcher where it is installed."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from oracles import reference
from shardscan.reduce.kernels import FITS
from shardscan.reduce.kernels.cpu import spectrum_fits

Array = np.ndarray[Any, Any]
GRAM = 1e-5  # of σ₁, the floor of a spectrum that came from a Gram matrix


def fits(sigma: Any, rows: int | None = None, cols: int | None = None, floor: float = 0.0) -> dict[str, float]:
    """The fits of one spectrum, of a square matrix unless said."""
    values = np.asarray(sigma, np.float64)
    rows = len(values) if rows is None else rows
    found = spectrum_fits(values[None], np.array([floor]), rows, len(values) if cols is None else cols)
    assert found.shape == (1, len(FITS)) and found.dtype == np.float64
    return dict(zip(FITS, found[0].tolist(), strict=True))


def descending(values: Any) -> Array:
    return np.sort(np.asarray(values, np.float64))[::-1]


def spectra() -> dict[str, Array]:
    rng = np.random.default_rng(3)
    found = {f"{law} {n}": descending(getattr(rng, law)(size=n)) for n in (1, 2, 3, 10, 128, 500) for law in LAWS}
    return found | {
        "ties": descending(rng.integers(1, 9, 60)),
        "ties at both ends": np.array([5.0, 5, 5, 4, 3, 2, 2, 2]),
        "two values, each often": np.array([3.0] * 7 + [1.0] * 5),
        "all equal": np.full(20, 0.7),
        "zeros": np.zeros(6),
        "rank one": np.array([3.0, 0, 0, 0]),
        "rank two": np.array([3.0, 1, 0, 0]),
        "no values": np.empty(0),
        "half below any floor": descending(np.r_[rng.lognormal(size=30), 1e-9 * rng.random(30)]),
        "one ulp apart": descending(1 + np.arange(5) * np.finfo(float).eps),
        "geometric": 0.9 ** np.arange(100),
        "one spike": descending(np.r_[100, 1 + rng.random(63)]),
        "Gaussian matrix": np.linalg.svd(rng.normal(size=(80, 200)), compute_uv=False),
    }


LAWS = ("lognormal", "standard_exponential", "random")
SPECTRA = spectra()


@pytest.mark.parametrize("floor", [0.0, GRAM, 0.1])
@pytest.mark.parametrize("name", SPECTRA)
def test_every_fit_is_that_of_the_reference(name: str, floor: float) -> None:
    sigma = SPECTRA[name]
    least = floor * sigma.max(initial=0.0)
    for rows, cols in ((len(sigma), 3 * len(sigma)), (len(sigma), len(sigma)), (7 * len(sigma), len(sigma))):
        expected = reference.spectrum_fits(sigma.tolist(), least, rows, cols)
        # within an ulp of each other α rests on differences that the squares of the reference have rounded
        tolerance = 1.0 if name == "one ulp apart" else 1e-10
        assert fits(sigma, rows, cols, least) == pytest.approx(expected, rel=tolerance, abs=1e-12, nan_ok=True)


def test_a_stack_has_the_fits_of_its_spectra() -> None:
    rng = np.random.default_rng(4)
    stack = -np.sort(-rng.lognormal(size=(9, 40)), axis=1)
    stack[3] = np.nan
    stack[5] = 0
    floors = GRAM * stack[:, 0]
    found = spectrum_fits(stack, floors, 40, 90)
    assert np.isnan(found[[3, 5]]).all() and np.isfinite(np.delete(found, [3, 5], 0)).all()
    for row, sigma, floor in zip(found, stack, floors, strict=True):
        assert dict(zip(FITS, row, strict=True)) == pytest.approx(fits(sigma, 40, 90, floor), rel=0, nan_ok=True)


def test_other_layouts_and_dtypes_are_taken() -> None:
    stack = np.asfortranarray(-np.sort(-np.random.default_rng(5).lognormal(size=(4, 30)), axis=1), np.float32)
    expected = spectrum_fits(stack.astype(np.float64), np.zeros(4), 30, 30)
    np.testing.assert_array_equal(spectrum_fits(stack, np.zeros(4, np.float32), 30, 30), expected)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_no_spectra_and_no_values_have_no_fits(shape: tuple[int, int]) -> None:
    found = spectrum_fits(np.empty(shape), np.zeros(shape[0]), shape[1], 8)
    assert found.shape == (shape[0], len(FITS)) and np.isnan(found).all()


def test_values_below_the_floor_change_nothing_and_one_at_it_counts() -> None:
    above = descending(np.random.default_rng(6).lognormal(size=50))
    below = np.r_[above, above[-1] * np.array([0.999, 0.5, 1e-8, 0])]
    assert fits(below, 80, 90, floor=above[-1]) == pytest.approx(fits(above, 80, 90), rel=0)
    assert fits(below, 80, 90, floor=0.5 * above[-1])["log_norm"] > fits(above, 80, 90)["log_norm"]


def test_padding_ends_a_spectrum() -> None:
    sigma = descending(np.random.default_rng(6).lognormal(size=50))
    assert fits([*sigma, math.nan, math.nan], 50, 90) == pytest.approx(fits(sigma, 50, 90), rel=0)


@pytest.mark.parametrize("first", [math.nan, math.inf, 0.0])
def test_a_spectrum_that_does_not_begin_with_a_number_has_no_fits(first: float) -> None:
    assert all(math.isnan(value) for value in fits([first, 0.0, 0.0]).values())


def test_one_value_has_norms_only_and_equal_ones_no_power_law() -> None:
    one = fits([3.0, 0, 0])
    assert {name for name, value in one.items() if value == value} == {"log_norm", "log_spectral_norm"}
    equal = fits([2.0] * 4, 4, 16)
    assert {name for name, value in equal.items() if value != value} == {
        *("alpha", "xmin", "ks_distance", "tail_values", "alpha_weighted", "log_alpha_norm")
    }
    assert equal["log_norm"] == pytest.approx(math.log10(16))
    assert (equal["mp_edge"], equal["mp_spikes"], equal["mp_soft_rank"]) == pytest.approx((9.0, 0, 2.25))
    assert (equal["snr"], equal["snr_threshold"]) == (4, 0)  # all signal, over 1, over σ₁


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e150])
def test_a_scale_moves_what_has_units_and_nothing_else(scale: float) -> None:
    sigma = descending(np.random.default_rng(8).lognormal(size=200))
    one, scaled = fits(sigma, 200, 300, 0.01), fits(scale * sigma, 200, 300, 0.01 * scale)
    logs = 2 * math.log10(scale)
    for name in ("alpha", "ks_distance", "tail_values", "mp_spikes", "mp_soft_rank"):
        assert scaled[name] == pytest.approx(one[name], rel=1e-10)
    for name, power in (("xmin", 2), ("mp_edge", 2), ("snr_threshold", 1), ("snr", -1)):
        assert scaled[name] == pytest.approx(one[name] * scale**power, rel=1e-10)
    for name in ("log_norm", "log_spectral_norm"):
        assert scaled[name] == pytest.approx(one[name] + logs, rel=1e-10)
    for name in ("alpha_weighted", "log_alpha_norm"):
        assert scaled[name] == pytest.approx(one[name] + one["alpha"] * logs, rel=1e-10)


@pytest.mark.parametrize("scale", [5e-324, 1e-200, 1e200, 1e300])
def test_squares_beyond_float64_are_missing_and_their_logarithms_are_not(scale: float) -> None:
    found = fits(scale * np.array([9.0, 5, 4, 2, 1]))
    assert {name for name, value in found.items() if value != value} - {"snr"} == {"xmin", "mp_edge"}
    assert found["log_spectral_norm"] == pytest.approx(2 * math.log10(9 * scale))


@pytest.mark.parametrize("exponent", [1.8, 2.5, 4.0])
def test_a_power_law_is_recovered_within_three_standard_errors(exponent: float) -> None:
    uniform = np.random.default_rng(10).random(4000)
    found = fits(np.sqrt(descending(7 * uniform ** (1 / (1 - exponent)))))
    error = (found["alpha"] - 1) / math.sqrt(found["tail_values"])
    assert found["alpha"] == pytest.approx(exponent, abs=3 * error)
    assert found["tail_values"] > 400 and found["ks_distance"] < 0.05


def test_a_power_law_begins_where_the_bulk_ends() -> None:
    rng = np.random.default_rng(11)
    sigma = np.sqrt(descending(np.r_[rng.random(3000) / 2, rng.random(1000) ** -0.5]))  # α = 3 from λ = 1 on
    found = fits(sigma)
    assert 1 <= found["xmin"] < 2 and 250 < found["tail_values"] <= 1000
    assert found["alpha"] == pytest.approx(3, abs=0.4)


@pytest.mark.parametrize(("rows", "cols"), [(300, 300), (200, 800), (1000, 250)])
def test_a_gaussian_matrix_fills_its_bulk_to_the_edge(rows: int, cols: int) -> None:
    noise = np.random.default_rng(12).normal(0, 0.02, (rows, cols))
    found = fits(np.linalg.svd(noise, compute_uv=False), rows, cols)
    n, m = max(rows, cols), min(rows, cols)
    assert found["mp_edge"] == pytest.approx(n * 0.02**2 * (1 + math.sqrt(m / n)) ** 2, rel=0.02)
    assert found["mp_spikes"] <= 1 and found["mp_soft_rank"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("spikes", [1, 5])
def test_planted_spikes_are_counted_and_do_not_lift_the_edge(spikes: int) -> None:
    rng = np.random.default_rng(13)
    noise = rng.normal(0, 0.02, (256, 640))
    left, right = (np.linalg.qr(rng.normal(size=(n, spikes)))[0] for n in noise.shape)
    edge = 640 * 0.02**2 * (1 + math.sqrt(256 / 640)) ** 2
    found = fits(np.linalg.svd(noise + 20 * math.sqrt(edge) * left @ right.T, compute_uv=False), *noise.shape)
    assert found["mp_spikes"] == spikes
    assert found["mp_edge"] == pytest.approx(edge, rel=0.03)
    assert found["mp_soft_rank"] == pytest.approx(1 / 400, rel=0.1)


def test_snr_by_hand() -> None:
    found = fits([10.0, 4, 3, 2, 1], 5, 20)  # quartiles 2 and 4, β = 1/4
    assert found["snr_threshold"] == pytest.approx(2 / 1.349 * 1.5)
    assert found["snr"] == pytest.approx((10 + 4 + 3) / (2 + 1) / 10)


def weightwatcher_of(sigma: Array, rows: int, cols: int) -> dict[str, float]:
    """The same fits by the real WeightWatcher, from the same eigenvalues, under our names."""
    library = pytest.importorskip("weightwatcher", reason="WeightWatcher comes with the extra `oracle`")
    watcher = library.WeightWatcher()
    eigenvalues = np.sort(sigma**2)
    alpha, _, xmin, _, distance, _, tail, *_ = watcher.fit_powerlaw(eigenvalues, plot=False)
    columns: dict[str, float] = {}
    layer = SimpleNamespace(evals=eigenvalues, alpha=alpha, N=max(rows, cols), layer_id=0, plot_id=0, name="")
    layer.add_column = columns.__setitem__
    watcher.apply_norm_metrics(layer)
    norms = {name: columns[name] for name in ("alpha_weighted", "log_alpha_norm", "log_norm", "log_spectral_norm")}
    return {"alpha": alpha, "xmin": xmin, "ks_distance": distance, "tail_values": tail} | norms


@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("law", [*LAWS, "Gaussian matrix"])
@pytest.mark.parametrize("n", [20, 128, 700])
def test_weightwatcher_agrees(law: str, n: int) -> None:
    rng = np.random.default_rng(n)
    if law == "Gaussian matrix":
        sigma = np.linalg.svd(rng.normal(size=(n, 2 * n)), compute_uv=False)
    else:
        sigma = descending(getattr(rng, law)(size=n) + 0.01)  # its own threshold, λ > 1e-5, leaves all of these in
    found = fits(sigma, n, 2 * n)
    for name, value in weightwatcher_of(sigma, n, 2 * n).items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
