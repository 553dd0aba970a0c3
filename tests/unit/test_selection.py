"""Selections on a table of neurons small enough to see through."""

import numpy as np
import pandas as pd
import pytest
from neurondynamics.analysis.selection import select


@pytest.fixture
def neurons():
    return pd.DataFrame(
        {
            "layer": [0, 0, 0, 0, 1, 1, 1, 1],
            "neuron": [0, 1, 2, 3, 0, 1, 2, 3],
            "cosine": [0.5, -0.1, 0.9, 0.2, 0.9, -0.8, 0.1, 0.3],
            "activation_base": [1.0, 2.0, -1.0, 0.0, 3.0, -2.0, -0.5, 1.0],
            "group": ["TP-", "AP-", "TN+", "TP-", "TP+", "AN-", "unchanged", "TP-"],
        }
    )


def pairs(table):
    return list(zip(table.layer, table.neuron, strict=True))


def test_top_by_cosine_and_ties_in_the_order_of_the_table(neurons):
    assert pairs(select(neurons, {"top": 3})) == [(0, 2), (1, 0), (0, 0)]
    assert len(select(neurons, {"top": 8})) == 8


def test_top_is_by_the_cosine_with_its_sign(neurons):
    assert (1, 1) not in pairs(select(neurons, {"top": 7}))


def test_top_among_the_positively_and_the_negatively_activated(neurons):
    positive = select(neurons, {"top": 3, "activated": "positive"})
    assert pairs(positive) == [(1, 0), (0, 0), (1, 3)]
    assert (0, 3) in pairs(select(neurons, {"top": 4, "activated": "positive"}))  # 0 is positive
    assert pairs(select(neurons, {"top": 2, "activated": "negative"})) == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"top": 9}, "top: 9 was asked for, but there are 8 neurons"),
        ({"top": 6, "activated": "positive"}, "5 positively activated neurons"),
        ({"top": 4, "activated": "negative"}, "3 negatively activated neurons"),
        ({"groups": ["TP-", "XX"]}, r"unknown groups \['XX'\]; known are TP-, AN-"),
        ({"groups": ["AN+"]}, r"no neuron is in the groups \['AN\+'\]"),
        ({"random": {"top": 9}, "seed": 0}, "top: 9"),
        ({"bottom": 3}, "no known form"),
        ({"top": 1, "groups": ["TP-"]}, "no known form"),
        ({"random": {"top": 2}}, "no known form"),
        ({}, "no known form"),
    ],
)
def test_what_cannot_be_selected_is_refused(neurons, selection, message):
    with pytest.raises(ValueError, match=message):
        select(neurons, selection)


def test_groups(neurons):
    assert pairs(select(neurons, {"groups": ["TP-"]})) == [(0, 0), (0, 3), (1, 3)]
    both = select(neurons, {"groups": ["AN-", "TN+"]})
    assert pairs(both) == [(0, 2), (1, 1)]
    assert pairs(select(neurons, {"groups": ["unchanged"]})) == [(1, 2)]


def test_random_neurons_are_as_many_in_every_layer():
    generator = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "layer": np.repeat([0, 1, 2], 100),
            "neuron": np.tile(np.arange(100), 3),
            "cosine": generator.normal(size=300) + np.repeat([0, 2, -2], 100),
        }
    )
    like = select(table, {"top": 60})
    drawn = [select(table, {"random": {"top": 60}, "seed": seed}) for seed in (0, 1)]
    for one in drawn:
        assert not one.duplicated(["layer", "neuron"]).any()
        pd.testing.assert_series_equal(
            one.groupby("layer").size(), like.groupby("layer").size(), check_names=False
        )
    assert pairs(drawn[0]) != pairs(drawn[1]) != pairs(like)
    assert pairs(drawn[0]) == pairs(select(table, {"random": {"top": 60}, "seed": 0}))


def test_random_draws_from_the_whole_layer_whatever_the_index():
    table = pd.DataFrame(
        {"layer": [0] * 4, "neuron": [0, 1, 2, 3], "cosine": [4.0, 3, 2, 1]}, index=[9, 8, 7, 6]
    )
    seen = {
        pair
        for seed in range(40)
        for pair in pairs(select(table, {"random": {"top": 1}, "seed": seed}))
    }
    assert seen == {(0, 0), (0, 1), (0, 2), (0, 3)}


def test_the_table_is_left_as_it_was(neurons):
    before = neurons.copy()
    select(neurons, {"top": 3, "activated": "positive"})
    select(neurons, {"random": {"groups": ["TP-"]}, "seed": 1})
    pd.testing.assert_frame_equal(neurons, before)
