import h5py
import numpy as np
import pandas as pd
import pytest
from check_claims import check_claims
from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.analysis.claims import decide, power, row
from neurondynamics.analysis.nulls import KINDS as NULLS
from neurondynamics.analysis.nulls import Null, write_nulls
from neurondynamics.analysis.reductions import create_reductions
from neurondynamics.analysis.statistics import Estimate, Statistics
from neurondynamics.data.tables import read_csv, write_parquet
from neurondynamics.evaluation.metrics import MEASURES
from neurondynamics.study.behaviour import Behaviour
from neurondynamics.study.columns import OTHERS, clash
from neurondynamics.study.interventions import MEASURED
from summarize_groups import summarize_groups
from tabulate_interventions import tabulate_interventions
from tabulate_scorers import tabulate_scorers

INTERVENTION_COLUMNS = """experiment intervention scorer control_of control state neurons heads
    n missing toxicity toxicity_low toxicity_high
    toxic_fraction toxic_fraction_low toxic_fraction_high perplexity f1 repetition
    neutral_kl neutral_kl_low neutral_kl_high
    difference_none difference_none_low difference_none_high
    difference_tuned difference_tuned_low difference_tuned_high
    effect_share effect_share_low effect_share_high n_paired
    n_read kl kl_low kl_high kl_share kl_share_low kl_share_high
    agreement agreement_low agreement_high
    n_pairs margin_share margin_share_low margin_share_high"""
CLAIM_COLUMNS = """claim judged_by statement statistic low high interval_over n missing
    paper criterion beyond_null holds"""
INTERVENTIONS = """none ablate-100 ablate-200 patch-TP- patch-AN- patch-TP-AN-
    none scale-keys-2 scale-keys-5"""
THRESHOLDS = {"first": 0.5, "other": 0.2}  # by scorer
TOXICITY = Behaviour("toxicity", "toxic")
STATISTICS = Statistics(samples=500, confidence=0.95, seed=0)
READ = {"agreement": 0.75, "kl_unedited": 0.4, "kl_noise": 1e-9}
STATES = {"ablation": "base", "patching": "base", "unalignment": "tuned"}
CLAIMS = {
    "ablations": ["ablate-100", "ablate-200"],
    "dampened": "patch-TP-",
    "anti": "patch-AN-",
    "both": "patch-TP-AN-",
    "restoring": ["scale-keys-2", "scale-keys-5"],
}


def write_experiment(folder, name, toxicities):
    """Save what an experiment leaves for a mapping of interventions to toxicities by prompt.

    The other scorer gives half of what the first gives.
    """
    scores, measures, losses, fidelity = [], [], [], []
    for number, (intervention, toxicity) in enumerate(toxicities.items()):
        prompts = pd.DataFrame({"prompt_id": np.arange(len(toxicity)), "score": toxicity})
        prompts = prompts.assign(intervention=intervention)
        prompts = prompts.sample(frac=1, random_state=number)  # pairing is by prompt_id, not by row
        scores += [
            prompts.assign(scorer="first"),
            prompts.assign(scorer="other", score=prompts["score"] / 2),
        ]
        measured = dict.fromkeys(MEASURES, np.nan) | {"repetition": 0.25}
        written = prompts.drop(columns="score").assign(corpus="prompts", **measured)
        articles = pd.DataFrame({"prompt_id": [0, 1], "f1": [0.1, 0.3]})
        articles = articles.assign(corpus="articles", intervention=intervention)
        measures += [written, articles]
        losses.append(
            pd.DataFrame({"window": [0, 1], "nll": [6.0, 2.0], "tokens": [3, 1]}).assign(
                intervention=intervention,
                neurons=number * 100,
                heads=number,
                neutral_kl=[0.1 * number, 0.3 * number],
            )
        )
        read = pd.DataFrame({"prompt_id": [3, 9], "kl": [0.1 * number, 0.3 * number]})
        fidelity.append(
            read.assign(intervention=intervention, neurons=number * 100, heads=number, **READ)
        )
    kinds = {"scores": scores, "measures": measures, "losses": losses, "fidelity": fidelity}
    for kind, tables in kinds.items():
        pd.concat(tables).assign(experiment=name).to_parquet(folder / f"{name}-{kind}.parquet")


@pytest.fixture
def study(tmp_path):
    """Three experiments over 200 prompts: base at about .5 and tuned at about .1."""
    base = np.random.default_rng(0).uniform(0.3, 0.7, size=200)
    tuned = base / 5
    write_experiment(
        tmp_path,
        "ablation",
        {"none": base, "ablate-100": base * 0.9, "ablate-200": base * 0.8},
    )
    write_experiment(
        tmp_path,
        "patching",
        {"patch-TP-": base * 0.6, "patch-AN-": base * 0.5, "patch-TP-AN-": base * 0.25},
    )
    write_experiment(
        tmp_path,
        "unalignment",
        {"none": tuned, "scale-keys-2": base * 0.3, "scale-keys-5": base * 1.2},
    )
    return tmp_path


def paths(folder, kind, states=STATES):
    return [str(folder / f"{name}-{kind}.parquet") for name in states]


def tabulate(folder, states=STATES, thresholds=None, **measured):
    """Tabulate experiments; `measured` names those that have a measure, all if it does not."""
    measured = {name: measured.get(name, [*states]) for name in MEASURED}
    written = [name for name in states if name in measured["behaviour"]]
    tabulate_interventions(
        paths(folder, "scores", written),
        paths(folder, "measures", written),
        paths(folder, "losses", written),
        paths(folder, "fidelity", measured["fidelity"]),
        sorted(map(str, folder.glob("*-margins.parquet"))),
        str(folder / "interventions.csv"),
        states=states,
        measured=measured,
        thresholds=thresholds or {"first": 0.5},
        behaviour=TOXICITY,
        statistics=STATISTICS,
    )
    return read_csv(folder / "interventions.csv")


def test_interventions_have_the_columns_and_rows_of_the_study(study):
    table = tabulate(study)
    assert list(table) == INTERVENTION_COLUMNS.split()
    assert list(table["intervention"]) == INTERVENTIONS.split()
    assert list(table["state"]) == ["base"] * 6 + ["tuned"] * 3
    assert list(table["neurons"]) == [0, 100, 200] * 3
    assert (table["n"] == 200).all()
    assert (table["missing"] == 0).all()


def test_fidelity_stands_beside_what_is_generated(study):
    """Over its own prompts, the same for each scorer, and empty where it is not measured."""
    table = tabulate(study, thresholds=THRESHOLDS, fidelity=["ablation"], damage=["ablation"])
    of_one = table.query("scorer == 'other'").set_index(["experiment", "intervention"])
    row = of_one.loc["ablation", "ablate-200"]
    # kl 0.2 and 0.6 where both are 0.4 unedited
    assert row[["kl", "kl_share", "agreement"]].tolist() == pytest.approx([0.4, 0, 0.75])
    assert row[["n_read", "n"]].tolist() == [2, 200]
    assert (row["kl_share_low"], row["kl_share_high"]) == pytest.approx((-0.5, 0.5))
    assert of_one.loc["patching", ["kl", "kl_share", "n_read"]].isna().all(axis=None)


def test_an_experiment_may_measure_fidelity_alone(study):
    table = tabulate(study, behaviour=["ablation", "unalignment"], damage=["ablation"])
    row = table.set_index("intervention").loc["patch-AN-"]
    assert row[["neurons", "kl_share"]].tolist() == pytest.approx([100, 0.5])
    assert row[["n", "toxicity", "perplexity", "effect_share"]].isna().all()
    assert list(table["intervention"]) == INTERVENTIONS.split()


def test_the_share_of_a_difference_within_rounding_is_undefined(study):
    path = study / "ablation-fidelity.parquet"
    read = pd.read_parquet(path)
    read.assign(kl_noise=0.41 / 10).to_parquet(path)
    table = tabulate(study).set_index(["experiment", "intervention"])
    assert table.loc["ablation", ["kl_share", "kl_share_low"]].isna().all(axis=None)
    assert table.loc["ablation", "kl"].notna().all()
    assert table.loc["patching", "kl_share"].notna().all()


def write_margins(folder, experiment, edited, unedited, followed, made=()):
    """Save the margins of interventions, each by pair, in no order of the pairs."""
    unedited = {"margin_unedited": unedited, "margin_followed": followed}
    tables = [
        pd.DataFrame({"pair_id": range(len(margins)), "margin": margins, **unedited})
        .assign(experiment=experiment, intervention=name)
        .sample(frac=1, random_state=number)
        for number, (name, margins) in enumerate(edited.items())
    ]
    columns = ["experiment", "intervention", "pair_id", "margin", *unedited]
    table = pd.concat(tables) if tables else pd.DataFrame(columns=columns)
    write_parquet(folder / f"{experiment}-margins.parquet", table, dict(made))


def test_margins_are_shares_of_the_way_to_the_other_model(study):
    """By hand: the tuned model finds chosen texts likelier, and back it is the same."""
    base, tuned = np.array([1.0, 2.0, -3.0, 0.5]), np.array([3.0, 5.0, 1.0, 1.5])
    gained = np.array([1.0, 1.0, 0.0, 0.0])
    moved = {"ablate-100": base, "ablate-200": tuned, "none": base + gained}
    write_margins(study, "ablation", moved, base, tuned)
    write_margins(study, "unalignment", {"scale-keys-2": tuned - 1.0}, tuned, base)
    table = tabulate(study).set_index(["experiment", "intervention"])
    shares = table["margin_share"]
    assert shares["ablation"].tolist() == pytest.approx([2 / 10, 0, 1])
    assert shares["unalignment", "scale-keys-2"] == pytest.approx(4 / 10)
    assert (table.loc["ablation", "n_pairs"] == 4).all()
    assert table.loc["patching", ["n_pairs", "margin_share"]].isna().all(axis=None)
    assert table["margin_share"].count() == 4
    # half of what moves, over all: its resamples by the draws themselves
    counts = np.random.default_rng(STATISTICS.seed).multinomial(4, [0.25] * 4, STATISTICS.samples)
    draws = np.sort((counts @ gained) / (counts @ (tuned - base)))
    row = table.loc["ablation", "none"]
    assert (row["margin_share_low"], row["margin_share_high"]) == pytest.approx(
        (draws[12], draws[487])
    )
    whole = table.loc["ablation", "ablate-200"]
    assert whole[["margin_share_low", "margin_share_high"]].tolist() == [1, 1]


def test_the_share_of_a_margin_that_need_not_have_moved_is_undefined(study):
    base = np.zeros(6)
    write_margins(study, "ablation", {"none": base + 1}, base, np.array([3, -2, 3, -2, 1, -1.0]))
    row = tabulate(study).set_index(["experiment", "intervention"]).loc["ablation", "none"]
    assert row[["margin_share", "margin_share_low", "margin_share_high"]].isna().all()
    assert row["n_pairs"] == 6


def test_without_pairs_the_margins_are_empty_and_the_log_says_why(study, caplog):
    write_margins(study, "ablation", {}, [], [], {"none": "found is 0.250"})
    assert tabulate(study)[["n_pairs", "margin_share"]].isna().all(axis=None)
    assert "no margin_share, since no pair is there that nothing has seen: found" in caplog.text


def test_no_column_is_named_after_the_behaviour_as_another_is(study):
    """Every column but those of scores is one that a behaviour may not be called."""
    table = tabulate(study)
    own = set(TOXICITY.columns.values())
    assert set(table) - own <= set(OTHERS.split())
    assert clash(TOXICITY) is None
    for name in ("neurons", "Effect share", "n", "f1", "perplexity"):
        assert clash(Behaviour(name, "odd")) is not None
    assert clash(Behaviour("odd fraction", "odd")) == "odd_fraction"
    assert clash(Behaviour("!", "odd")) == clash(Behaviour("odd", "!")) == "without a name"


def test_every_scorer_has_a_row_of_its_own(study):
    table = tabulate(study, thresholds=THRESHOLDS)
    assert list(table["scorer"]) == ["first", "other"] * 9
    first, other = (table.query(f"scorer == {name!r}").reset_index() for name in THRESHOLDS)
    assert list(first["intervention"]) == list(other["intervention"]) == INTERVENTIONS.split()
    np.testing.assert_allclose(other["toxicity"], first["toxicity"] / 2)
    # half of the drop beside half of the tuning's drop
    np.testing.assert_allclose(other["effect_share"], first["effect_share"])
    np.testing.assert_allclose(other["difference_none"], first["difference_none"] / 2)
    scores = pd.read_parquet(study / "ablation-scores.parquet")
    halved = scores.query("intervention == 'none' and scorer == 'other'")["score"]
    assert other["toxic_fraction"][0] == (halved > 0.2).mean() != first["toxic_fraction"][0]
    with pytest.raises(ValueError, match="hold no scores of third"):
        tabulate(study, thresholds={"first": 0.5, "third": 0.5})


def test_agreement_of_scorers(tmp_path):
    one = [0.1, 0.2, 0.3, 0.4, np.nan]
    scores = pd.DataFrame(
        [
            ("e", intervention, prompt, scorer, score)
            for scorer, interventions in {
                "a": {"x": one, "y": [0.0, 0.1, 0.0, 0.1, 0.2]},
                "b": {"x": [0.2, 0.1, 0.3, 0.4, 0.9], "y": [0.5, 0.6, 0.7, 0.8, 0.9]},
                "flat": {"x": [0.5] * 5, "y": [0.5] * 5},
            }.items()
            for intervention, values in interventions.items()
            for prompt, score in enumerate(values)
        ],
        columns=["experiment", "intervention", "prompt_id", "scorer", "score"],
    )
    scores.query("prompt_id < 2").to_parquet(tmp_path / "1.parquet")
    scores.query("prompt_id >= 2").to_parquet(tmp_path / "2.parquet")
    files = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    tabulate_scorers(files, tmp_path / "scorers.csv", ["b", "a", "flat"])
    table = read_csv(tmp_path / "scorers.csv").set_index(["scorer_a", "scorer_b", "over"])
    assert table.index[0] == ("b", "a", "continuations")
    assert len(table) == 6
    # ranks of the nine continuations that both scored, ties at their mean:
    # a 4 6.5 8 9 | 1.5 4 1.5 4 6.5 and b 2 1 3 4 | 5 6 7 8 9; the mean of 1 to 9 is 5
    a = np.array([4, 6.5, 8, 9, 1.5, 4, 1.5, 4, 6.5]) - 5
    b = np.array([2, 1, 3, 4, 5, 6, 7, 8, 9]) - 5
    pair = table.loc["b", "a"]
    assert list(pair["n"]) == [9, 2]
    expected = a @ b / np.sqrt((a @ a) * (b @ b))
    assert pair.loc["continuations", "spearman"] == pytest.approx(expected)
    assert pair.loc["interventions", "spearman"] == pytest.approx(-1)  # a: x above y; b: below
    assert table.loc["a", "flat"]["spearman"].isna().all()


def test_effect_share_is_paired_by_prompt(study):
    table = tabulate(study)
    # (1 − f) / (1 − 1/5) for an edit that scales the base scores by f: exact in every resample.
    expected = [0, 0.125, 0.25, 0.5, 0.625, 0.9375, 1, 0.875, -0.25]
    for column in ("effect_share", "effect_share_low", "effect_share_high"):
        np.testing.assert_allclose(table[column], expected, atol=1e-9)
    assert (table["toxicity_low"] < table["toxicity"]).all()
    assert (table["toxicity"] < table["toxicity_high"]).all()


def test_differences_are_paired_by_prompt(study):
    table = tabulate(study)
    base = pd.read_parquet(study / "ablation-scores.parquet")
    base = base.query("intervention == 'none' and scorer == 'first'").set_index("prompt_id")
    base = base["score"].sort_index().to_numpy()
    generator = np.random.default_rng(STATISTICS.seed)
    counts = generator.multinomial(200, np.full(200, 1 / 200), size=STATISTICS.samples)
    draws = np.sort([np.repeat(base, row).mean() for row in counts])
    # Of 500 sorted draws the outer 2.5 % begin at places 12.475 and 486.525, rounded outward.
    mean, low, high = base.mean(), draws[12], draws[487]
    # Edited = f times base, tuned = base / 5: the differences are (f - 1) and (f - 1/5) of base.
    factors = np.array([1, 0.9, 0.8, 0.6, 0.5, 0.25, 0.2, 0.3, 1.2])
    for column, gap in (
        ("difference_none", factors - np.repeat([1, 0.2], [6, 3])),
        ("difference_tuned", factors - 0.2),
    ):
        np.testing.assert_allclose(table[column], gap * mean, atol=1e-12)
        ends = np.sort(gap[:, None] * [low, high], axis=1)
        np.testing.assert_allclose(table[[f"{column}_low", f"{column}_high"]], ends, atol=1e-12)


def test_controls_are_told_from_interventions(tmp_path):
    names = ("none", "patch-TP-", "patch-TP-~random-1", "patch-TP-~signs-12")
    write_experiment(tmp_path, "ablation", {name: [0.4, 0.6] for name in names})
    table = tabulate(tmp_path, {"ablation": "base"})
    assert list(table["control_of"]) == ["", "", "patch-TP-", "patch-TP-"]
    assert list(table["control"]) == ["", "", "random", "signs"]
    assert list(table["neurons"]) == [0, 100, 200, 300]


def test_a_study_without_experiments_has_an_empty_table(tmp_path):
    table = tabulate(tmp_path, {})
    assert list(table) == INTERVENTION_COLUMNS.split()
    assert table.empty


def test_fluency_columns(study):
    row = tabulate(study).iloc[0]
    assert row["perplexity"] == pytest.approx(np.exp(2))
    assert row["f1"] == pytest.approx(0.2)
    assert row["repetition"] == pytest.approx(0.25)


def test_divergence_on_neutral_text_is_estimated_over_windows(study):
    table = tabulate(study, thresholds=THRESHOLDS, behaviour=["ablation"], damage=["ablation"])
    table = table.query("scorer == 'other'").set_index(["experiment", "intervention"])
    ends = ["neutral_kl", "neutral_kl_low", "neutral_kl_high"]
    assert table.loc[("ablation", "none"), ends].tolist() == [0, 0, 0]
    assert table.loc[("ablation", "ablate-200"), ends].tolist() == pytest.approx([0.4, 0.2, 0.6])
    assert table.loc["unalignment", ends].isna().all(axis=None)


def test_unscored_prompts_are_counted_and_left_out(tmp_path):
    nan = np.nan
    write_experiment(
        tmp_path,
        "ablation",
        {"none": [0.8, 0.6, 0.4, 0.4], "edit": [nan, 0.6, 0.0, 0.0], "silent": [nan] * 4},
    )
    write_experiment(tmp_path, "unalignment", {"none": [0.0, 0.2, nan, 0.0]})
    states = {"ablation": "base", "unalignment": "tuned"}
    table = tabulate(tmp_path, states).set_index("intervention").loc[["edit", "silent"]]
    edit, silent = table.loc["edit"], table.loc["silent"]
    assert (edit["n"], edit["missing"]) == (3, 1)
    assert edit["toxicity"] == pytest.approx(0.2)
    assert edit["toxic_fraction"] == pytest.approx(1 / 3)  # 0.6 alone is above 0.5
    # Prompts 1 and 3 are complete: base .5, edit .3, tuned .1.
    assert edit["effect_share"] == pytest.approx(0.5)
    # Prompts 1, 2, 3 have scores of both edit (.6, 0, 0) and base (.6, .4, .4).
    assert edit["difference_none"] == pytest.approx(-0.8 / 3)
    # Prompts 1 and 3 have scores of both edit (.6, 0) and tuned (.2, 0).
    assert edit["difference_tuned"] == pytest.approx(0.2)
    assert (silent["n"], silent["missing"]) == (0, 4)
    unknown = "toxicity toxic_fraction difference_none difference_tuned effect_share"
    for end in ("", "_low", "_high"):
        kept = [f"{name}{end}" for name in unknown.split() if f"{name}{end}" in silent]
        assert silent[kept].isna().all()


def test_no_effect_share_without_a_tuned_baseline_or_a_drop(tmp_path):
    write_experiment(tmp_path, "ablation", {"none": [0.4, 0.6], "edit": [0.1, 0.2]})
    table = tabulate(tmp_path, {"ablation": "base"})
    assert table[["effect_share", "difference_tuned", "difference_tuned_low"]].isna().all(axis=None)
    np.testing.assert_allclose(table["difference_none"], [0, -0.35])
    write_experiment(tmp_path, "unalignment", {"none": [0.6, 0.6]})
    table = tabulate(tmp_path, {"ablation": "base", "unalignment": "tuned"})
    assert table["effect_share"].isna().all()


def test_tables_refuse_what_does_not_fit(study):
    write_experiment(study, "unalignment", {"none": [0.1] * 200})
    write_experiment(study, "patching", {"none": [0.5] * 200})
    with pytest.raises(ValueError, match=r"'none' on the base model .* ablation, patching"):
        tabulate(study)
    losses = pd.read_parquet(study / "ablation-losses.parquet")
    losses.query("intervention != 'ablate-100'").to_parquet(study / "ablation-losses.parquet")
    with pytest.raises(ValueError, match="ablation: ablate-100 has only measures"):
        tabulate(study)


def test_a_prompt_scored_twice_is_refused(study):
    scores = pd.read_parquet(study / "ablation-scores.parquet")
    pd.concat([scores, scores[scores["prompt_id"] == 7]]).to_parquet(
        study / "ablation-scores.parquet"
    )
    with pytest.raises(ValueError, match="ablation, intervention none: prompt 7 is scored twice"):
        tabulate(study)


@pytest.fixture
def attribution(tmp_path):
    """Four prompts, three layers; the reductions of a prompt are its weight times `pattern`."""
    pattern = np.zeros((3, len(GROUPS)))
    pattern[2, :4] = [3.0, 4.0, 2.0, 1.0]  # TP- AN- TN+ AP+, all in the last layer
    pattern[0, 4:8] = [-1.0, -1.0, -1.0, -1.0]
    weights = np.array([0.5, 1.0, 1.0, 1.5])
    reduction = weights[:, None, None] * pattern
    with create_reductions(tmp_path / "reductions.h5", 4, 3) as datasets:
        for dataset, part in zip(datasets, (1, 2, 8), strict=True):
            dataset[:] = reduction / part
    rows = [
        (layer, GROUPS[group], pattern[layer, group] / 2)
        for layer, group in zip(*pattern.nonzero(), strict=True)
        for _ in range(2)
    ]
    neurons = pd.DataFrame(rows, columns=["layer", "group", "reduction"])
    neurons["cosine"] = np.linspace(-1, 1, len(neurons))
    neurons["activation_base"] = -1.0
    neurons["activation_tuned"] = np.where(np.arange(len(neurons)) % 2, 1.0, -1.0)
    neurons.to_parquet(tmp_path / "neurons.parquet")
    write_null(tmp_path)
    return tmp_path


def write_null(folder, fractions=(0.1, 0.4, 0.2), dampened=6.0):
    """Save nulls that all claims lie beyond: other groups carry more, in other layers."""
    reductions = np.zeros((2, 4, 3, len(GROUPS)))
    reductions[:, :, 0, :4] = [dampened, 3.5, 0.5, 0.0]
    reductions[1, :, 0, 4] = 1.0
    null = Null(reductions, np.array([fractions, fractions]))
    write_nulls(folder / "nulls.h5", dict.fromkeys(NULLS, null))


def summarize(folder):
    summarize_groups(
        str(folder / "reductions.h5"),
        str(folder / "neurons.parquet"),
        str(folder / "groups.csv"),
        statistics=STATISTICS,
    )
    return read_csv(folder / "groups.csv").set_index("group")


def test_groups_sums_and_both_shares(attribution):
    table = summarize(attribution)
    assert tuple(table.index) == GROUPS
    assert list(table["neurons"]) == [2] * 8 + [0]
    np.testing.assert_allclose(table["reduction"], [3, 4, 2, 1, -1, -1, -1, -1, 0])
    np.testing.assert_allclose(table["share_gross"][:4], [0.3, 0.4, 0.2, 0.1])  # of 10
    np.testing.assert_allclose(table["share_net"][:5], [3 / 6, 4 / 6, 2 / 6, 1 / 6, -1 / 6])
    np.testing.assert_allclose(table["reduction_same_text"], table["reduction"] / 2)
    np.testing.assert_allclose(table["share_net_same_text"], table["share_net"])


def test_shares_are_recomputed_within_each_resample(attribution):
    table = summarize(attribution)
    # Prompts differ by a factor only: the sums scatter, every share is the same in each resample.
    assert (table["reduction_low"][:4] < table["reduction"][:4]).all()
    np.testing.assert_allclose(table["share_gross_low"], table["share_gross"])
    np.testing.assert_allclose(table["share_net_high"], table["share_net"])


def test_groups_refuse_files_that_disagree(attribution):
    neurons = pd.read_parquet(attribution / "neurons.parquet")
    neurons["reduction"] *= 1.1
    neurons.to_parquet(attribution / "neurons.parquet")
    with pytest.raises(ValueError, match="disagree on the reduction"):
        summarize(attribution)
    with h5py.File(attribution / "reductions.h5", "r+") as file:
        file.attrs["groups"] = " ".join(GROUPS[::-1])
    with pytest.raises(ValueError, match=r"has the groups unchanged, .*rebuild it"):
        summarize(attribution)


def claims_of(study, states=STATES, by_kl=False, **changes):
    check_claims(
        paths(study, "scores", states),
        paths(study, "fidelity", states),
        str(study / "reductions.h5"),
        str(study / "nulls.h5"),
        str(study / "neurons.parquet"),
        str(study / "claims.csv"),
        str(study / "nulls.csv"),
        str(study / "power.csv"),
        states=states,
        read=states,
        claims=CLAIMS | changes,
        own_claims={},
        scorers=["first"],
        behaviour=TOXICITY,
        statistics=STATISTICS,
    )
    claims = read_csv(study / "claims.csv").set_index("claim")
    return claims[(claims["judged_by"] == "kl_share") == by_kl]


def test_claims_on_known_effects(study, attribution):
    table = claims_of(study)
    assert ["claim", *table] == CLAIM_COLUMNS.split()
    expected = {
        "ablation-falls-short": (0.25, "yes"),
        "patching-falls-short": (0.5, "yes"),
        "two-groups-suffice": (0.9375, "yes"),
        "one-group-does-not": (0.625, "yes"),
        "keys-restore-behaviour": (1.25, "yes"),
        "dampened-neurons-minority": (0.3, "yes"),
        "four-groups-contribute": (0.1, "yes"),
        "late-layers": (1, "yes"),
        "many-increase-behaviour": (0.5, "yes"),  # 8 of 16
        "top-neurons-negative-before": (1.0, "yes"),
        "top-neurons-negative-after": (0.5, "undecided"),
    }
    assert list(table.index) == list(expected)
    np.testing.assert_allclose(table["statistic"], [value for value, _ in expected.values()])
    assert list(table["holds"]) == [holds for _, holds in expected.values()]
    assert "scale-keys-5" in table.loc["keys-restore-behaviour", "statement"]
    assert "layers 2 to 2; the largest is in layer 2" in table.loc["late-layers", "statement"]


@pytest.mark.parametrize(
    ("value", "low", "high", "criterion", "n", "needed"),
    [
        (0.7, 0.5, 0.9, "> 0.6", 100, 400),  # the lower end is twice as far as the bound
        (0.7, 0.5, 0.8, "> 0.75", 100, 400),  # the upper end likewise
        (0.7, 0.5, 0.9, "< 0.75", 100, 1600),
        (0.7, 0.65, 0.9, "> 0.6", 100, 100),
        (0.7, 0.5, 0.9, "> 0.7", 100, None),
    ],
)
def test_how_many_prompts_a_claim_needs(value, low, high, criterion, n, needed):
    one = row("claim", "that", Estimate(value, low, high), criterion, n=n)
    found = power(one, 0.95)
    assert (None if np.isnan(found["n_needed"]) else found["n_needed"]) == needed
    expected = n * ((high - low) / 2 / 1.959964) ** 2
    assert found["variance"] == pytest.approx(expected)


def test_a_claim_that_was_not_tested_needs_nothing_known():
    found = power(row("claim", "that", None, "> 1"), 0.95)
    assert np.isnan(found["n_needed"])


def test_what_groups_are_where_there_is_nothing_to_find_holds_nothing(study, attribution):
    assert (claims_of(study)["beyond_null"][5:-1] == "yes").all()
    write_null(study, fractions=(0.9, 1.0, 0.2), dampened=1.0)
    table = claims_of(study)
    assert table.loc["dampened-neurons-minority", ["beyond_null", "holds"]].tolist() == ["no"] * 2
    assert table.loc["many-increase-behaviour", "holds"] == "no"
    assert table.loc["top-neurons-negative-before", "holds"] != "yes"
    assert table.loc["late-layers", "holds"] == "yes"
    nulls = read_csv(study / "nulls.csv").set_index(["claim", "null"])
    assert len(nulls) == 6 * len(NULLS)
    row = nulls.loc[("dampened-neurons-minority", "swapped")]
    assert row["null_value"] == pytest.approx(0.2)  # 1 of 5
    assert row["difference"] == pytest.approx(0.3 - 0.2)


def test_claims_are_judged_by_divergence_too(study, attribution):
    """The n-th intervention of an experiment is at 0.2 n of the 0.4 nats between the models."""
    table = claims_of(study, by_kl=True)
    assert list(table.index) == list(claims_of(study).index[:5])
    expected = {
        "ablation-falls-short": (0.5, "yes"),  # the first
        "patching-falls-short": (1.0, "no"),
        "two-groups-suffice": (0.0, "no"),
        "one-group-does-not": (1.0, "no"),
        "keys-restore-behaviour": (0.5, "yes"),  # of the way back to the base model
    }
    np.testing.assert_allclose(table["statistic"], [value for value, _ in expected.values()])
    assert list(table["holds"]) == [holds for _, holds in expected.values()]
    assert (table["n"] == 2).all()


def test_claims_quote_the_paper(study, attribution):
    paper = claims_of(study)["paper"]
    assert paper["ablation-falls-short"] == pytest.approx(0.547, abs=5e-4)
    assert paper["patching-falls-short"] == pytest.approx(0.482, abs=5e-4)
    assert paper["keys-restore-behaviour"] == pytest.approx(1.416, abs=5e-4)
    assert paper["many-increase-behaviour"] == pytest.approx(0.415, abs=5e-4)
    assert np.isnan(paper["two-groups-suffice"])


def test_claim_on_an_absent_intervention_is_not_tested(study, attribution):
    table = claims_of(study, anti="patch-other", restoring=[])
    for claim in ("one-group-does-not", "keys-restore-behaviour"):
        assert table.loc[claim, "holds"] == "not tested"
        assert table.loc[claim, ["statistic", "low", "high"]].isna().all()
    assert table.loc["patching-falls-short", "holds"] == "yes"


def test_claims_without_a_tuned_experiment(study, attribution):
    states = {name: state for name, state in STATES.items() if state == "base"}
    assert (claims_of(study, states)["holds"][:5] == "not tested").all()


def test_a_failing_claim_is_reported_as_failing(study, attribution):
    table = claims_of(study, ablations=["patch-TP-AN-"], both="patch-TP-")
    assert table.loc["two-groups-suffice", "holds"] == "no"
    # Keys scaled to no effect on top of tuning do not restore toxicity.
    tuned = pd.read_parquet(study / "unalignment-scores.parquet")
    write_experiment(
        study,
        "unalignment",
        dict.fromkeys(
            ("none", "scale-keys-2", "scale-keys-5"),
            tuned.query("intervention == 'none' and scorer == 'first'")
            .sort_values("prompt_id")["score"]
            .to_numpy(),
        ),
    )
    assert claims_of(study).loc["keys-restore-behaviour", "holds"] == "no"


@pytest.mark.parametrize(
    ("low", "high", "criterion", "holds"),
    [
        (0.2, 0.9, "< 1", "yes"),
        (0.2, 1.0, "< 1", "undecided"),
        (1.0, 1.2, "< 1", "no"),
        (0.8, 0.9, ">= 0.8", "yes"),
        (0.7, 0.8, ">= 0.8", "undecided"),
        (0.7, 0.79, ">= 0.8", "no"),
        (0.0, 0.0, "> 0", "no"),
        (0.1, 0.2, "> 0", "yes"),
        (-np.inf, np.inf, "> 0", "undecided"),
        (np.nan, np.nan, "< 1", "undecided"),
    ],
)
def test_the_interval_decides(low, high, criterion, holds):
    assert decide(Estimate(np.nan, low, high), criterion) == holds
