"""Interventions against their controls, on numbers that are worked by hand."""

import numpy as np
import pandas as pd
import pytest
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.tables import read_csv
from neurondynamics.evaluation.metrics import MEASURES
from neurondynamics.study.behaviour import Behaviour
from tabulate_controls import tabulate_controls

STATES = {"patching": "base", "tuned-baseline": "tuned", "read": "base"}
WRITTEN = ["patching", "tuned-baseline"]
NAN = np.nan
OVERLAP = 0.1


def write_experiment(folder, name, interventions):
    """Save an experiment: by intervention its toxicities, its repetition and its perplexity."""
    scores, measures, losses = [], [], []
    for intervention, (toxicity, repetition, perplexity) in interventions.items():
        prompts = pd.DataFrame({"prompt_id": range(len(toxicity))}).assign(
            intervention=intervention
        )
        scores += [
            prompts.assign(scorer="first", score=toxicity),
            prompts.assign(scorer="other", score=np.sqrt(toxicity)),
        ]
        measured = dict.fromkeys(MEASURES, np.nan) | {"repetition": repetition}
        measures.append(prompts.assign(corpus="prompts", **measured))
        row = (intervention, 0, 5 * np.log(perplexity), 5, 7)
        losses.append(
            pd.DataFrame(
                [row], columns=["intervention", "window", "nll", "tokens", "neurons"]
            ).assign(heads=0, overlap=OVERLAP)
        )
    for kind, tables in (("scores", scores), ("measures", measures), ("losses", losses)):
        pd.concat(tables).assign(experiment=name).to_parquet(folder / f"{name}-{kind}.parquet")


def tabulate(folder, states=STATES, scorer="first", read=()):
    """Return the table, or the rows of one scorer."""
    written = [name for name in WRITTEN if name in states]
    tabulate_controls(
        scores=[folder / f"{name}-scores.parquet" for name in written],
        measures=[folder / f"{name}-measures.parquet" for name in written],
        losses=[folder / f"{name}-losses.parquet" for name in written],
        fidelity=[folder / f"{name}-fidelity.parquet" for name in read],
        table=folder / "controls.csv",
        states=states,
        measured={"behaviour": written, "fidelity": [*read]},
        scorers=["first", "other"],
        behaviour=Behaviour("rudeness", "rude"),
        statistics=Statistics(samples=200, confidence=0.95, seed=0),
    )
    table = read_csv(folder / "controls.csv")
    return table if scorer is None else table.query("scorer == @scorer").reset_index(drop=True)


@pytest.fixture
def study(tmp_path):
    base = np.array([0.8, 0.4, 0.6, 0.2])  # mean .5; the tuned model reaches a fifth of it, .1
    write_experiment(
        tmp_path,
        "patching",
        {
            "none": (base, 0.1, 10),
            "edit": (base * 0.4, 0.3, 20),
            "edit~random-1": (base * 0.9, 0.2, 10),
            "edit~random-2": (base * 0.7, 0.4, 40),
            "edit~signs-1": (base * 1.1, 0.5, 30),
            "free": (base * 0.5, 0.1, 11),
        },
    )
    write_experiment(tmp_path, "tuned-baseline", {"none": (base / 5, 0.1, 12)})
    return tmp_path


def test_one_row_per_intervention_and_kind(study):
    table = tabulate(study)
    assert list(table["intervention"]) == ["edit", "edit"]
    assert list(table["control"]) == ["random", "signs"]
    assert list(table["draws"]) == [2, 1]
    assert list(table["experiment"]) == ["patching"] * 2
    assert list(table["state"]) == ["base"] * 2
    both = tabulate(study, scorer=None)
    assert list(both["scorer"]) == ["first", "other"] * 2
    assert list(both["control"]) == ["random", "random", "signs", "signs"]
    assert both["rudeness"][1] == pytest.approx(np.sqrt([0.32, 0.16, 0.24, 0.08]).mean())


def test_the_intervention_and_the_spread_of_its_draws(study):
    row = tabulate(study).iloc[0]
    expected = {
        "rudeness": 0.2,
        "draws_rudeness": 0.4,  # of .45 and .35
        "draws_rudeness_min": 0.35,
        "draws_rudeness_max": 0.45,
        "perplexity": 20,
        "draws_perplexity": 20,  # the geometric mean of 10 and 40
        "draws_perplexity_min": 10,
        "draws_perplexity_max": 40,
        "repetition": 0.3,
        "draws_repetition": 0.3,
        "effect_share": 0.75,  # .3 of the drop of .4
        "draws_effect_share": 0.25,  # of .125 and .375
        "draws_effect_share_min": 0.125,
        "draws_effect_share_max": 0.375,
    }
    for column, value in expected.items():
        assert row[column] == pytest.approx(value), column


def test_the_advantage_is_paired(study):
    table = tabulate(study)
    # Every score is a multiple of the base score, so every resample shows the same shares.
    for column in ("advantage", "advantage_low", "advantage_high"):
        np.testing.assert_allclose(table[column], [0.75 - 0.25, 0.75 + 0.125])


def write_fidelity(folder, name, noise=1e-6, **kl):
    """Save how near the interventions of an experiment come, on two texts."""
    edited = {"edit": [0.5, 1.5], "edit~random-1": [0.8, 2.4], "edit~random-2": [1.0, 2.2]} | kl
    tables = [
        pd.DataFrame(
            {
                "experiment": name,
                "intervention": intervention,
                "prompt_id": [5, 2],
                "kl": of_texts,
                "kl_unedited": [1.0, 3.0],
                "kl_noise": noise,
                "overlap": 0.5 if name == "read" and "random-2" in intervention else OVERLAP,
            }
        )
        for intervention, of_texts in edited.items()
    ]
    pd.concat(tables).to_parquet(folder / f"{name}-fidelity.parquet")


def test_what_is_only_read_has_its_controls_too(study):
    write_fidelity(study, "patching", **{"edit~signs-1": [1.0, 3.0]})
    write_fidelity(study, "read")
    table = tabulate(study, read=("patching", "read"))
    keys = ["experiment", "intervention", "control", "draws", "n_read"]
    assert table[keys].to_numpy().tolist() == [
        ["patching", "edit", "random", 2, 2],
        ["patching", "edit", "signs", 1, 2],
        ["read", "edit", "random", 2, 2],
    ]
    for row in (table.iloc[0], table.iloc[2]):
        assert row["kl_share"] == pytest.approx(0.5)
        assert row["draws_kl_share"] == row["draws_kl_share_min"] == pytest.approx(0.2)
        assert row["kl_advantage_low"] <= row["kl_advantage"] <= row["kl_advantage_high"]
        assert row["kl_advantage"] == pytest.approx(0.3)
    assert table["kl_advantage"][1] == pytest.approx(0.5)
    written = ["rudeness", "perplexity", "effect_share", "advantage", "n"]
    assert table.loc[2, written].isna().all()
    assert table.loc[:1, written].notna().all(axis=None)
    assert table["overlap"].tolist() == pytest.approx([0.1, 0.1, 0.3])


def test_what_is_mostly_drawn_again_is_no_control(study):
    write_fidelity(study, "read")
    path = study / "read-fidelity.parquet"
    pd.read_parquet(path).assign(overlap=0.4).to_parquet(path)
    row = tabulate(study, read=("read",)).iloc[-1]
    assert (row["overlap"], row["draws_kl_share"]) == (0.4, pytest.approx(0.2))
    assert row[["kl_advantage", "kl_advantage_low", "kl_advantage_high"]].isna().all()


def test_nearness_without_a_way_is_unknown(study):
    write_fidelity(study, "read", noise=0.5)
    row = tabulate(study, read=("read",)).iloc[-1]
    assert row["n_read"] == 2
    assert row[["kl_share", "draws_kl_share", "kl_advantage"]].isna().all()


def test_a_draw_without_scores_leaves_its_measures_unknown(study):
    base = np.array([0.8, 0.4, 0.6, 0.2])
    write_experiment(
        study,
        "patching",
        {
            "none": (base, 0.1, 10),
            "edit": (base * 0.4, 0.3, 20),
            "edit~random-1": (base * 0.9, 0.2, 10),
            "edit~random-2": ([NAN] * 4, 0.4, np.inf),
        },
    )
    row = tabulate(study).iloc[0]
    assert row["draws_perplexity"] == np.inf
    unknown = "draws_rudeness draws_rudeness_max draws_effect_share advantage advantage_low"
    assert row[unknown.split()].isna().all()
    assert row["effect_share"] == pytest.approx(0.75)


def test_a_study_without_controls_gets_the_header(study, tmp_path):
    full = tabulate(study)
    write_experiment(study, "patching", {"none": ([0.5], 0.1, 10), "edit": ([0.4], 0.1, 10)})
    empty = tabulate(study)
    assert empty.empty
    assert list(empty) == list(full)
    assert tabulate(study, {}).empty


def test_a_control_of_nothing_is_refused(study):
    write_experiment(study, "patching", {"none": ([0.5], 0.1, 10), "edit~signs-1": ([0.4], 0.1, 9)})
    with pytest.raises(ValueError, match="patching: edit~signs-1 is a control of edit, which the"):
        tabulate(study)
