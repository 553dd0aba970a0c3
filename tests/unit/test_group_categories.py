"""Shares of groups by category of prompt, worked by hand."""

import numpy as np
import pytest
from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.analysis.nulls import KINDS, Null, write_nulls
from neurondynamics.analysis.reductions import create_reductions
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.records import write_jsonl
from neurondynamics.data.tables import read_csv
from tabulate_group_categories import tabulate_group_categories

STATISTICS = Statistics(samples=200, confidence=0.9, seed=0)
CATEGORIES = ["threat", "insult", "threat", "insult"] * 5 + [""]
SHARES = {"threat": [6.0, 2.0, 1.0, 1.0], "insult": [2.0, 6.0, 1.0, 1.0], "": [1.0, 1.0, 1.0, 1.0]}


@pytest.fixture
def tabulate(tmp_path):
    def run(categories=CATEGORIES):
        reduction = np.zeros((len(CATEGORIES), 2, len(GROUPS)))
        for prompt, category in enumerate(CATEGORIES):
            reduction[prompt, 1, :4] = np.array(SHARES[category]) * (prompt + 1)
            reduction[prompt, 0, 5] = -9.0  # what increases is no part of it
        with create_reductions(tmp_path / "reductions.h5", *reduction.shape[:2]) as datasets:
            for dataset in datasets:
                dataset[:] = reduction
        draws = np.ones((3, *reduction.shape))
        write_nulls(tmp_path / "nulls.h5", dict.fromkeys(KINDS, Null(draws, np.ones((3, 3)))))
        lines = [
            {"prompt_id": n, "text": f"t{n}", "category": category}
            for n, category in enumerate(categories)
        ]
        write_jsonl(tmp_path / "prompts.jsonl", lines)
        names = ("reductions.h5", "nulls.h5", "prompts.jsonl", "table.csv")
        tabulate_group_categories(*(str(tmp_path / n) for n in names), statistics=STATISTICS)
        return read_csv(tmp_path / "table.csv").set_index(["category", "group"])

    return run


def test_shares_are_those_of_a_category_s_prompts(tabulate):
    table = tabulate()
    assert table.loc["threat", "share_gross"].tolist() == pytest.approx([0.6, 0.2, 0.1, 0.1])
    assert table.loc["insult", "share_gross"].tolist() == pytest.approx([0.2, 0.6, 0.1, 0.1])
    assert table.loc["(none)", "share_gross"].tolist() == pytest.approx([0.25] * 4)
    assert table["n"].tolist() == [1] * 4 + [10] * 8
    row = table.loc[("threat", "TP-")]
    assert (row["null_value"], row["null_low"], row["null_high"]) == (0.25, 0.25, 0.25)
    assert row["difference"] == pytest.approx(0.35)
    assert row["difference_low"] == pytest.approx(0.35)  # every prompt of it has the same shares
    # of the others, insults with 2 of 10 times 2, 4, ... 20 and one prompt with 1 of 4 times 21
    assert row["others_difference"] == pytest.approx(0.6 - (2 * 110 + 21) / (10 * 110 + 4 * 21))
    assert row["others_difference_low"] < row["others_difference"] < row["others_difference_high"]
    assert np.isnan(table.loc[("(none)", "TP-"), "others_difference"])


def test_other_prompts_are_refused(tabulate):
    with pytest.raises(ValueError, match=r"has 21 prompts, .* 21 and .* 3; attribute the neurons"):
        tabulate(CATEGORIES[:3])
