"""Rankings of units: their curves, areas and distances by hand, and what a study makes of them."""

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from neurondynamics.analysis.rankings import Ranked, areas_of, curve_of, summary
from neurondynamics.analysis.statistics import Estimate, Statistics
from neurondynamics.data.tables import read_csv
from neurondynamics.interventions.selection import select
from neurondynamics.interventions.units import Units
from neurondynamics.study.rankings import curves, sizes, with_rankings
from tabulate_rankings import tabulate_rankings

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
STATISTICS = Statistics(samples=200, confidence=0.9, seed=0)
UNEDITED = np.array([1.0, 3.0])  # of two texts


def ranked(*shares, parts=(0.1, 0.5, 1.0), noise=1e-6):
    """What is measured where every text comes as near."""
    kl = UNEDITED[:, None] * (1 - np.array(shares))
    return Ranked(np.array(parts), kl, UNEDITED, np.full(2, noise))


def test_areas_are_trapezoids_from_nothing_to_all():
    found = areas_of(ranked(0.2, 0.6, 1.0), STATISTICS)
    linear = 0.1 * 0.1 + 0.4 * 0.4 + 0.5 * 0.8
    assert found["cpr"].value == pytest.approx(linear)
    assert found["cmd"].value == pytest.approx(1 - linear)  # the curve is nowhere above 1
    logarithmic = (np.log10(5) * 0.4 + np.log10(2) * 0.8) / np.log10(10)
    assert found["cpr_log"].value == pytest.approx(logarithmic)
    assert found["cmd_log"].value == pytest.approx(1 - logarithmic)
    for area in found.values():
        assert area.low == pytest.approx(area.value) == pytest.approx(area.high)


def test_what_goes_too_far_counts_as_distance():
    found = areas_of(ranked(1.2, 1.2, 1.2), STATISTICS)
    assert found["cpr_log"].value == pytest.approx(1.2)
    assert found["cmd_log"].value == pytest.approx(0.2)


def test_a_curve_has_its_interval_over_texts():
    one = ranked(0.2, 0.6, 1.0)
    one = one._replace(kl=one.kl + np.array([[0.5, 0.1, 0.0], [0.0, 0.0, 0.0]]))
    found = curve_of(one, STATISTICS)
    np.testing.assert_allclose(found.value, 1 - one.kl.mean(0) / 2)
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    assert found.low[2] == found.high[2] == 1


def test_without_a_way_nothing_is_said():
    same = ranked(0.2, 0.6, 1.0, noise=0.3)
    assert np.isnan(curve_of(same, STATISTICS).value).all()
    assert all(np.isnan(area.value) for area in areas_of(same, STATISTICS).values())
    nothing = summary(curve_of(same, STATISTICS), same.parts, np.array([1, 2, 3]))
    assert nothing["units_50"] is None
    assert nothing["units_greatest"] is None
    assert np.isnan(nothing["greatest"])


def test_a_number_is_reached_where_its_interval_lies_above():
    value = np.array([0.4, 0.9, 0.85])
    curve = Estimate(value, value - 0.2, value + 0.2)
    found = summary(curve, np.array([0.1, 0.5, 1.0]), np.array([3, 20, 44]))
    assert (found["units_50"], found["weights_50"]) == (20, 0.5)
    assert (found["units_80"], found["weights_80"]) == (None, None)
    assert (found["greatest"], found["units_greatest"]) == (0.9, 20)


@pytest.fixture
def units():
    """Four neurons of two weights, two heads of four and one key/value head of four."""
    neurons = pd.DataFrame(
        {"layer": 0, "neuron": range(4), "parameters": 2, "gradient_transplant": [4.0, -1, 3, 1],
         "weight_change": [4.0, 1, 3, 1]}
    )  # fmt: skip
    heads = pd.DataFrame(
        {"layer": 0, "head": range(2), "parameters": 4, "gradient_transplant": [7.0, 2],
         "weight_change": [5.0, 2]}
    )  # fmt: skip
    shared = pd.DataFrame(
        {"layer": 0, "key_value": [0], "parameters": 4, "gradient_transplant": [9.0],
         "weight_change": [8.0]}
    )  # fmt: skip
    return Units(neurons, heads, key_values=shared)


def chosen(units, **selection):
    found = select(units, selection)
    return tuple(
        [] if table is None else table[column].tolist()
        for table, column in (
            (found.neurons, "neuron"), (found.heads, "head"), (found.key_values, "key_value"),
        )
    )  # fmt: skip


def test_blocks_are_ranked_by_what_a_weight_is_worth(units):
    by = {"of": "blocks", "by": "gradient_transplant"}  # per weight 2, 1.5, .5, 1.75, .5, 2.25
    assert chosen(units, top=1, **by) == ([], [], [0])
    assert chosen(units, top=3, **by) == ([0], [0], [0])
    assert chosen(units, top=4, **by) == ([0, 2], [0], [0])
    # 20 weights: of half of them the first three, whose weights are 10, and of 40 % the first two
    assert chosen(units, top="50%", **by) == ([0], [0], [0])
    assert chosen(units, top="40%", **by) == ([0], [], [0])
    assert chosen(units, top="1%", **by) == ([], [], [0])
    assert chosen(units, top="100%", **by) == chosen(units, top="all", **by)
    # a norm is a root: 2.83, .71, 2.12 and .71 of neurons, 2.5 and 1 of heads, 4 of the last
    assert chosen(units, top=3, of="blocks", by="weight_change") == ([0], [0], [0])
    assert chosen(units, top=4, of="blocks", by="weight_change") == ([0, 2], [0], [0])


def test_a_part_of_one_kind_is_one_of_its_number(units):
    by = {"by": "gradient_transplant"}
    assert chosen(units, top="50%", **by)[0] == [0, 2]
    assert chosen(units, top="60%", **by)[0] == [0, 2]  # 2.4
    assert chosen(units, top="1%", of="heads", **by)[1] == [0]


def test_random_ones_are_nested(units):
    draws = [chosen(units, top=n, of="blocks", by="random", seed=3) for n in range(1, 8)]
    for few, more in itertools.pairwise(draws):
        assert all(set(a) <= set(b) for a, b in zip(few, more, strict=True))
    others = {str(chosen(units, top=3, of="blocks", by="random", seed=n)) for n in range(9)}
    assert len(others) > 1


@pytest.mark.parametrize("of", ["neurons", "blocks"])
def test_what_was_not_measured_is_refused(units, of):
    lacking = replace(units, neurons=units.neurons.drop(columns="gradient_transplant"))
    with pytest.raises(ValueError, match="no column 'gradient_transplant'; set `gradients`"):
        select(lacking, {"top": 1, "of": of, "by": "gradient_transplant"})
    units.neurons["change"] = units.heads["change"] = 1.0
    with pytest.raises(ValueError, match="key/value heads has no column 'change'"):
        select(units, {"top": 1, "of": "blocks", "by": "change"})


def test_rankings_are_an_experiment_of_their_own():
    config = copy.deepcopy(DEFAULT)
    config["rankings"]["percent"] = [50, 0.5]
    made = with_rankings(config)["experiments"]["rankings"]
    assert sizes(config) == ["0.5%", "50%", "100%"]
    assert len(made["interventions"]) == 3 * len(curves(config))
    assert made["interventions"]["patch-neurons-reduction-0.5%"] == [
        {
            "select": {"top": "0.5%", "of": "neurons", "by": "reduction"},
            "operation": "patch",
            "mode": "paired",
        }
    ]
    assert made["interventions"]["transplant-blocks-random-100%"] == [
        {
            "select": {"top": "100%", "of": "blocks", "by": "random", "seed": 0},
            "operation": "transplant",
        }
    ]
    assert "rankings" not in config["experiments"]
    config["rankings"] = None
    del config["rankings"]
    assert with_rankings(config) == config


def test_the_tables_of_rankings(tmp_path):
    by_name = {  # neurons, heads, key/value heads, and kl of two texts
        "transplant-blocks-weight_change-10%": (1, 0, 0, [0.9, 2.7]),
        "transplant-blocks-weight_change-100%": (4, 2, 1, [0.1, 0.3]),
        "patch-neurons-random-10%": (1, 0, 0, [1.1, 3.3]),
        "patch-neurons-random-100%": (4, 0, 0, [0.5, 1.5]),
    }
    table = pd.DataFrame(
        [
            {"intervention": name, "prompt_id": text, "neurons": n, "heads": h, "key_values": k,
             "kl": kl[place], "kl_unedited": UNEDITED[place], "kl_noise": 1e-7}
            for name, (n, h, k, kl) in by_name.items()
            for place, text in enumerate([7, 2])
        ]
    )  # fmt: skip
    table.sample(frac=1, random_state=1).to_parquet(tmp_path / "fidelity.parquet")
    modules = ["mlp"] * 4 + ["attention"] * 2 + ["key_values"]
    units = pd.DataFrame({"module": modules, "parameters": [2] * 4 + [4] * 3})
    units.to_parquet(tmp_path / "units.parquet")
    tabulate_rankings(
        [str(tmp_path / "fidelity.parquet")],
        *(str(tmp_path / name) for name in ("units.parquet", "table.csv", "curves.csv")),
        ranked={
            "curves": [
                {"operation": "patch", "of": "neurons", "by": "random"},
                {"operation": "transplant", "of": "blocks", "by": "weight_change"},
            ],
            "sizes": ["10%", "100%"],
        },
        statistics=STATISTICS,
    )
    curve = read_csv(tmp_path / "curves.csv")
    assert curve["units"].tolist() == [1, 4, 1, 7]
    assert curve["weights"].tolist() == pytest.approx([0.25, 1, 0.1, 1])
    assert curve["kl_share"].tolist() == pytest.approx([-0.1, 0.5, 0.1, 0.9])
    best = read_csv(tmp_path / "table.csv")
    assert best["operation"].tolist() == ["transplant", "patch"]
    assert best["units_80"].tolist()[0] == 7
    assert best["units_80"].isna().tolist() == [False, True]
    assert best["cpr_log"].tolist() == pytest.approx([0.5, 0.2])
    assert (best["n"] == 2).all()
