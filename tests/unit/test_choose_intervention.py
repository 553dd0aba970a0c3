"""Which candidate a search chooses, and what it writes about it."""

import json

import numpy as np
import pandas as pd
import pytest
from choose_intervention import choose_intervention
from neurondynamics.evaluation.metrics import MEASURES

NAN = np.nan
UNMEASURED = dict.fromkeys(MEASURES, NAN)


@pytest.fixture
def choose(tmp_path):
    """Return a search over {intervention: (toxicities, perplexity)} within 1.5 of `none`."""

    def search(interventions, perplexity=1.5):
        scores, measures, losses = [], [], []
        for name, (toxicity, candidate_perplexity) in interventions.items():
            prompts = pd.DataFrame({"prompt_id": range(len(toxicity))}).assign(intervention=name)
            scores.append(prompts.assign(score=toxicity))
            for corpus, rows, measured in (
                ("prompts", prompts, {"repetition": 0.25}),
                ("articles", prompts.head(1), {"f1": 0.5}),
            ):
                measures.append(rows.assign(corpus=corpus, **UNMEASURED | measured))
            losses.append(
                pd.DataFrame({"nll": [4 * np.log(candidate_perplexity)], "tokens": [4]}).assign(
                    intervention=name, window=0, neurons=3, heads=0
                )
            )
        for kind, tables in (("scores", scores), ("measures", measures), ("losses", losses)):
            table = pd.concat(tables) if tables else pd.DataFrame()
            table.assign(experiment="search").to_parquet(tmp_path / f"{kind}.parquet")
        paths = [[str(tmp_path / f"{kind}.parquet")] for kind in ("scores", "measures", "losses")]
        choose_intervention(*paths, str(tmp_path / "c.json"), "search", perplexity=perplexity)
        return json.loads((tmp_path / "c.json").read_text())

    return search


NONE = ([0.8, 0.6], 10)


def test_the_least_toxic_within_the_limit(choose):
    found = choose(
        {
            "weak": ([0.7, 0.5], 11),
            "none": NONE,
            "good": ([0.4, 0.3], 14.9),
            "wrecked": ([0.0, 0.1], 15.1),
        }
    )
    assert found["intervention"] == "good"
    assert found["within_limit"] is True
    assert found["limit"] == pytest.approx(15)
    assert found["prompts"] == 2
    assert found["unedited"]["perplexity"] == pytest.approx(10)
    candidates = {one["intervention"]: one for one in found["candidates"]}
    assert list(candidates) == ["weak", "good", "wrecked"]
    assert [one["within_limit"] for one in candidates.values()] == [True, True, False]
    assert candidates["wrecked"]["score"] == pytest.approx(0.05)
    assert candidates["good"]["perplexity"] == pytest.approx(14.9)
    assert candidates["good"]["repetition"] == pytest.approx(0.25)


def test_the_unedited_model_is_no_candidate(choose):
    assert choose({"none": ([0.1], 10), "worse": ([0.9], 10)})["intervention"] == "worse"


def test_the_limit_itself_is_within_it(choose):
    found = choose({"none": ([0.5], 1), "at": ([0.2], 1), "above": ([0.1], 1.01)}, perplexity=1)
    assert found["intervention"] == "at"


def test_toxicity_is_compared_on_the_prompts_that_all_within_the_limit_have(choose):
    found = choose(
        {
            "none": ([0.9, 0.9, 0.9, NAN], 10),
            "first": ([0.1, 0.5, NAN, 0.9], 10),  # .3 on prompts 0 and 1
            "second": ([0.2, 0.3, 0.9, 0.9], 10),  # .25 there, and more on the others
            "mute": ([NAN] * 4, 99),
        }
    )
    assert found["intervention"] == "second"
    assert found["prompts"] == 2
    toxicities = [one["score"] for one in found["candidates"]]
    assert toxicities == [pytest.approx(0.3), pytest.approx(0.25), None]


def test_the_first_of_equals(choose):
    found = choose({"none": NONE, "a": ([0.3, 0.2], 12), "b": ([0.2, 0.3], 11)})
    assert found["intervention"] == "a"


def test_without_one_within_the_limit_the_most_fluent_is_chosen(choose, caplog):
    found = choose({"none": NONE, "a": ([0.1, 0.1], np.inf), "b": ([0.7, 0.7], 20)})
    assert (found["intervention"], found["within_limit"]) == ("b", False)
    assert found["candidates"][0]["perplexity"] is None  # JSON has no infinity
    assert "no candidate keeps perplexity within 15; b has the lowest, 20" in caplog.text


@pytest.mark.parametrize(
    ("interventions", "message"),
    [
        ({"a": NONE, "b": NONE}, "search: a search needs the intervention 'none'.* a, b"),
        ({"none": NONE}, r"candidates beside it; there are none"),
        ({"none": ([0.5], np.inf), "a": ([0.5], 10)}, "search: the perplexity of 'none'"),
        ({"none": ([0.5, NAN], 10), "a": ([NAN, 0.5], 10)}, "no prompt has a score under all of"),
    ],
)
def test_a_search_that_cannot_be_decided_is_refused(choose, interventions, message):
    with pytest.raises(ValueError, match=message):
        choose(interventions)
