"""Names of controls, and statistics that compare interventions prompt by prompt."""

import numpy as np
import pandas as pd
import pytest
from neurondynamics.analysis.effects import Control, Effects, parse_control
from neurondynamics.analysis.statistics import Statistics

NAN = np.nan
STATISTICS = Statistics(samples=400, confidence=0.9, seed=3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", None),
        ("patch-random-1", None),
        ("patch-TP-~random-1", Control("patch-TP-", "random", 1)),
        ("x~signs-12", Control("x", "signs", 12)),
    ],
)
def test_names_of_controls(name, expected):
    assert parse_control(name) == expected


@pytest.mark.parametrize(
    "name", ["x~other-1", "x~random", "x~random-1b", "~random-1", "x~y~signs-1"]
)
def test_a_name_that_only_looks_like_a_control_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is no name of a control"):
        parse_control(name)


def effects(states=None, **columns):
    """Lay out columns named experiment__intervention."""
    table = pd.DataFrame({tuple(name.split("__")): scores for name, scores in columns.items()})
    return Effects(table, states or {"b": "base", "t": "tuned"}, STATISTICS)


def resampled(n, statistic, samples=400, seed=3):
    """Return the 90 % ends of statistic(rows) by drawing rows one resample at a time."""
    generator = np.random.default_rng(seed)
    rows = [np.repeat(np.arange(n), generator.multinomial(n, [1 / n] * n)) for _ in range(samples)]
    draws = np.sort([statistic(chosen) for chosen in rows])
    # The 5 % tails of 400 sorted draws begin at places 19.95 and 379.05, rounded outward.
    return draws[19], draws[380]


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    base = generator.uniform(0.4, 0.8, size=40)
    return {
        "base": base,
        "tuned": generator.uniform(0.0, 0.2, size=40),
        "edit": base * generator.uniform(0.2, 0.9, size=40),
        "one": base * generator.uniform(0.5, 1.0, size=40),
        "two": base * generator.uniform(0.7, 1.2, size=40),
    }


def test_every_statistic_equals_a_plain_bootstrap(scores):
    base, tuned, edit = scores["base"], scores["tuned"], scores["edit"]
    row = effects(b__none=base, t__none=tuned, b__edit=edit).estimate_all().loc[("b", "edit")]

    def share(rows):
        return (base[rows].mean() - edit[rows].mean()) / (base[rows].mean() - tuned[rows].mean())

    for name, statistic in {
        "score": lambda rows: edit[rows].mean(),
        "difference_none": lambda rows: (edit - base)[rows].mean(),
        "difference_tuned": lambda rows: (edit - tuned)[rows].mean(),
        "effect_share": share,
    }.items():
        assert row[name] == pytest.approx(statistic(np.arange(40)), abs=1e-12)
        low, high = resampled(40, statistic)
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((low, high), abs=1e-12)
        assert low < row[name] < high


def test_what_one_intervention_lacks_changes_no_other(scores):
    base, tuned, edit = scores["base"], scores["tuned"], scores["edit"]
    alone = effects(b__none=base, t__none=tuned, b__edit=edit).estimate_all()
    gaps = np.where(np.arange(40) % 3, scores["one"], NAN)
    beside = effects(b__none=base, t__none=tuned, b__gaps=gaps, b__edit=edit).estimate_all()
    pd.testing.assert_frame_equal(beside.drop(("b", "gaps")), alone)
    kept = np.arange(40) % 3 > 0
    whole = effects(b__none=base[kept], t__none=tuned[kept], b__gaps=scores["one"][kept])
    pd.testing.assert_series_equal(
        beside.loc[("b", "gaps")], whole.estimate_all().loc[("b", "gaps")]
    )


def test_differences_on_the_tuned_model_are_from_the_tuned_model():
    table = effects(b__none=[0.5, 0.7], t__none=[0.1, 0.1], t__edit=[0.2, 0.4]).estimate_all()
    assert table.loc[("t", "edit"), "difference_none"] == pytest.approx(0.2)
    assert table.loc[("t", "edit"), "difference_tuned"] == pytest.approx(0.2)
    assert table.loc[("b", "none"), "difference_tuned"] == pytest.approx(0.5)
    assert table.loc[("t", "none"), "difference_none_high"] == 0


def test_a_single_prompt_has_no_interval():
    table = effects(b__none=[0.6, NAN], t__none=[0.1, NAN], b__edit=[0.4, NAN]).estimate_all()
    row = table.loc[("b", "edit")]
    assert row["score"] == pytest.approx(0.4)
    assert row["effect_share"] == pytest.approx(0.4)
    for name in ("score", "difference_none", "difference_tuned", "effect_share"):
        assert row[[f"{name}_low", f"{name}_high"]].isna().all()
    assert row["n_paired"] == 1


def test_scores_that_are_all_0_or_1_are_a_fraction():
    """Twenty zeros say that the behaviour is rare, and not that there is none.

    With z = 1.645, the 95 % quantile, the upper end is z² / (20 + z²) = 0.1192.
    """
    table = effects(b__none=[0.0] * 20, t__none=[0.2] * 20, b__edit=[1.0] * 20).estimate_all()
    ends = ["score", "score_low", "score_high"]
    assert list(table.loc[("b", "none"), ends]) == pytest.approx([0, 0, 0.1192], abs=5e-5)
    assert list(table.loc[("b", "edit"), ends]) == pytest.approx([1, 1 - 0.1192, 1], abs=5e-5)
    assert list(table.loc[("t", "none"), ends]) == pytest.approx([0.2] * 3)


def test_the_prompts_behind_a_share_are_those_that_everything_has_a_score_for():
    of = effects(b__none=[0.6, NAN, 0.4], t__none=[0.1, 0.1, 0.2], b__edit=[0.4, 0.1, NAN])
    assert of.counts("base", ["edit"]) == (1, 2)
    assert of.counts("base", []) == (2, 1)
    assert of.paired("b", ["none", "edit"]) == 1
    assert list(of.estimate_all()["n_paired"]) == [2, 2, 1]


def test_a_part_of_the_prompts():
    whole = effects(b__none=[0.6, 0.2, 0.4], t__none=[0.1, 0.1, 0.2])
    part = whole.among([2, 0, 9])
    assert part.estimate_all().loc[("b", "none"), "score"] == pytest.approx(0.5)
    assert part.scores["b", "none"].isna().sum() == 1  # prompt 9 has no score


def test_advantage_averages_the_draws_within_a_resample(scores):
    base, tuned, edit, one, two = scores.values()
    table = effects(b__none=base, t__none=tuned, b__edit=edit, b__one=one, b__two=two)
    found = table.advantage("b", "edit", ["one", "two"])

    def advantage(rows):
        drop = base[rows].mean() - tuned[rows].mean()
        shares = [(base[rows].mean() - scores[rows].mean()) / drop for scores in (edit, one, two)]
        return shares[0] - (shares[1] + shares[2]) / 2

    assert found.value == pytest.approx(advantage(np.arange(40)))
    assert (found.low, found.high) == pytest.approx(resampled(40, advantage))


def test_advantage_by_hand_on_the_prompts_that_all_have():
    table = effects(
        b__none=[0.5, 0.7, 0.9],
        t__none=[0.1, 0.3, 0.0],
        b__edit=[0.2, 0.4, 0.0],
        b__one=[0.5, 0.7, NAN],
        b__two=[0.4, 0.4, 0.9],
    )
    # On prompts 0 and 1: base .6, tuned .2; shares .3/.4, 0 and .2/.4.
    assert table.advantage("b", "edit", ["one", "two"]).value == pytest.approx(0.75 - 0.25)
    assert table.advantage("b", "edit", ["one"]).value == pytest.approx(0.75)


def test_advantage_without_a_tuned_model_is_unknown():
    table = effects(b__none=[0.5, 0.7], b__edit=[0.2, 0.4], b__one=[0.5, 0.7])
    assert np.isnan(table.advantage("b", "edit", ["one"])).all()
