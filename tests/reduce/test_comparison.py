"""Two checkpoints, value by value: every figure is NumPy's, whatever dtypes, layout, grid and workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made import compared
from oracles.exactness import packed, shard
from shardscan.errors import CheckpointError
from shardscan.plan import comparison as pairs
from shardscan.plan.comparison import Pair, Side
from shardscan.reduce import comparison as differences
from shardscan.reduce.comparison import FIGURES, Figures
from shardscan.shards.dtypes import decode

CONFIG = {"architectures": ["Any"], "heads": 4, "kv_heads": 2, "d": 4, "experts": 3}
FAMILY = """
name = "any"
architectures = ["Any"]
[config]
heads = ["heads"]
kv_heads = ["kv_heads"]
head_dim = ["d"]
experts = ["experts"]
[[component]]
name = "text"
prefixes = [""]
layer = "layers.{layer}."
[component.inside."t"]
role = "fused"
axes = "%s"
transposed = %s
%s
"""
NAME = "layers.0.t.weight"
Layout = tuple[str, bool, str]  # axes, turned, parts
PLAIN, TURNED = ("m f", False, ""), ("m f", True, "")
BY_HEAD = np.arange(48).reshape(4, 3, 4)
FUSED: dict[str, tuple[str, str, dict[str, np.ndarray]]] = {
    "one after the other": (
        "(parts d) m", 'parts = { q = "heads", k = "kv_heads", v = "kv_heads" }',
        {"#q": np.arange(16), "#k": np.arange(16, 24), "#v": np.arange(24, 32)},
    ),
    "by head": (
        "(heads parts d) m", 'parts = ["q", "k", "v"]',
        {f"#{part}": BY_HEAD[:, i].ravel() for i, part in enumerate("qkv")},
    ),
}  # fmt: skip


def checkpoint(folder: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> Path:
    """Tensors by name, from their dtype and float64 values."""
    return shard(folder, {name: (code, w.shape, packed(w, code)) for name, (code, w) in tensors.items()}, CONFIG)


def weights(folder: Path, layout: Layout, code: str, values: np.ndarray) -> dict[str, Side]:
    """The sides of a checkpoint of one weight, from what it is before turning."""
    axes, turned, parts = layout
    stored = np.ascontiguousarray(np.swapaxes(values, -1, -2) if turned else values)
    family = FAMILY % (axes, str(turned).lower(), parts)
    return compared.sides(compared.placed(checkpoint(folder, {NAME: (code, stored)}), family)[1])


def held(values: np.ndarray, code: str) -> np.ndarray:
    """The values as the dtype holds them, float64."""
    return decode(np.frombuffer(packed(values, code), np.uint8), code, values.shape).astype(np.float64)


def found(*given: Pair, workers: int = 1) -> list[Figures]:
    """The figures of pairs, in their order."""
    got: dict[str, list[Figures]] = {}

    def keep(task: pairs.Task, results: Any) -> None:
        assert all(result.failure is None for result in results)
        got[task.name] = [figures for result in results for figures in result.figures]

    differences.compare_tasks(pairs.plan_comparison(given), keep, workers=workers)
    return [figures for name in sorted(got) for figures in got[name]]


def reference(a: np.ndarray, b: np.ndarray, axis: int | None) -> np.ndarray:
    """FIGURES of float64 arrays, whole or along one axis, in plain NumPy."""
    if axis is None:
        a, b, axis = a.reshape(1, -1), b.reshape(1, -1), 1
    same, finite = (a == b) | (np.isnan(a) & np.isnan(b)), np.isfinite(a) & np.isfinite(b)
    x, y = np.where(finite, a, 0), np.where(finite, b, 0)
    norm_a, norm_b, change = (np.linalg.norm(w, axis=axis) for w in (x, y, x - y))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where((norm_a == 0) & (norm_b == 0), 0, np.where(norm_a == 0, np.nan, change / norm_a))
        cosine = np.where((norm_a == 0) | (norm_b == 0), np.nan, (x * y).sum(axis) / norm_a / norm_b)
    counts = (~same).sum(axis), ((b == 0) & (a != 0)).sum(axis)
    most = np.abs(x - y).max(axis=axis, initial=0)
    out = np.stack([*counts, norm_a, norm_b, change, relative, cosine, most]).astype(np.float64)
    out[2:, (finite.sum(axis) == 0) & (a.shape[axis] > 0)] = np.nan
    return out


def be_numpys(got: Figures, a: np.ndarray, b: np.ndarray) -> None:
    """Counts and maxima to the bit, sums to 1e-9."""
    assert got.channels_out is not None
    assert got.channels_in is not None
    for ours, axis in ((got.total[:, None], None), (got.channels_out, 1), (got.channels_in, 0)):
        right = reference(a, b, axis)
        exact = [FIGURES.index(name) for name in ("changed", "newly_zero", "max_change")]
        np.testing.assert_array_equal(ours[exact], right[exact])
        np.testing.assert_allclose(ours, right, rtol=1e-9, atol=1e-12)


def made(rng: np.random.Generator, rows: int, cols: int, code: str) -> np.ndarray:
    """Values with zeros of both signs and, where the dtype has them, NaN and infinities here and there."""
    values = rng.integers(0, 2, (rows, cols)).astype(float) if code == "BOOL" else rng.standard_normal((rows, cols))
    values[rng.random(values.shape) < 0.2] = 0.0
    if code in ("F16", "BF16", "F32", "F64"):
        values[rng.random(values.shape) < 0.1] = -0.0
        for odd in (np.nan, np.inf, -np.inf):
            values.flat[rng.integers(values.size, size=3)] = odd
    return values


DTYPES = ["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2", "F4", "BOOL"]


@pytest.mark.parametrize("code", DTYPES)
def test_figures_of_mixed_dtypes_are_numpys(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(DTYPES.index(code))
    for number, other in enumerate(("BF16", "F32", "F64", code)):
        monkeypatch.setattr(pairs, "BLOCK_BYTES", int(rng.choice([200, 3000, 8 << 20])))
        rows, cols = int(rng.integers(1, 70)), 2 * int(rng.integers(1, 300))
        a, b = held(made(rng, rows, cols, code), code), made(rng, rows, cols, other)
        b[rng.random(b.shape) < 0.5] = 0
        keep = rng.random(b.shape) < 0.4
        b = held(np.where(keep & np.isfinite(a), a, b) if other == code else b, other)
        of_a = weights(tmp_path / f"a{number}", PLAIN, code, a)[NAME]
        of_b = weights(tmp_path / f"b{number}", PLAIN, other, b)[NAME]
        (got,) = found(Pair(of_a, of_b))
        be_numpys(got, a, b)


@pytest.mark.parametrize("turned_b", [False, True])
@pytest.mark.parametrize("turned_a", [False, True])
@pytest.mark.parametrize("order", ["ascending", "any"])
def test_rows_and_columns_may_be_some_in_any_order_however_either_side_is_stored(
    turned_a: bool, turned_b: bool, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng([turned_a, turned_b, order == "any"])
    for number, (code, gap) in enumerate((("BF16", 0), ("F32", 200), ("F4", 64 << 10), ("F6_E2M3", 0))):
        monkeypatch.setattr(pairs, "GAP_BYTES", gap)
        monkeypatch.setattr(pairs, "BLOCK_BYTES", int(rng.choice([64, 500, 2000])))
        a = held(made(rng, 64, 40, code), code)
        rows, cols = (rng.permutation(n)[:m] for n, m in ((64, 24), (40, 16)))
        rows, cols = (np.sort(rows), np.sort(cols)) if order == "ascending" else (rows, cols)
        b = a[np.ix_(rows, cols)]
        b = held(np.where(rng.random(b.shape) < 0.5, b, 0.25), "BF16")
        of_a = weights(tmp_path / f"a{number}", ("m f", turned_a, ""), code, a)[NAME]
        of_b = weights(tmp_path / f"b{number}", ("m f", turned_b, ""), "BF16", b)[NAME]
        (got,) = found(Pair(of_a, of_b, rows, cols))
        be_numpys(got, a[np.ix_(rows, cols)], b)


@pytest.mark.parametrize(("codes", "passes"), [(("BF16", "BF16"), 2), (("F32", "BF16"), 4), (("BF16", "F32"), 4)])
def test_of_sides_that_are_stored_different_ways_round_one_is_read_once_and_the_other_for_four_blocks(
    codes: tuple[str, str], passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "BLOCK_BYTES", 64 * 40 * 2 // 8)  # an eighth of the weight in BF16
    a = held(made(np.random.default_rng(6), 64, 40, "BF16"), "BF16")
    of_a, of_b = (
        weights(tmp_path / name, ("m f", turned, ""), code, a)[NAME]
        for name, turned, code in zip("ab", (True, False), codes, strict=True)
    )
    (unit,) = (unit for task in pairs.plan_comparison([Pair(of_a, of_b)]) for unit in task.units)
    assert unit.nbytes == passes * of_a.placed.tensor.nbytes + of_b.placed.tensor.nbytes
    (got,) = found(Pair(of_a, of_b))
    be_numpys(got, a, a)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", FUSED)
def test_parts_of_a_fused_tensor_are_read_once(
    kind: str, turned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "BLOCK_BYTES", 300)
    monkeypatch.setattr(pairs, "GAP_BYTES", 40)
    rng = np.random.default_rng(turned)
    axes, parts, cuts = FUSED[kind]
    rows = sum(map(len, cuts.values()))
    a, b = (held(made(rng, rows, 24, "BF16"), "BF16") for _ in range(2))
    of_a, of_b = (weights(tmp_path / n, (axes, turned, parts), "BF16", w) for n, w in (("a", a), ("b", b)))
    given = [Pair(of_a[NAME + end], of_b[NAME + end]) for end in cuts]
    units = [unit for task in pairs.plan_comparison(given) for unit in task.units]
    assert [len(unit.pairs) for unit in units] == ([3] if turned else [1, 1, 1])
    assert sum(unit.nbytes for unit in units) == 2 * a.size * 2
    for got, some in zip(found(*given), cuts.values(), strict=True):
        be_numpys(got, a[some], b[some])
    (alone,) = weights(tmp_path / "alone", PLAIN, "F32", b[cuts["#k"]]).values()
    (got,) = found(Pair(of_a[NAME + "#k"], alone))
    be_numpys(got, a[cuts["#k"]], b[cuts["#k"]])


def test_an_expert_of_a_stack_may_have_become_a_tensor_of_its_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a = held(made(rng, 3 * 16, 24, "F16"), "F16").reshape(3, 16, 24)
    stack = weights(tmp_path / "a", ("experts f m", False, ""), "F16", a)
    assert len(stack) == 3
    b = held(a[2] * 0.5, "BF16")
    (alone,) = weights(tmp_path / "b", TURNED, "BF16", b).values()
    same, other = found(Pair(stack[f"{NAME}[1]"], stack[f"{NAME}[1]"]), Pair(stack[f"{NAME}[2]"], alone))
    be_numpys(same, a[1], a[1])
    be_numpys(other, a[2], b)


def test_vectors_scalars_and_empty_tensors_have_figures_and_no_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "BLOCK_BYTES", 64)
    rng = np.random.default_rng(4)
    norm, scalar, cube = rng.standard_normal(100), np.array(2.0), rng.standard_normal((3, 4, 5))
    a, b = (
        compared.sides(compared.placed(checkpoint(tmp_path / name, {
            "norm.bias": ("F32", norm * by), "scalar": ("F64", scalar * by), "none.bias": ("F16", np.zeros(0)),
            "cube.bias": ("F32", cube * by), "none.weight": ("F16", np.zeros((0, 4))),
            "i.position_ids": ("I64", np.arange(50.0) * by), "i.inv_freq": ("U16", np.arange(50) + (by < 0)),
        }))[1])
        for name, by in (("a", 1.0), ("b", -1.5))
    )  # fmt: skip
    picked = np.array([5, 3, 99])
    (small,) = compared.sides(
        compared.placed(checkpoint(tmp_path / "c", {"norm.bias": ("F32", norm[picked])}))[1]
    ).values()
    given = [Pair(a[name], b[name]) for name in a]
    got = dict(zip(a, found(*given), strict=True))
    for name, values in (("norm.bias", norm), ("scalar", scalar), ("cube.bias", cube)):
        x = values.astype(np.float32).astype(float) if name != "scalar" else values
        y = (values * -1.5).astype(np.float32).astype(float) if name != "scalar" else values * -1.5
        assert got[name].channels_out is got[name].channels_in is None
        np.testing.assert_allclose(got[name].total, reference(x, y, None)[:, 0], rtol=1e-12)
    ids = np.arange(50.0)
    for name, x, y in (("i.position_ids", ids, np.trunc(ids * -1.5)), ("i.inv_freq", ids, ids + 1)):
        np.testing.assert_allclose(got[name].total, reference(x, y, None)[:, 0], rtol=1e-12)
    for name in ("none.bias", "none.weight"):
        assert got[name].total.tolist()[:6] == [0.0] * 6
    (same,) = found(Pair(a["norm.bias"], small, cols=picked))
    assert same.total[:2].tolist() == [0, 0]
    assert same.total[FIGURES.index("cosine")] == 1


@pytest.mark.parametrize("scale", [1e200, 1e-200, 5e-310])
def test_squares_that_leave_float64s_range_do_not_leave_the_norms(
    scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "BLOCK_BYTES", 512)
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 40, 16))
    a[8:24] = b[8:24] = 0  # blocks of nothing, between others
    of_a, of_b = (weights(tmp_path / n, PLAIN, "F64", w * scale)[NAME] for n, w in (("a", a), ("b", b)))
    (got,) = found(Pair(of_a, of_b))
    right = reference(a, b, None)[:, 0]
    for name, power in zip(FIGURES, (0, 0, 1, 1, 1, 0, 0, 1), strict=True):
        at = FIGURES.index(name)
        assert got.total[at] == pytest.approx(right[at] * scale**power, rel=1e-12 if scale > 1e-300 else 1e-9)


def test_counts_and_maxima_are_of_the_values_themselves_beside_any_giant(tmp_path: Path) -> None:
    a = np.array([[1e300, 1e-300, 2e-300, 0.0], [5.0, 1e-300, 1.0, 7.0]])
    b = np.array([[1e300, 1e-300, 1.5e-300, 1e-300], [5.0, 0.0, 1.0, 7.0]])
    of_a, of_b = (weights(tmp_path / n, PLAIN, "F64", w)[NAME] for n, w in (("a", a), ("b", b)))
    (got,) = found(Pair(of_a, of_b))
    named = dict(zip(FIGURES, got.total.tolist(), strict=True))
    assert (named["changed"], named["newly_zero"], named["max_change"]) == (3, 1, 1e-300)
    assert np.isnan(named["norm_change"])  # its squares are lost beside 1e600
    assert named["norm_a"] == 1e300


def test_an_unchanged_weight_has_cosine_1_and_no_change(tmp_path: Path) -> None:
    w = np.random.default_rng(6).standard_normal((50, 70))
    side = weights(tmp_path / "a", PLAIN, "BF16", w)[NAME]
    (got,) = found(Pair(side, side))
    expected = {"changed": 0, "norm_change": 0, "relative_change": 0, "cosine": 1, "max_change": 0}
    assert {name: got.total[FIGURES.index(name)] for name in expected} == expected
    assert got.channels_out is not None
    assert set(got.channels_out[FIGURES.index("cosine")]) == {1.0}


def test_bits_do_not_depend_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK_BYTES", 10_000)
    rng = np.random.default_rng(7)
    given = []
    for number in range(6):
        a, b = rng.standard_normal((2, 300, 100))
        of_a, of_b = (weights(tmp_path / f"{n}{number}", PLAIN, "F32", w)[NAME] for n, w in (("a", a), ("b", b)))
        given.append(Pair(of_a, of_b))
    one, two = ([found(pair, workers=n)[0] for pair in given] for n in (1, 2))
    for x, y in zip(one, two, strict=True):
        for left, right in ((x.total, y.total), (x.channels_out, y.channels_out), (x.channels_in, y.channels_in)):
            np.testing.assert_array_equal(left, right)


BAD: list[tuple[str, Callable[[Side, Side], object]]] = [
    ("other shapes", lambda a, b: Pair(a, b)),
    ("too few rows", lambda a, b: Pair(a, b, np.arange(7))),
    ("a row that is not there", lambda a, b: Pair(a, b, np.arange(8) + 3)),
    ("a negative row", lambda a, b: Pair(a, b, np.arange(8) - 1)),
    ("one weight twice", lambda a, b: pairs.plan_comparison([Pair(b, b), Pair(b, b)])),
]


@pytest.mark.parametrize(("make"), [make for _, make in BAD], ids=[name for name, _ in BAD])
def test_pairs_that_cannot_be_are_refused(make: Callable[[Side, Side], object], tmp_path: Path) -> None:
    a, b = (weights(tmp_path / str(n), PLAIN, "F32", np.ones((n, 4)))[NAME] for n in (10, 8))
    with pytest.raises(CheckpointError, match="layers"):
        make(a, b)
