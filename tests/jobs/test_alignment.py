"""Channels aligned by their statistics: against every order there is, and on weights that were altered."""

from itertools import combinations

import numpy as np
import pytest

from shardscan.jobs.comparison.alignment import align_features, match_fingerprints
from shardscan.reduce.kernels.cpu.alignment import monotone_alignment

RNG = np.random.default_rng(5)


def statistics(weight: np.ndarray) -> np.ndarray:
    mean, std = weight.mean(1), weight.std(1)
    fourth = ((weight - mean[:, None]) ** 4).mean(1) / std**4
    return np.stack([mean, std, weight.min(1), weight.max(1), np.abs(weight).mean(1), fourth], 1)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (6, 1), (6, 6), (8, 3), (9, 5), (10, 8)])
def test_the_alignment_is_the_best_of_all_ascending_ones(n: int, m: int) -> None:
    a, b = RNG.standard_normal((n, 2)), RNG.standard_normal((m, 2))
    found, distances = monotone_alignment(a, b)
    every = {kept: np.sum((a[list(kept)] - b) ** 2) for kept in combinations(range(n), m)}
    assert (np.diff(found) > 0).all() and tuple(found) in every
    assert distances.sum() == pytest.approx(min(every.values()))
    assert every[tuple(found)] == pytest.approx(min(every.values()))


@pytest.mark.parametrize("share", [0.3, 0.75, 0.95])
def test_channels_that_were_tuned_after_pruning_are_found(share: float) -> None:
    weight = RNG.standard_normal((400, 120)) * RNG.uniform(0.5, 2, (400, 1))
    kept = np.sort(RNG.choice(400, round(400 * share), replace=False))
    tuned = weight[kept] + 0.02 * RNG.standard_normal((len(kept), 120))
    found = align_features(statistics(weight), statistics(tuned))
    assert found is not None
    np.testing.assert_array_equal(found, kept)


def test_heads_are_kept_whole_where_they_were_cut_whole() -> None:
    weight = RNG.standard_normal((8 * 16, 64)) * RNG.uniform(0.9, 1.1, (128, 1))
    kept = (np.array([0, 3, 4, 7])[:, None] * 16 + np.arange(16)).ravel()
    tuned = weight[kept] + 0.3 * RNG.standard_normal((64, 64))
    found = align_features(statistics(weight), statistics(tuned), 16)
    assert found is not None
    np.testing.assert_array_equal(found, kept)


def test_weights_that_have_nothing_in_common_are_not_aligned() -> None:
    a, b = RNG.standard_normal((300, 100)), RNG.standard_normal((200, 100))
    assert align_features(statistics(a), statistics(b)) is None


def test_equal_fingerprints_match_copy_by_copy() -> None:
    theirs = np.array([7, 5, 7, 9, 7], np.uint64)
    ours = np.array([7, 7, 9, 4, 5, 5], np.uint64)
    np.testing.assert_array_equal(match_fingerprints(theirs, ours), [0, 2, 3, -1, 1, -1])
