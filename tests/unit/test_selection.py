"""Selections on tables of neurons and heads small enough to see through."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from neurondynamics.interventions import selection as selections
from neurondynamics.interventions.plans import plan_steps
from neurondynamics.interventions.units import Units


def select(neurons, selection):
    return selections.select(Units(neurons), selection).neurons


@pytest.fixture
def neurons():
    return pd.DataFrame(
        {
            "layer": [0, 0, 0, 0, 1, 1, 1, 1],
            "neuron": [0, 1, 2, 3, 0, 1, 2, 3],
            "cosine": [0.5, -0.1, 0.9, 0.2, 0.9, -0.8, 0.1, 0.3],
            "activation_base": [1.0, 2.0, -1.0, 0.0, 3.0, -2.0, -0.5, 1.0],
            "group": ["TP-", "AP-", "TN+", "TP-", "TP+", "AN-", "unchanged", "TP-"],
            "reduction": [0.1, -0.5, 0.3, 0.3, -0.2, 0.4, 0.0, 0.2],
        }
    )


def pairs(table):
    return list(zip(table.layer, table.neuron, strict=True))


def test_top_by_cosine_and_ties_in_the_order_of_the_table(neurons):
    assert pairs(select(neurons, {"top": 3})) == [(0, 2), (1, 0), (0, 0)]
    assert pairs(select(neurons, {"top": 8})) == pairs(select(neurons, {"top": "all"}))
    assert len(select(neurons, {"top": "all", "activated": "positive"})) == 5


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
        ({}, "no known form; known are top"),
        ({"groups": ["TP-"], "fraction": 0.5}, "no known form"),
        ({"groups": ["TP-"], "fraction": 0, "ranked": "highest"}, "above 0 and at most 1, not 0"),
        ({"groups": ["TP-"], "fraction": 1.5, "ranked": "highest"}, "at most 1, not 1.5"),
        ({"groups": ["TP-"], "fraction": 0.5, "ranked": "best"}, "highest or lowest, not 'best'"),
        ({"groups": []}, "no neuron is in the groups"),
        ({"top": 0}, "top: 0 neurons are none"),
        ({"top": 1, "by": "size"}, "by cosine, reduction, .*, random, not by 'size'"),
        (
            {"top": 1, "of": "layers"},
            "of: should be one of neurons, heads, all, blocks, not 'layers'",
        ),
        ({"top": 1, "of": "heads", "by": "change"}, "no table of attention heads; attribute heads"),
        ({"heads": [[0, 1]]}, "no table of attention heads"),
        ({"modules": ["attention"]}, "no table of attention heads"),
        ({"modules": []}, r"modules: should be some of mlp, attention, key_values, not \[\]"),
        ({"modules": ["norm"]}, "modules: should be some of mlp, attention"),
        ({"top": 1, "by": "change"}, "table of neurons has no column 'change'; attribute neurons"),
        ({"top": 1, "layers": [1, 0]}, r"layers: .* counted 0 to 1, not \[1, 0\]"),
        ({"modules": ["mlp"], "layers": [0, 2]}, r"layers: .* counted 0 to 1, not \[0, 2\]"),
        ({"top": 1, "activated": "often"}, "positive or negative, not 'often'"),
        ({"neurons": []}, "neurons: no neuron is listed"),
        ({"neurons": [[0, 1], [1, 1], [0, 1]]}, "layer 0, neuron 1 is listed twice"),
        ({"neurons": [[0, 1], [1, 4], [2, 0]]}, "layer 1, neuron 4 is not in the table.* 0 to 3"),
        ({"neurons": [[0, 1], 5]}, r"expected pairs \[layer, neuron\], found 5"),
        ({"neurons": [[0, 1, 2]]}, r"found \[0, 1, 2\]"),
        ({"neurons": [[0, 1.0]]}, r"found \[0, 1.0\]"),
        ({"random": {"random": {"top": 1}, "seed": 0}, "seed": 0}, "random draw of a random draw"),
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


def test_top_by_reduction_and_ties_in_the_order_of_the_table(neurons):
    largest = select(neurons, {"top": 4, "by": "reduction"})
    assert pairs(largest) == [(1, 1), (0, 2), (0, 3), (1, 3)]
    positive = select(neurons, {"top": 2, "by": "reduction", "activated": "positive"})
    assert pairs(positive) == [(0, 3), (1, 3)]
    assert pairs(select(neurons, {"top": 1, "by": "cosine"})) == [(0, 2)]
    with pytest.raises(ValueError, match="no column 'reduction'; attribute neurons first"):
        select(neurons.drop(columns="reduction"), {"top": 1, "by": "reduction"})


def test_quadrants_need_no_tuned_model(neurons):
    neurons.loc[7, "cosine"] = 0.0  # of no direction, so in no quadrant
    base = neurons.drop(columns=["group", "reduction"])
    assert pairs(select(base, {"groups": ["TP"]})) == [(0, 0), (0, 3), (1, 0)]  # (0, 3): 0 counts
    assert pairs(select(base, {"groups": ["TN"]})) == [(0, 2), (1, 2)]
    assert pairs(select(base, {"groups": ["AP"]})) == [(0, 1)]
    assert pairs(select(base, {"groups": ["AN"]})) == [(1, 1)]
    assert len(select(base, {"groups": ["TP", "AN", "TN", "AP"]})) == 7
    with pytest.raises(ValueError, match=r"TP- needs a tuned model.* quadrants TP, AN, TN, AP"):
        select(base, {"groups": ["TP-"]})


def test_groups_that_overlap_give_each_neuron_once(neurons):
    assert pairs(select(neurons, {"groups": ["TP", "TP-", "TP-"]})) == [
        (0, 0),
        (0, 3),
        (1, 0),
        (1, 3),
    ]


def test_a_fraction_is_of_each_group_by_the_size_of_its_cosine(neurons):
    def part(fraction, ranked, *groups):
        chosen = {"groups": list(groups), "fraction": fraction, "ranked": ranked}
        return pairs(select(neurons, chosen))

    # TP-: cosines .5, .2, .3 of (0, 0), (0, 3), (1, 3). Half of three is rounded up.
    assert part(0.5, "highest", "TP-") == [(0, 0), (1, 3)]
    assert part(0.5, "lowest", "TP-") == [(0, 3), (1, 3)]
    assert part(0.01, "highest", "TP-") == [(0, 0)]
    assert part(0.01, "lowest", "TP-", "AP-", "TN+") == [(0, 1), (0, 2), (0, 3)]  # one of each
    assert part(1, "lowest", "TP-") == [(0, 0), (0, 3), (1, 3)]
    neurons["cosine"] = [
        -0.1,
        -0.1,
        -0.1,
        -0.1,
        -0.3,
        -0.8,
        -0.8,
        -0.1,
    ]  # of its size, not its sign
    assert part(0.5, "highest", "AP") == [(0, 0), (0, 1), (1, 0)]  # ties in the table's order
    assert part(0.5, "highest", "AN") == [(1, 1), (1, 2)]


def test_a_fraction_is_rounded_up_as_it_is_written():
    table = pd.DataFrame({"layer": 0, "neuron": range(30), "cosine": 0.5, "activation_base": 1.0})
    for fraction, expected in ((0.1, 3), (0.7, 21), (0.71, 22)):  # 0.1 * 30 > 3 in floating point
        chosen = select(table, {"groups": ["TP"], "fraction": fraction, "ranked": "highest"})
        assert len(chosen) == expected


def test_listed_neurons_come_in_their_order(neurons):
    neurons.index = range(20, 28)
    chosen = select(neurons, {"neurons": [[1, 3], [0, 0], (1, 1)]})
    assert pairs(chosen) == [(1, 3), (0, 0), (1, 1)]
    assert list(chosen["reduction"]) == [0.2, 0.1, 0.4]


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_neurons_of_a_file(neurons, tmp_path, name):
    table = pd.DataFrame({"neuron": [2, 1], "note": ["a", "b"], "layer": [1, 0]})
    path = tmp_path / name
    table.to_csv(path) if name.endswith("csv") else table.to_parquet(path)
    assert pairs(select(neurons, {"file": str(path)})) == [(1, 2), (0, 1)]
    random = select(neurons, {"random": {"file": str(path)}, "seed": 0})
    assert sorted(random["layer"]) == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("layer,index\n0,1\n", ", line 2: no field 'neuron'; there are layer, index"),
        ("layer,neuron\n0,1\n0,1\n", ": layer 0, neuron 1 is listed twice"),
        ("layer,neuron\n0,1\n7,1\n", ": layer 7, neuron 1 is not in the table"),
        ("layer,neuron\n0,1\n1,0,0.9\n", ", line 3: 3 fields, where the header has 2"),
        ("layer,neuron\n0,1,0.9\n1,0,0.8\n", ", line 2: 3 fields, where the header has 2"),
        *(
            (f"layer,neuron\n0,1\n1,{value}\n", ", line 3: the field 'neuron' should be a whole")
            for value in ("", "1.0", "1_0", " 1", "1e0", "NA", "True", "9" * 20, "\u0661")
        ),
        ("layer,neuron\n", ": no neuron is listed"),
        ("", ": no neuron is listed"),
    ],
)
def test_a_file_that_does_not_fit_is_named(neurons, tmp_path, content, message):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"mine\.csv{message}"):
        select(neurons, {"file": str(path)})


def test_a_file_that_is_no_table_is_named(neurons, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        select(neurons, {"file": str(tmp_path / "absent.csv")})
    (tmp_path / "broken.parquet").write_text("layer,neuron")
    with pytest.raises(ValueError, match=r"broken\.parquet: not a Parquet table, or a damaged one"):
        select(neurons, {"file": str(tmp_path / "broken.parquet")})
    pd.DataFrame({"layer": [0], "neuron": pd.array([None], "Int64")}).to_parquet(
        tmp_path / "gap.parquet"
    )
    with pytest.raises(ValueError, match=r"gap\.parquet: the column 'neuron' should hold whole"):
        select(neurons, {"file": str(tmp_path / "gap.parquet")})
    with pytest.raises(ValueError, match=r"mine\.txt: neurons are read from a \.csv or a"):
        select(neurons, {"file": "mine.txt"})


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


def test_random_draws_from_all_others_whatever_the_index():
    table = pd.DataFrame(
        {"layer": [0] * 4, "neuron": [0, 1, 2, 3], "cosine": [4.0, 3, 2, 1]}, index=[9, 8, 7, 6]
    )
    seen = {
        pair
        for seed in range(40)
        for pair in pairs(select(table, {"random": {"top": 1}, "seed": seed}))
    }
    assert seen == {(0, 1), (0, 2), (0, 3)}


def test_random_neurons_have_moved_as_far():
    """Of 100 neurons of a layer the fifths are cells, and five of the twenty in one are named."""
    table = pd.DataFrame({"layer": [0] * 100 + [1] * 10, "neuron": [*range(100), *range(10)]})
    order = np.random.default_rng(0).permutation(100)
    table["change"] = [*(order + 1.0), *range(10)]
    named = [[0, int(n)] for n in np.flatnonzero((order >= 40) & (order < 45))]
    for seed in range(5):
        one = select(table, {"random": {"neurons": named}, "seed": seed})
        assert len(one) == 5
        assert set(order[one["neuron"]]) <= set(range(45, 60))
    few = [[1, n] for n in (0, 1, 2)]  # of a layer that is too small for cells
    drawn = {
        n
        for seed in range(20)
        for _, n in pairs(select(table, {"random": {"neurons": few}, "seed": seed}))
    }
    assert drawn == set(range(3, 10))


def test_what_is_named_is_drawn_again_where_no_others_are_left():
    table = pd.DataFrame({"layer": [0] * 10, "neuron": range(10)})
    units = Units(table)
    like = {"neurons": [[0, n] for n in range(6)]}
    random = {"random": like, "seed": 3}
    drawn = selections.select(units, random).neurons["neuron"].tolist()
    assert len(drawn) == 6
    assert set(drawn) >= {6, 7, 8, 9}
    assert selections.drawn_again(units, random) == pytest.approx(2 / 6)
    assert selections.drawn_again(units, like) == 0
    few = {"random": {"neurons": [[0, 1]]}, "seed": 0}
    assert selections.drawn_again(units, few) == 0
    step = {"select": random, "operation": "zero"}
    assert plan_steps(units, [step, {"select": few, "operation": "zero"}], {}).overlap == 2 / 6


def test_the_table_is_left_as_it_was(neurons):
    before = neurons.copy()
    select(neurons, {"top": 3, "activated": "positive"})
    select(neurons, {"random": {"groups": ["TP-"]}, "seed": 1})
    pd.testing.assert_frame_equal(neurons, before)


@pytest.fixture
def units(neurons):
    heads = pd.DataFrame(
        {
            "layer": [0, 0, 1, 1],
            "head": [0, 1, 0, 1],
            "reduction": [0.25, -1.0, 0.35, 0.3],
            "change": [1.0, 2.0, 3.0, 4.0],
        }
    )
    return Units(neurons, heads, head_width=2)


def both(chosen):
    return pairs(chosen.neurons), list(
        zip(chosen.heads["layer"], chosen.heads["head"], strict=True)
    )


def test_heads_are_ranked_alone_and_with_neurons(units):
    def top(**selection):
        return both(selections.select(units, selection))

    assert top(top=3, of="heads", by="change") == ([], [(1, 1), (1, 0), (0, 1)])
    assert top(top=2, of="heads", by="reduction", layers=[0, 0]) == ([], [(0, 0), (0, 1)])
    assert top(top=5, of="all", by="reduction") == ([(1, 1), (0, 2), (0, 3)], [(1, 0), (1, 1)])
    assert top(top="all", of="all", by="reduction")[1] == [(1, 0), (1, 1), (0, 0), (0, 1)]
    assert top(top=1, layers=[1, 1]) == ([(1, 0)], [])
    with pytest.raises(ValueError, match="top: 13 was asked for, but there are 12 units"):
        top(top=13, of="all", by="reduction")
    with pytest.raises(ValueError, match="table of heads has no column 'reduction'"):
        selections.select(
            Units(units.neurons, units.heads.drop(columns="reduction")),
            {"top": 1, "of": "heads", "by": "reduction"},
        )


def test_listed_heads_and_whole_modules(units):
    def chosen(selection):
        return both(selections.select(units, selection))

    assert chosen({"heads": [[1, 1], [0, 0]]}) == ([], [(1, 1), (0, 0)])
    everything = (pairs(units.neurons), [(0, 0), (0, 1), (1, 0), (1, 1)])
    assert chosen({"modules": ["attention", "mlp"]}) == everything
    assert chosen({"modules": ["attention"], "layers": [1, 1]}) == ([], [(1, 0), (1, 1)])
    assert chosen({"modules": ["mlp"]}) == (everything[0], [])
    with pytest.raises(ValueError, match=r"heads: layer 1, head 2 is not in the table.*heads from"):
        chosen({"heads": [[1, 2]]})
    with pytest.raises(ValueError, match=r"heads: expected pairs \[layer, head\], found 3"):
        chosen({"heads": [3]})


def test_key_value_heads_are_selected_by_layer_and_drawn_at_random(units):
    places = pd.DataFrame({"layer": [0, 0, 1, 1], "key_value": [0, 1, 0, 1]})
    units = replace(units, key_values=places)

    def chosen(selection):
        found = selections.select(units, selection)
        assert both(found)[0] == []
        return both(found)[1], found.key_values.to_numpy().tolist()

    assert chosen({"key_values": [[1, 1], [0, 0]]}) == ([], [[1, 1], [0, 0]])
    both_kinds = {"modules": ["attention", "key_values"], "layers": [1, 1]}
    assert chosen(both_kinds) == ([(1, 0), (1, 1)], [[1, 0], [1, 1]])
    assert chosen({"modules": ["attention"]})[1] == []
    drawn = [chosen({"random": {"key_values": [[1, 0]]}, "seed": seed})[1] for seed in range(20)]
    assert {tuple(one) for (one,) in drawn} == {(1, 1)}
    with pytest.raises(ValueError, match="key_values: layer 1, key_value 2 is not in the table"):
        chosen({"key_values": [[1, 2]]})
    step = {"select": {"key_values": [[0, 0]]}, "operation": "zero"}
    with pytest.raises(ValueError, match=r"^\[0\]: key_values: keys and values are no inputs"):
        plan_steps(units, [step], {})


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"top": 2, "of": "heads"}, "^by: heads have no cosine"),
        ({"top": 2, "of": "all", "by": "cosine"}, "^by: heads have no cosine"),
        (
            {"top": 2, "of": "heads", "by": "change", "activated": "positive"},
            "^activated: a head is neither",
        ),
        (
            {"top": 2, "of": "all", "by": "reduction", "activated": "negative"},
            "^activated: a head is neither",
        ),
        ({"groups": ["TP-"], "of": "heads"}, "^groups: heads are in no groups"),
        ({"groups": ["TP-"], "modules": ["attention"]}, "^groups: heads are in no groups"),
    ],
)
def test_what_heads_do_not_have_is_refused_by_its_key(units, selection, message):
    with pytest.raises(ValueError, match=message):
        selections.select(units, selection)


def test_random_units_are_as_many_of_each_kind_in_every_layer(units):
    like = {"top": 5, "of": "all", "by": "reduction"}
    drawn = [selections.select(units, {"random": like, "seed": seed}) for seed in range(20)]
    for one in drawn:
        neurons, heads = both(one)
        assert sorted(layer for layer, _ in neurons) == [0, 0, 1]
        assert heads == [(1, 0), (1, 1)]
    assert len({tuple(pairs(one.neurons)) for one in drawn}) > 2
    heads = [
        both(selections.select(units, {"random": {"heads": [[0, 1]]}, "seed": seed}))
        for seed in range(20)
    ]
    assert {tuple(found[1]) for found in heads} == {((0, 0),)}  # the other one of its layer
    assert not any(neurons for neurons, _ in heads)
