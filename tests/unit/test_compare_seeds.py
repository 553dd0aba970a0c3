"""What is said of several tuning seeds: their spread, and how far they agree on the neurons."""

import itertools

import numpy as np
import pandas as pd
import pytest
from compare_seeds import (
    chance_overlap,
    chance_same_group,
    compare_seeds,
    overlap_of_seeds,
    spread_over_seeds,
)
from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.analysis.reductions import create_reductions
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.tables import read_csv
from summarize_groups import summarize_groups

STATISTICS = Statistics(samples=200, confidence=0.95, seed=0)


def make_neurons(reduction, group, cosine=1.0, activation_base=1.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": 0,
            "neuron": np.arange(len(reduction)),
            "cosine": cosine,
            "activation_base": activation_base,
            "reduction": reduction,
            "group": group,
        }
    )


@pytest.fixture
def versions(tmp_path):
    """Attributions of 120 neurons by three seeds: one group a neuron, in turn."""
    rng = np.random.default_rng(0)
    groups = np.arange(120) % 8
    paths = {"groups": [], "reductions": [], "neurons": []}
    for seed in range(3):
        by_prompt = rng.normal(size=(10, 120)) + (groups < 4)  # the first four groups reduce
        sums = by_prompt @ np.eye(len(GROUPS))[groups]  # (prompts, groups)
        folder = tmp_path / str(seed)
        folder.mkdir()
        with create_reductions(folder / "reductions.h5", *sums[:, None].shape[:2]) as datasets:
            for dataset in datasets:
                dataset[:] = sums[:, None]
        neurons = make_neurons(by_prompt.mean(axis=0), np.array(GROUPS)[groups])
        neurons.to_parquet(folder / "neurons.parquet")
        files = [str(folder / name) for name in ("reductions.h5", "neurons.parquet", "groups.csv")]
        summarize_groups(*files, STATISTICS)
        for kind, path in zip(("reductions", "neurons", "groups"), files, strict=True):
            paths[kind].append(path)
    return paths


def compare(versions, folder, seeds=(0, 5, 9)):
    tables = [folder / "seeds.csv", folder / "overlap.csv"]
    compare_seeds(
        **versions,
        seeds_table=str(tables[0]),
        overlap_table=str(tables[1]),
        seeds=list(seeds),
        statistics=STATISTICS,
    )
    return [read_csv(table) for table in tables]


def test_spread_by_hand():
    """Values 1, 2, 6: mean 3, variance (4 + 1 + 9) / 2 = 7. Widths 2, 4, 6: mean 4, half is 2."""
    measured = pd.DataFrame(
        {
            "statistic": "share_gross",
            "part": "TP-",
            "seed": [0, 7, 3],
            "value": [1.0, 2.0, 6.0],
            "low": [0.0, 1.0, 1.0],
            "high": [2.0, 5.0, 7.0],
        }
    )
    (row,) = spread_over_seeds(measured, confidence=0.6826894921370859).to_dict("records")
    assert row == {
        "statistic": "share_gross",
        "part": "TP-",
        "seeds": 3,
        "mean": 3,
        "deviation_between": pytest.approx(np.sqrt(7)),
        "minimum": 1,
        "maximum": 6,
        "deviation_within": pytest.approx(2),  # that confidence is one standard deviation
        "seed_0": 1, "seed_0_low": 0, "seed_0_high": 2,
        "seed_7": 2, "seed_7_low": 1, "seed_7_high": 5,
        "seed_3": 6, "seed_3_low": 1, "seed_3_high": 7,
    }  # fmt: skip


def test_chance_overlap_by_hand():
    """Of 4 neurons, two pairs share 0, 1 or 2 with probability 1/6, 4/6, 1/6: overlaps 0, 1/3, 1"""
    assert chance_overlap(2, 4) == pytest.approx(4 / 6 / 3 + 1 / 6)
    assert chance_overlap(1, 10) == pytest.approx(1 / 10)
    assert chance_overlap(3, 4) == pytest.approx(0.75 * 2 / 4 + 0.25)  # two are shared at least


def test_chance_overlap_of_many_neurons_is_what_random_sets_have():
    rng = np.random.default_rng(0)
    first = set(range(1000))
    drawn = [set(rng.choice(5000, 1000, replace=False).tolist()) for _ in range(200)]
    overlaps = [len(first & other) / len(first | other) for other in drawn]
    assert chance_overlap(1000, 5000) == pytest.approx(np.mean(overlaps), abs=2e-3)


def test_overlap_by_hand():
    """The first 100 of 400 neurons are best for one seed, 50 of them and 50 more for the second.

    The third shares those 50 more with the second. Jaccard: 50 / 150, 0 and 50 / 150.
    """
    best = [range(100), range(50, 150), range(100, 200)]
    tables = [make_neurons(np.isin(np.arange(400), one) * 1.0, "TP-") for one in best]
    table = overlap_of_seeds(tables)
    row = table.iloc[0]
    assert row["statistic"] == "jaccard"
    assert (row["neurons"], row["pairs"]) == (100, 3)
    assert row["value"] == pytest.approx(2 / 9)
    assert (row["minimum"], row["maximum"]) == (0, pytest.approx(1 / 3))
    assert table["statistic"].tolist() == ["jaccard", "spearman", "same_group"]  # 1000 > 400


def test_rank_correlation_by_hand():
    """Ranks 1 2 3 4 and 1 2 4 3: 1 − 6 · 2 / (4 · 15) = 0.8; a reversed order has −1."""
    tables = [make_neurons(np.array(values), "TP-") for values in ([0, 1, 5, 90.0], [-7, 0, 9, 8])]
    row = overlap_of_seeds(tables).set_index("statistic").loc["spearman"]
    assert row["value"] == pytest.approx(0.8)
    assert row["neurons"] == 4
    tables[1]["reduction"] = -(tables[0]["reduction"] ** 3)
    assert overlap_of_seeds(tables)["value"][0] == pytest.approx(-1)


def test_same_group_by_hand():
    """TP: − − − + against − − + +, AN: + + against + −.

    Same: 3 of 4 and 1 of 2. By chance: TP 3/4 · 2/4 + 1/4 · 2/4 = 1/2 of 4, AN 1/2 of 2.
    """
    signs = {
        "cosine": np.array([1] * 4 + [-1] * 2),
        "activation_base": np.array([0] * 4 + [-1] * 2),
    }
    first = make_neurons(np.zeros(6), ["TP-", "TP-", "TP-", "TP+", "AN+", "AN+"], **signs)
    second = make_neurons(np.zeros(6), ["TP-", "TP-", "TP+", "TP+", "AN+", "AN-"], **signs)
    row = overlap_of_seeds([first, second]).set_index("statistic").loc["same_group"]
    assert row["value"] == pytest.approx(4 / 6)
    assert row["chance"] == pytest.approx(3 / 6)
    assert chance_same_group(first, first) == pytest.approx((4 * (9 + 1) / 16 + 2) / 6)


def test_tables_hold_what_the_seeds_have(versions, tmp_path):
    seeds, overlap = compare(versions, tmp_path)
    rows = seeds.set_index(["statistic", "part"])
    assert len(seeds) == len(rows.index.unique()) == 3 * len(GROUPS) + 2
    for name, path in zip(("seed_0", "seed_5", "seed_9"), versions["groups"], strict=True):
        groups = read_csv(path).set_index("group")
        for statistic, end in itertools.product(
            ("share_gross", "share_net", "reduction"), ("", "_low")
        ):
            pd.testing.assert_series_equal(
                rows.loc[statistic][name + end].loc[list(GROUPS)],
                groups[statistic + end],
                check_names=False,
            )
        assert rows.loc[("reduction", "gross"), name] == pytest.approx(
            groups["reduction"][:4].sum()
        )
        assert rows.loc[("reduction", "net"), name] == pytest.approx(groups["reduction"].sum())
        net = rows.loc[("reduction", "net")]
        assert net[f"{name}_low"] < net[name] < net[f"{name}_high"]
    assert overlap["neurons"].tolist() == [100, 120, 120]
    assert overlap["value"].between(overlap["minimum"], overlap["maximum"]).all()


def test_the_same_seed_twice_agrees_with_itself(versions, tmp_path):
    twice = {kind: [paths[0]] * 2 for kind, paths in versions.items()}
    seeds, overlap = compare(twice, tmp_path, seeds=(0, 1))
    assert (seeds["deviation_between"] == 0).all()
    assert overlap["value"].tolist() == pytest.approx([1, 1, 1])
    assert overlap["chance"][0] < 1


def test_one_seed_is_refused(versions, tmp_path):
    alone = {kind: paths[:1] for kind, paths in versions.items()}
    with pytest.raises(ValueError, match="two of them"):
        compare(alone, tmp_path, seeds=(0,))


def test_tables_of_other_neurons_are_refused(versions, tmp_path):
    path = versions["neurons"][1]
    pd.read_parquet(path).iloc[::-1].to_parquet(path)
    with pytest.raises(ValueError, match=r"1/neurons\.parquet and .* same neurons"):
        compare(versions, tmp_path)
    assert not (tmp_path / "seeds.csv").exists()
