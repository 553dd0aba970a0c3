"""p-values of units over prompts, and those of many units together."""

import numpy as np
import pytest
from neurondynamics.analysis.significance import adjusted, p_values
from scipy.stats import false_discovery_control, ttest_1samp


def of(values):
    mean = values.mean(0)
    return p_values(mean, np.square(values - mean).sum(0), len(values))


def test_they_are_those_of_a_t_test():
    values = np.random.default_rng(0).normal(size=(12, 30)) + np.linspace(-1, 1, 30)
    np.testing.assert_allclose(of(values), ttest_1samp(values, 0).pvalue)


def test_without_spread_or_a_second_prompt():
    assert of(np.array([[0.0, 2.0], [0.0, 2.0]])).tolist() == [1, 0]
    assert np.isnan(of(np.array([[1.0, 2.0]]))).all()


def test_many_are_adjusted_for_their_number():
    p = np.random.default_rng(1).uniform(size=200) ** 3
    np.testing.assert_allclose(adjusted(p), false_discovery_control(p))
    known = adjusted(np.array([0.01, np.nan, 0.04, 0.03]))
    assert known[[0, 2, 3]].tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert np.isnan(known[1])


def test_false_discoveries_come_at_their_rate():
    """Of 2,000 units a fifth moved; of those called at 10 %, a tenth at most did not."""
    draw = np.random.default_rng(2)
    moved = np.arange(2000) < 400
    false, found = 0, 0
    for _ in range(10):
        values = draw.normal(size=(20, 2000)) + np.where(moved, 1.0, 0.0)
        called = adjusted(of(values)) < 0.1
        false, found = false + int((called & ~moved).sum()), found + int(called.sum())
    assert found > 0.8 * 10 * 400
    assert false / found < 0.1
