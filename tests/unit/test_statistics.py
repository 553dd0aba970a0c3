from dataclasses import replace

import numpy as np
import pytest
from neurondynamics.analysis import statistics
from neurondynamics.analysis.statistics import Estimate, Statistics, share, wilson

STATISTICS = Statistics(samples=400, confidence=0.95, seed=0)


def test_mean_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    datasets = generator.exponential(2.0, size=(400, 80))  # skewed, mean 2
    covered = [
        estimate.low <= 2 <= estimate.high
        for seed, values in enumerate(datasets)
        for estimate in [Statistics(500, 0.95, seed).mean(values)]
    ]
    # 400 trials scatter by 1.1 %; the percentile interval of a skewed mean is a little short.
    assert 0.91 <= np.mean(covered) <= 0.98


def test_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(2).normal(0, 1, size=500)
    estimate = Statistics(4000, 0.9, 0).mean(values)
    width = 2 * 1.6449 * values.std() / np.sqrt(len(values))
    assert estimate.high - estimate.low == pytest.approx(width, rel=0.05)
    assert estimate.value == pytest.approx(values.mean())


def test_resamples_are_those_of_drawing_prompts_with_replacement():
    # Two prompts, 0 and 1: a resample's mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    means = []
    Statistics(4000, 0.95, 0).estimate(
        lambda mean: means.append(mean) or mean, [np.array([0.0, 1.0])]
    )
    drawn = means[1]
    assert set(drawn) == {0, 0.5, 1}
    assert np.mean(drawn == 0.5) == pytest.approx(0.5, abs=0.03)


def test_arrays_are_resampled_together():
    values = np.random.default_rng(3).normal(size=50)
    same = STATISTICS.estimate(lambda a, b: a - b, [values, values + 1])
    assert (same.value, same.low, same.high) == pytest.approx((-1, -1, -1))


def test_shapes_of_arrays_and_statistic():
    values = np.random.default_rng(4).normal(size=(30, 2, 3))
    estimate = STATISTICS.mean(values)
    assert estimate.value.shape == estimate.low.shape == estimate.high.shape == (2, 3)
    np.testing.assert_allclose(estimate.value, values.mean(axis=0))
    alone = STATISTICS.mean(values[:, 1, 2])
    assert estimate.low[1, 2] == pytest.approx(alone.low)


def test_the_result_does_not_depend_on_the_block(monkeypatch):
    values = np.random.default_rng(5).normal(size=(40, 3))
    whole = STATISTICS.mean(values)
    monkeypatch.setattr(statistics, "BLOCK_ELEMENTS", 100)  # 2 resamples a block
    for one, other in zip(STATISTICS.mean(values), whole, strict=True):
        np.testing.assert_allclose(one, other)


def test_a_seed_repeats_and_another_differs():
    values = np.random.default_rng(6).normal(size=40)
    assert STATISTICS.mean(values) == STATISTICS.mean(values)
    assert replace(STATISTICS, seed=1).mean(values) != STATISTICS.mean(values)


def test_unscored_rows_are_left_out_of_all_arrays():
    a = np.array([1.0, np.nan, 3.0, 5.0])
    b = np.array([1.0, 1.0, np.nan, 3.0])
    both = STATISTICS.estimate(lambda a, b: a - b, [a, b])
    assert both.value == 1  # prompts 0 and 3: 3 − 2
    complete = STATISTICS.estimate(lambda a, b: a - b, [a[[0, 3]], b[[0, 3]]])
    assert both == complete
    assert STATISTICS.mean(a).value == 3


def test_no_scored_row_gives_nan():
    assert np.isnan(STATISTICS.mean(np.full(3, np.nan))).all()
    empty = STATISTICS.mean(np.empty((0, 4)))
    assert empty.low.shape == (4,)
    assert np.isnan(empty.value).all()


def test_ratio_of_sums():
    numerator, denominator = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 8.0])
    estimate = STATISTICS.estimate(share, [numerator, denominator])
    assert estimate.value == 0.5
    # The extreme resamples draw prompt 2 alone (3/8) or prompt 1 alone (1).
    assert 3 / 8 <= estimate.low < 0.5 < estimate.high <= 1


def test_undefined_resamples_lie_beyond_both_ends():
    # A denominator around zero says nothing of the ratio; one that rarely drops there says enough.
    vague = STATISTICS.estimate(share, [np.ones(20), np.tile([1.0, -0.9], 10)])
    assert (vague.low, vague.high) == (-np.inf, np.inf)
    denominator = np.tile([5.0, -2.8], 15)  # its mean is 1.5 standard errors above zero
    rarely = STATISTICS.estimate(share, [np.ones(30), denominator], confidence=0.8)
    often = STATISTICS.estimate(share, [np.ones(30), denominator], confidence=0.95)
    assert np.isfinite([rarely.low, rarely.high]).all()
    assert not np.isfinite([often.low, often.high]).any()
    assert np.isnan(STATISTICS.estimate(share, [np.ones(3), -np.ones(3)]).value)


@pytest.mark.parametrize("change", [{"samples": 0}, {"confidence": 1.0}, {"confidence": 0}])
def test_bootstrap_refuses_bad_options(change):
    with pytest.raises(ValueError, match="bootstrap needs"):
        replace(STATISTICS, **change).mean(np.ones(3))


def test_bootstrap_refuses_unequal_lengths():
    with pytest.raises(ValueError, match=r"one length, not \[2, 3\]"):
        STATISTICS.estimate(share, [np.ones(2), np.ones(3)])


def test_wilson_interval():
    # Newcombe 1998, method 3: 81 of 263 and 0 of 20.
    assert wilson(81, 263, 0.95) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20, 0.95) == pytest.approx((0, 0, 0.1611), abs=5e-5)
    assert wilson(20, 20, 0.95).high == 1


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_fraction(successes, total):
    with pytest.raises(ValueError, match="not a fraction"):
        wilson(successes, total, 0.95)


def test_columns_of_a_table():
    one = Estimate(1.0, 0.5, 2.0)
    assert one.columns("score") == {"score": 1.0, "score_low": 0.5, "score_high": 2.0}
    two = Estimate(*(np.array([[1, 2], [3, 4]]) + k for k in (0, -1, 1))).columns("sum", "share")
    assert list(two) == ["sum", "sum_low", "sum_high", "share", "share_low", "share_high"]
    assert two["sum_low"].tolist() == [0, 1]
    assert two["share_high"].tolist() == [4, 5]
