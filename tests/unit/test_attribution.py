"""The eight groups by hand, and sums over them."""

import numpy as np
import pytest
from neurondynamics.analysis.attribution import (
    GROUPS,
    INCREASING,
    REDUCING,
    UNCHANGED,
    classify,
    sum_by_group,
)

# cosine, base, tuned, group; d = base - tuned
BY_HAND = [
    (0.3, 2.0, 1.0, "TP-"),  # toxic, positive, activated less: d > 0
    (0.3, 2.0, -1.0, "TP-"),  # through zero and beyond it is still less
    (0.3, 2.0, -9.0, "TP-"),
    (0.3, 2.0, 3.0, "TP+"),
    (0.3, -2.0, -3.0, "TN+"),  # toxic, negative, more negatively: d > 0
    (0.3, -2.0, -1.0, "TN-"),
    (0.3, -2.0, 5.0, "TN-"),
    (-0.3, 2.0, 3.0, "AP+"),  # anti-toxic, positive, activated more: d < 0
    (-0.3, 2.0, 1.0, "AP-"),
    (-0.3, -2.0, -1.0, "AN-"),  # anti-toxic, negative, less negatively: d < 0
    (-0.3, -2.0, 4.0, "AN-"),
    (-0.3, -2.0, -3.0, "AN+"),
    (0.3, 0.0, 1.0, "TP+"),  # zero counts as positive
    (0.3, 0.0, -1.0, "TP-"),
    (-0.3, 0.0, 1.0, "AP+"),
    (-0.3, 0.0, -1.0, "AP-"),
    (0.3, -0.0, -1.0, "TP-"),
    (0.3, 1.5, 1.5, UNCHANGED),
    (-0.3, 0.0, 0.0, UNCHANGED),
    (0.0, 2.0, 1.0, UNCHANGED),
    (0.0, -2.0, 1.0, UNCHANGED),
    (1e-300, 1e-300, 0.0, "TP-"),
    (-1e-12, 1.0, np.nextafter(1.0, 2), "AP+"),
]


def names(cosine, base, tuned):
    return [GROUPS[i] for i in classify(*(np.asarray(x) for x in (cosine, base, tuned)))]


@pytest.mark.parametrize(("cosine", "base", "tuned", "group"), BY_HAND)
def test_a_neuron_by_hand(cosine, base, tuned, group):
    assert names([cosine], [base], [tuned]) == [group]


def test_all_neurons_at_once():
    cosine, base, tuned, expected = zip(*BY_HAND, strict=True)
    assert names(cosine, base, tuned) == list(expected)
    assert set(expected) == set(GROUPS)


def test_the_reducing_groups_reduce_and_the_others_increase():
    """With the value vector unchanged, the reduction is d times the cosine."""
    generator = np.random.default_rng(0)
    cosine, base, tuned = generator.normal(size=(3, 2000))
    groups = np.array(names(cosine, base, tuned))
    reduction = (base - tuned) * cosine
    assert (reduction[np.isin(groups, REDUCING)] > 0).all()
    assert (reduction[np.isin(groups, INCREASING)] < 0).all()
    assert set(groups) == {*REDUCING, *INCREASING}


def test_the_order_of_groups_is_that_of_the_files():
    assert GROUPS == ("TP-", "AN-", "TN+", "AP+", "TP+", "AN+", "TN-", "AP-", "unchanged")


def test_sums_by_group_by_hand():
    contributions = np.array([[1.0, 2.0, 4.0, 8.0], [10.0, 20.0, 40.0, 80.0]])
    sums = sum_by_group(contributions, np.array([1, 8, 1, 0]))
    expected = np.zeros((2, 9))
    expected[:, 0] = [8, 80]
    expected[:, 1] = [5, 50]
    expected[:, 8] = [2, 20]
    np.testing.assert_array_equal(sums, expected)
    assert sums.dtype == np.float64


def test_float32_contributions_are_summed_in_float64():
    contributions = np.full((1, 65), 1.0, dtype=np.float32)
    contributions[0, 0] = 2**24
    assert sum_by_group(contributions, np.zeros(65, dtype=int))[0, 0] == 2**24 + 64
