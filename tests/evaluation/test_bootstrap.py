"""Intervals: where they lie, that they repeat, that memory never decides."""

import numpy as np
import pytest

from glassworks.evaluation import bootstrap
from glassworks.evaluation.bootstrap import interval, mean_interval, ratio_interval, resampled_sums

VALUES = np.random.default_rng(7).normal(10.0, 2.0, 400)


def test_interval_of_a_mean_is_that_of_the_normal_theory() -> None:
    found = mean_interval(VALUES, resamples=4000, seed=0)
    half = 1.96 * VALUES.std(ddof=1) / np.sqrt(len(VALUES))
    assert found["value"] == pytest.approx(VALUES.mean(), abs=1e-6)
    assert found["low"] == pytest.approx(VALUES.mean() - half, abs=0.03)
    assert found["high"] == pytest.approx(VALUES.mean() + half, abs=0.03)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator, covered = np.random.default_rng(1), 0
    for trial in range(200):
        found = mean_interval(generator.normal(0, 1, 100), resamples=300, seed=trial)
        covered += found["low"] <= 0 <= found["high"]
    assert 0.89 <= covered / 200 <= 0.99


def test_same_seed_same_interval_and_another_seed_another() -> None:
    first = mean_interval(VALUES, resamples=200, seed=3)
    assert mean_interval(VALUES, resamples=200, seed=3) == first
    assert mean_interval(VALUES, resamples=200, seed=4) != first


def test_numbers_are_rounded_to_six_digits() -> None:
    found = mean_interval(VALUES, resamples=200, seed=3)
    assert all(number == round(number, 6) for number in found.values())


def test_block_size_never_changes_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = np.random.default_rng(2).random((37, 3))
    whole = resampled_sums(statistics, 100, seed=5)
    monkeypatch.setattr(bootstrap, "BLOCK", 37 * 3 * 7)
    assert (resampled_sums(statistics, 100, seed=5) == whole).all()


def test_all_metrics_are_resampled_alike() -> None:
    """Which images are drawn does not depend on how many statistics an image has: scores can be compared in pairs."""
    statistics = np.arange(50.0)[:, None]
    wide = np.repeat(statistics, 4, axis=1)
    assert (resampled_sums(wide, 60, seed=1)[:, 2] == resampled_sums(statistics, 60, seed=1)[:, 0]).all()


def test_ratio_weighs_images_by_their_denominator() -> None:
    found = ratio_interval([2.0, 30.0], [1.0, 10.0], resamples=100, seed=0)
    assert found["value"] == pytest.approx(32 / 11, abs=1e-6)
    assert (found["low"], found["high"]) == (2.0, 3.0)


def test_exponential_ratio_is_perplexity() -> None:
    found = ratio_interval([20.0, 40.0], [10.0, 20.0], resamples=100, seed=0, exponential=True)
    assert found["value"] == found["low"] == found["high"] == pytest.approx(np.exp(2), abs=1e-6)


@pytest.mark.parametrize(
    ("numerators", "denominators"), [([0, 0], [0, 0]), ([float("nan"), 1], [1, 1]), ([2000, 2000], [1, 1])]
)
def test_undefined_scores_are_none_not_nan(numerators: list, denominators: list) -> None:
    found = ratio_interval(numerators, denominators, resamples=100, seed=0, exponential=True)
    assert found == {"value": None, "low": None, "high": None}


def test_resamples_without_a_denominator_are_left_out() -> None:
    found = ratio_interval([1, 0, 0], [1, 0, 0], resamples=200, seed=0)
    assert found == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_any_function_of_sums_has_an_interval() -> None:
    found = interval(VALUES[:, None], lambda sums: sums[..., 0] ** 2, resamples=300, seed=0)
    assert found["low"] < found["value"] < found["high"]
