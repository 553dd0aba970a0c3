import tracemalloc
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


def test_a_ratio_whose_denominator_may_be_zero_is_undefined():
    """One that rarely is says enough: such resamples lie beyond both ends."""
    vague = STATISTICS.estimate(share, [np.ones(20), np.tile([1.0, -0.9], 10)])
    assert np.isnan(vague).all()
    denominator = np.tile([5.0, -2.8], 15)  # its mean is 1.5 standard errors above zero
    rarely = STATISTICS.estimate(share, [np.ones(30), denominator], confidence=0.8)
    often = STATISTICS.estimate(share, [np.ones(30), denominator], confidence=0.95)
    assert np.isfinite(rarely).all()
    assert np.isnan(often).all()
    assert np.isnan(STATISTICS.estimate(share, [np.ones(3), -np.ones(3)])).all()
    both = STATISTICS.estimate(
        lambda a, b: np.stack([a, share(a, b)], axis=1), [np.arange(20.0), np.zeros(20)]
    )
    assert both.value[0] == 9.5  # beside it, what is defined stays
    assert both.low[0] < 9.5 < both.high[0]
    assert np.isnan(both.value[1])


def test_one_prompt_has_a_mean_and_no_interval():
    value, low, high = STATISTICS.mean(np.array([3.0, np.nan]))
    assert value == 3
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("samples", [20, 21, 200, 1001])
def test_the_ends_are_the_quantiles_of_all_resamples(monkeypatch, samples, confidence):
    """Though only those beyond them are kept, from block to block."""
    monkeypatch.setattr(statistics, "BLOCK_ELEMENTS", 43 * 17)
    values, drawn = np.random.default_rng(7).normal(size=(40, 3)), []
    found = Statistics(samples, confidence, 1).estimate(
        lambda mean: drawn.append(mean) or mean, [values]
    )
    draws = np.concatenate(drawn[1:])
    assert draws.shape == (samples, 3)
    tail = (1 - confidence) / 2
    np.testing.assert_array_equal(found.low, np.quantile(draws, tail, axis=0, method="lower"))
    np.testing.assert_array_equal(found.high, np.quantile(draws, 1 - tail, axis=0, method="higher"))


def test_many_resamples_of_wide_data_take_little_memory():
    tracemalloc.start()
    Statistics(100_000, 0.95, 0).mean(np.random.default_rng(8).normal(size=(50, 500)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 250e6  # the resamples themselves are 400 MB


def test_few_resamples_are_refused_and_some_are_warned_of(caplog):
    with pytest.raises(ValueError, match="19 resamples make no interval; set 20 at least"):
        replace(STATISTICS, samples=19)
    replace(STATISTICS, samples=200)
    assert caplog.text == ""
    replace(STATISTICS, samples=199)
    assert "the ends of intervals are rough with 199 resamples" in caplog.text


@pytest.mark.parametrize("confidence", [0, 1, -0.5, np.nan])
def test_a_confidence_lies_between_0_and_1(confidence):
    with pytest.raises(ValueError, match="a confidence lies between 0 and 1"):
        replace(STATISTICS, confidence=confidence)
    with pytest.raises(ValueError, match="a confidence lies between 0 and 1"):
        STATISTICS.estimate(share, [np.ones(3), np.ones(3)], confidence)


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
