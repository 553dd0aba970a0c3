import numpy as np
import pytest
from neurondynamics.analysis import statistics
from neurondynamics.analysis.statistics import (
    bootstrap,
    bootstrap_mean,
    share,
    wilson,
)

OPTIONS = {"samples": 400, "confidence": 0.95, "seed": 0}


def test_mean_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    datasets = generator.exponential(2.0, size=(400, 80))  # skewed, mean 2
    covered = [
        estimate.low <= 2 <= estimate.high
        for seed, values in enumerate(datasets)
        for estimate in [bootstrap_mean(values, samples=500, confidence=0.95, seed=seed)]
    ]
    # 400 trials scatter by 1.1 %; the percentile interval of a skewed mean is a little short.
    assert 0.91 <= np.mean(covered) <= 0.98


def test_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(2).normal(0, 1, size=500)
    estimate = bootstrap_mean(values, samples=4000, confidence=0.9, seed=0)
    width = 2 * 1.6449 * values.std() / np.sqrt(len(values))
    assert estimate.high - estimate.low == pytest.approx(width, rel=0.05)
    assert estimate.value == pytest.approx(values.mean())


def test_resamples_are_those_of_drawing_prompts_with_replacement():
    # Two prompts, 0 and 1: a resample's mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    means = []
    bootstrap(lambda mean: means.append(mean) or mean, [np.array([0.0, 1.0])], 4000, 0.95, seed=0)
    drawn = means[1]
    assert set(drawn) == {0, 0.5, 1}
    assert np.mean(drawn == 0.5) == pytest.approx(0.5, abs=0.03)


def test_arrays_are_resampled_together():
    values = np.random.default_rng(3).normal(size=50)
    same = bootstrap(lambda a, b: a - b, [values, values + 1], **OPTIONS)
    assert (same.value, same.low, same.high) == pytest.approx((-1, -1, -1))


def test_shapes_of_arrays_and_statistic():
    values = np.random.default_rng(4).normal(size=(30, 2, 3))
    estimate = bootstrap_mean(values, **OPTIONS)
    assert estimate.value.shape == estimate.low.shape == estimate.high.shape == (2, 3)
    np.testing.assert_allclose(estimate.value, values.mean(axis=0))
    alone = bootstrap_mean(values[:, 1, 2], **OPTIONS)
    assert estimate.low[1, 2] == pytest.approx(alone.low)


def test_the_result_does_not_depend_on_the_block(monkeypatch):
    values = np.random.default_rng(5).normal(size=(40, 3))
    whole = bootstrap_mean(values, **OPTIONS)
    monkeypatch.setattr(statistics, "BLOCK_ELEMENTS", 100)  # 2 resamples a block
    for one, other in zip(bootstrap_mean(values, **OPTIONS), whole, strict=True):
        np.testing.assert_allclose(one, other)


def test_a_seed_repeats_and_another_differs():
    values = np.random.default_rng(6).normal(size=40)
    assert bootstrap_mean(values, **OPTIONS) == bootstrap_mean(values, **OPTIONS)
    assert bootstrap_mean(values, **OPTIONS) != bootstrap_mean(values, **(OPTIONS | {"seed": 1}))


def test_unscored_rows_are_left_out_of_all_arrays():
    a = np.array([1.0, np.nan, 3.0, 5.0])
    b = np.array([1.0, 1.0, np.nan, 3.0])
    both = bootstrap(lambda a, b: a - b, [a, b], **OPTIONS)
    assert both.value == 1  # prompts 0 and 3: 3 − 2
    complete = bootstrap(lambda a, b: a - b, [a[[0, 3]], b[[0, 3]]], **OPTIONS)
    assert both == complete
    assert bootstrap_mean(a, **OPTIONS).value == 3


def test_no_scored_row_gives_nan():
    assert np.isnan(bootstrap_mean(np.full(3, np.nan), **OPTIONS)).all()
    empty = bootstrap_mean(np.empty((0, 4)), **OPTIONS)
    assert empty.low.shape == (4,)
    assert np.isnan(empty.value).all()


def test_ratio_of_sums():
    numerator, denominator = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 8.0])
    estimate = bootstrap(share, [numerator, denominator], **OPTIONS)
    assert estimate.value == 0.5
    # The extreme resamples draw prompt 2 alone (3/8) or prompt 1 alone (1).
    assert 3 / 8 <= estimate.low < 0.5 < estimate.high <= 1


def test_undefined_resamples_lie_beyond_both_ends():
    # A denominator around zero says nothing of the ratio; one that rarely drops there says enough.
    vague = bootstrap(share, [np.ones(20), np.tile([1.0, -0.9], 10)], **OPTIONS)
    assert (vague.low, vague.high) == (-np.inf, np.inf)
    denominator = np.tile([5.0, -2.8], 15)  # its mean is 1.5 standard errors above zero
    rarely = bootstrap(share, [np.ones(30), denominator], 400, 0.8, seed=0)
    often = bootstrap(share, [np.ones(30), denominator], 400, 0.95, seed=0)
    assert np.isfinite([rarely.low, rarely.high]).all()
    assert not np.isfinite([often.low, often.high]).any()
    assert np.isnan(bootstrap(share, [np.ones(3), -np.ones(3)], **OPTIONS).value)


@pytest.mark.parametrize("change", [{"samples": 0}, {"confidence": 1.0}, {"confidence": 0}])
def test_bootstrap_refuses_bad_options(change):
    with pytest.raises(ValueError, match="bootstrap needs"):
        bootstrap_mean(np.ones(3), **(OPTIONS | change))


def test_bootstrap_refuses_unequal_lengths():
    with pytest.raises(ValueError, match=r"one length, not \[2, 3\]"):
        bootstrap(share, [np.ones(2), np.ones(3)], **OPTIONS)


def test_wilson_interval():
    # Newcombe 1998, method 3: 81 of 263 and 0 of 20.
    assert wilson(81, 263, 0.95) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20, 0.95) == pytest.approx((0, 0, 0.1611), abs=5e-5)
    assert wilson(20, 20, 0.95).high == 1


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_fraction(successes, total):
    with pytest.raises(ValueError, match="not a fraction"):
        wilson(successes, total, 0.95)
