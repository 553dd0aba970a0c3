"""Published numbers beside measured ones, on numbers that are worked by hand."""

import pandas as pd
import pytest
from neurondynamics.data.tables import read_csv
from neurondynamics.study.behaviour import Behaviour
from tabulate_published import tabulate_published

PUBLISHED = {
    "source": "table 1",
    "scorer": "Perspective API",
    "interventions": {
        "ablation": {
            "none": {"score": 0.453, "perplexity": 21.70, "f1": 0.193},
            "ablate-100": {"score": 0.403},
        },
    },
    "groups": {"TP-": {"neurons": 3961, "reduction": 15.11, "share": 0.3182}},
}


def tabulate(folder, published=PUBLISHED):
    rows = [
        ("ablation", "none", "words", 0.40, 0.35, 0.45, 20.0, 0.20),
        ("ablation", "none", "network", 0.50, 0.45, 0.55, 20.0, 0.20),
        ("ablation", "ablate-100", "words", 0.38, 0.33, 0.43, 20.5, 0.19),
        ("ablation", "ablate-100", "network", 0.47, 0.42, 0.52, 20.5, 0.19),
        ("other", "none", "words", 0.10, 0.05, 0.15, 30.0, 0.10),
    ]
    names = ["experiment", "intervention", "scorer", "sadness", "sadness_low", "sadness_high"]
    measured = pd.DataFrame(rows, columns=[*names, "perplexity", "f1"])
    measured.to_csv(folder / "interventions.csv", index=False)
    groups = pd.DataFrame(
        {
            "group": ["AN-", "TP-"],
            "neurons": [5, 4000],
            **{"reduction": [1.0, 16.0], "reduction_low": [0.5, 15.0], "reduction_high": [2, 17]},
            **{"share_gross": [0.1, 0.3], "share_gross_low": [0, 0.28]},
            "share_gross_high": [0.2, 0.33],
        }
    )
    groups.to_csv(folder / "groups.csv", index=False)
    tabulate_published(
        interventions=folder / "interventions.csv",
        groups=folder / "groups.csv",
        table=folder / "published.csv",
        published=published,
        behaviour=Behaviour("sadness", "sad"),
    )
    return read_csv(folder / "published.csv").set_index(["section", "item", "measure"])


def test_a_published_score_stands_beside_that_of_every_scorer(tmp_path):
    table = tabulate(tmp_path)
    scores = table.loc[("ablation", "none", "sadness")].set_index("scorer")
    assert list(scores.index) == ["words", "network"]
    assert (scores["published"] == 0.453).all()
    assert (scores["published_scorer"] == "Perspective API").all()
    assert scores.loc["network", ["measured", "measured_low", "measured_high"]].tolist() == [
        *(0.5, 0.45, 0.55)
    ]
    assert scores["difference"].tolist() == pytest.approx([-0.053, 0.047])


def test_fluency_and_groups_stand_once_with_the_intervals_they_have(tmp_path):
    table = tabulate(tmp_path)
    assert len(table) == 2 + 1 + 1 + 2 + 3
    (perplexity,) = table.loc[[("ablation", "none", "perplexity")]].itertuples()
    assert (perplexity.published, perplexity.measured) == (21.7, 20.0)
    assert pd.isna(perplexity.measured_low)
    assert perplexity.scorer == ""
    share = table.loc[("groups", "TP-", "share")]
    assert share[["measured", "measured_low", "measured_high"]].tolist() == [0.3, 0.28, 0.33]
    assert share["difference"] == pytest.approx(0.3 - 0.3182)
    neurons = table.loc[("groups", "TP-", "neurons")]
    assert (neurons["published"], neurons["measured"]) == (3961, 4000)


def test_a_row_that_was_not_measured_is_named(tmp_path):
    published = {"source": "x", "interventions": {"ablation": {"ablate-1": {"f1": 0.1}}}}
    with pytest.raises(ValueError, match=r"published\.interventions\.ablation\.ablate-1: "):
        tabulate(tmp_path, published)
