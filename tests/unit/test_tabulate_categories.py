"""Toxicity and effect share by category of prompt, on numbers that are worked by hand."""

import numpy as np
import pandas as pd
import pytest
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.records import write_jsonl
from neurondynamics.data.tables import read_csv
from neurondynamics.study.behaviour import Behaviour
from tabulate_categories import tabulate_categories

STATES = {"ablation": "base", "tuned-baseline": "tuned"}
COLUMNS = """category n missing n_paired experiment intervention scorer state
    rudeness rudeness_low rudeness_high effect_share effect_share_low
    effect_share_high"""
CATEGORIES = ["threat", "", "insult", "threat", "insult", "threat"]
NAN = np.nan


def write_scores(folder, name, interventions):
    parts = [
        pd.DataFrame({"prompt_id": range(len(toxicity)), "score": toxicity}).assign(
            intervention=intervention, scorer="first"
        )
        for intervention, toxicity in interventions.items()
    ]
    table = pd.concat(parts).assign(experiment=name)
    other = table.assign(scorer="other", score=table["score"] / 2)
    pd.concat([table, other]).to_parquet(folder / f"{name}.parquet")


def tabulate(folder, states=STATES, scorer="first"):
    """Return the table, or the rows of one scorer."""
    tabulate_categories(
        scores=[folder / f"{name}.parquet" for name in states],
        prompts=folder / "prompts.jsonl",
        table=folder / "categories.csv",
        states=states,
        scorers=["first", "other"],
        behaviour=Behaviour("rudeness", "rude"),
        statistics=Statistics(samples=300, confidence=0.95, seed=0),
    )
    table = read_csv(folder / "categories.csv")
    return table if scorer is None else table.query("scorer == @scorer").reset_index(drop=True)


@pytest.fixture
def study(tmp_path):
    records = [{"prompt_id": i, "category": name} for i, name in enumerate(CATEGORIES)]
    write_jsonl(tmp_path / "prompts.jsonl", records)
    write_scores(
        tmp_path,
        "ablation",
        {
            # threat: prompts 0, 3, 5; (none): 1; insult: 2, 4
            "none": [0.9, 0.6, 0.4, 0.6, 0.2, 0.3],
            "edit": [0.3, 0.2, NAN, 0.6, 0.1, 0.3],
            "edit~random-1": [0.1] * 6,
        },
    )
    write_scores(tmp_path, "tuned-baseline", {"none": [0.0, 0.1, 0.6, 0.3, 0.3, 0.0]})
    return tmp_path


def test_every_category_has_every_intervention_that_is_no_control(study):
    table = tabulate(study)
    assert list(table) == COLUMNS.split()
    assert list(table["category"]) == ["(none)"] * 3 + ["insult"] * 3 + ["threat"] * 3
    assert list(table["intervention"]) == ["none", "edit", "none"] * 3
    assert list(table["experiment"]) == ["ablation", "ablation", "tuned-baseline"] * 3
    assert list(table["state"]) == ["base", "base", "tuned"] * 3
    assert list(table["n"]) == [1, 1, 1, 2, 1, 2, 3, 3, 3]
    both = tabulate(study, scorer=None)
    assert list(both["scorer"]) == ["first", "other"] * 9
    assert list(both["intervention"]) == np.repeat(table["intervention"], 2).tolist()
    np.testing.assert_allclose(both["rudeness"][1::2], table["rudeness"] / 2)


def test_statistics_are_those_of_the_category(study):
    table = tabulate(study).set_index(["category", "experiment", "intervention"])
    threat = table.loc[("threat", "ablation", "edit")]
    assert threat["rudeness"] == pytest.approx(0.4)
    assert threat["effect_share"] == pytest.approx((0.6 - 0.4) / (0.6 - 0.1))
    assert threat["rudeness_low"] == pytest.approx(0.3)  # three times .3 or .3
    assert threat["rudeness_high"] == pytest.approx(0.6)
    assert table.loc[("insult", "ablation", "none"), "rudeness"] == pytest.approx(0.3)


def test_a_category_of_one_prompt_has_no_intervals(study):
    table = tabulate(study).set_index(["category", "experiment", "intervention"])
    alone = table.loc[("(none)", "ablation", "edit")]
    assert alone["effect_share"] == pytest.approx(0.8)
    ends = alone[["rudeness_low", "rudeness_high", "effect_share_low", "effect_share_high"]]
    assert ends.isna().all()
    assert list(alone[["n", "missing", "n_paired"]]) == [1, 0, 1]


def test_a_category_that_tuning_does_not_change_has_no_effect_share(study):
    insult = tabulate(study).query("category == 'insult'")
    assert insult["effect_share"].isna().all()  # base .3, tuned .45
    write_scores(study, "ablation", {"none": [NAN] * 6})
    table = tabulate(study)
    assert (table.query("state == 'base'")["n"] == 0).all()
    assert table.query("state == 'base'")[["rudeness", "effect_share"]].isna().all(axis=None)


def test_studies_without_experiments_or_a_tuned_model(study):
    assert tabulate(study, {}).empty
    table = tabulate(study, {"ablation": "base"})
    assert table["effect_share"].isna().all()
    assert table["rudeness"].notna().sum() == 6


def test_a_score_of_an_unknown_prompt_is_refused(study):
    write_scores(study, "ablation", {"none": [0.5] * 7})
    with pytest.raises(ValueError, match=r"prompts\.jsonl: prompt 6 was scored, but is not in"):
        tabulate(study)
