"""What a finished study leaves: tables, figures, stores, logs and benchmarks of every rule."""

import json
import re

import h5py
import numpy as np
import pandas as pd
import pytest
import tiny
from neurondynamics.data.tables import read_csv
from neurondynamics.study.results import COMPARISON, FIGURES, TABLES
from rules import patterns, read_rules
from safetensors.numpy import load_file
from studies import ARTICLES, DIRECTIONS, EXPERIMENTS, KINDS, SCORERS, TOTAL

REDUCING = ["TP-", "AN-", "TN+", "AP+"]
GROUPS = [*REDUCING, "TP+", "AN+", "TN-", "AP-", "unchanged"]
STATES = ["base", "base-ablated", "tuned", "tuned-on-base-text"]
STORES = [
    "base/activations/base",
    *(f"dpo/activations/{state}" for state in STATES[1:]),
    *(f"brought/activations/{state}" for state in STATES[2:]),
]
COLUMNS = {
    "groups": "group neurons reduction share_gross share_gross_low share_gross_high "
    "share_net share_net_low share_net_high share_gross_same_text",
    "direction_groups": "direction group neurons reduction share_gross share_net",
    "layers": "state layer projection projection_low projection_high",
    "interventions": "experiment intervention scorer control_of control state neurons heads n "
    "missing "
    "negative_sentiment negative_sentiment_low negative_sentiment_high negative_fraction "
    "perplexity f1 repetition neutral_kl neutral_kl_low neutral_kl_high difference_none "
    "difference_none_low difference_none_high difference_tuned difference_tuned_low "
    "difference_tuned_high effect_share effect_share_low effect_share_high n_read kl kl_low "
    "kl_high kl_share kl_share_low kl_share_high agreement agreement_low agreement_high n_pairs "
    "margin_share margin_share_low margin_share_high",
    "controls": "experiment intervention scorer state control draws negative_sentiment "
    "draws_negative_sentiment draws_negative_sentiment_min perplexity "
    "draws_perplexity effect_share draws_effect_share advantage advantage_low advantage_high",
    "categories": "category n experiment intervention scorer state negative_sentiment "
    "negative_sentiment_low negative_sentiment_high "
    "effect_share effect_share_low effect_share_high",
    "group_categories": "category n group share_gross share_gross_low share_gross_high null_value "
    "null_low null_high difference difference_low difference_high others_difference",
    "sources": "group part reduction reduction_low reduction_high share_group share_net",
    "weights": "parameter module layer size norm change relative_change effective_rank full_rank",
    "account": "part layer n direct causal_alone causal_alone_low causal_alone_high causal_without "
    "weights_alone weights_without",
    "rankings": "operation of by n cpr cpr_low cpr_high cpr_log cmd cmd_log units_50 weights_50 "
    "units_80 weights_80 greatest units_greatest",
    "ranking_curves": "operation of by size units weights n kl_share kl_share_low kl_share_high",
    "residual_shift": "component layer base tuned_on_base_text tuned shift shift_low shift_high "
    "share shift_same_text share_same_text",
    "seeds": "statistic part seeds mean deviation_between deviation_within seed_0 seed_1",
    "seed_overlap": "statistic neurons pairs value minimum maximum chance",
    "scorers": "scorer_a scorer_b over n spearman",
    "power": "claim judged_by statement criterion statistic low high interval_over n holds "
    "variance n_needed",
    "nulls": "claim statement statistic interval_over n null draws null_value null_low null_high "
    "difference difference_low difference_high beyond",
    "claims": "claim judged_by statement statistic low high interval_over paper criterion "
    "beyond_null holds",
    "decoded_neurons": "layer neuron cosine activation_base activation_tuned reduction group kind "
    "vector tokens",
}
# rules that this study has no use for, and one that writes nothing
ELSEWHERE = {"steer_continuations", "tabulate_published", "estimate"}
RULES = read_rules()


def read_table(study, name, tuned="dpo") -> pd.DataFrame:
    return read_csv(study.path(f"results/tiny/{tuned}/tables/{name}.csv"))


def test_every_table_has_its_columns_here():
    of_versions = {table.name for table in TABLES if table.place == COMPARISON}
    assert set(COLUMNS) == of_versions - {"published"}  # which this study has none of


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_have_rows_and_the_columns_that_were_agreed_on(finished, name):
    table = read_table(finished, name)
    assert set(COLUMNS[name].split()) <= set(table.columns)
    assert len(table) > 0
    assert "toxic" not in table.to_csv().lower()  # the study is about another behaviour


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_figures_are_drawn_as_vectors_and_pixels(finished, figure):
    names = {"model": "tiny", "tuned": "dpo"}
    stem = finished.path(figure.path("svg").format(**names))
    svg = stem.read_text(encoding="utf-8")
    assert svg.rstrip().endswith("</svg>")
    assert "tiny" in svg  # text stays text, and says which model it is about
    png = stem.with_suffix(".png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 5_000


@pytest.mark.parametrize("tuned", ["dpo", "brought"])
def test_groups_hold_every_neuron_once(finished, tuned):
    groups = read_table(finished, "groups", tuned)
    neurons = pd.read_parquet(finished.path(f"results/tiny/{tuned}/neurons.parquet"))
    assert groups["group"].tolist() == GROUPS
    assert groups["neurons"].sum() == len(neurons) == tiny.LAYERS * tiny.NEURONS
    assert not neurons.duplicated(["layer", "neuron"]).any()
    assert groups["reduction"].sum() == pytest.approx(neurons["reduction"].sum())
    shares = groups.set_index("group")["share_gross"]
    assert shares[REDUCING].sum() == pytest.approx(1)
    assert (groups["reduction"] != 0).any()


def test_directions_have_their_worth_their_cosines_and_their_own_groups(finished):
    table = read_csv(finished.path("results/tiny/base/tables/directions.csv"))
    table = table.set_index("direction")
    assert set(table.index) == set(DIRECTIONS)
    cosines = table[[f"cosine_{name}" for name in table.index]].to_numpy()
    np.testing.assert_allclose(cosines, cosines.T)
    np.testing.assert_allclose(np.diag(cosines), 1)
    fitted = ["probe", "mean_difference", "reviews"]
    assert table.loc[fitted, "auroc"].between(0, 1).all()
    assert table.loc["reviews", ["texts", "texts_toward"]].tolist() == [24, 12]
    groups = read_table(finished, "direction_groups")
    assert groups.direction.unique().tolist() == ["mean_difference", "reviews"]
    neurons = [
        pd.read_parquet(finished.path(f"results/tiny/dpo/{folder}neurons.parquet"))
        for folder in ("", "directions/reviews/")
    ]
    # the same activations, seen along another direction
    pd.testing.assert_series_equal(neurons[0].activation_base, neurons[1].activation_base)
    assert not np.allclose(neurons[0].cosine, neurons[1].cosine)
    of_reviews = groups[groups.direction == "reviews"].set_index("group").reduction
    expected = neurons[1].groupby("group").reduction.sum().reindex(of_reviews.index, fill_value=0)
    np.testing.assert_allclose(of_reviews, expected, atol=1e-6)


@pytest.mark.parametrize("state", ["base", "tuned"])
def test_neurons_and_bias_add_up_to_the_output_of_a_layer(finished, state):
    layers = read_table(finished, "layers")
    assert layers["state"].unique().tolist() == STATES
    direction = load_file(
        finished.path("results/tiny/base/directions/mean_difference.safetensors")
    )["vector"]
    model = {"base": "resources/models/tiny", "tuned": "results/tiny/dpo/model"}[state]
    weights = load_file(finished.path(f"{model}/model.safetensors"))
    biases = [weights[f"model.layers.{layer}.mlp.down_proj.bias"] for layer in range(tiny.LAYERS)]
    neurons = pd.read_parquet(finished.path("results/tiny/dpo/neurons.parquet"))
    of_neurons = neurons.groupby("layer")[f"projection_{state}"].sum()
    of_biases = np.stack(biases) @ direction / np.linalg.norm(direction)
    output = layers.query("state == @state").set_index("layer")["projection"]
    np.testing.assert_allclose(of_neurons + of_biases, output, rtol=1e-5, atol=1e-6)


REPORTED = ["edits", "keys", "curve"]
WRITTEN = [*REPORTED, "search"]  # under whose interventions something is generated
DRAWS = ["random-1", "random-2", "signs-1"]  # of every intervention of the experiment curve


@pytest.fixture(scope="module")
def rows(finished) -> pd.DataFrame:
    """The table of interventions by experiment and intervention, as the first scorer judges."""
    table = read_table(finished, "interventions").query("scorer == @SCORERS[1]")
    table = table[table["experiment"].isin(REPORTED)]
    return table.set_index(["experiment", "intervention"], drop=False)


@pytest.fixture(scope="module")
def written(finished) -> dict[str, pd.DataFrame]:
    """The generations of every reported experiment, and what one scorer says of them."""
    folder = finished.path("results/tiny/dpo/experiments")
    keys = ["experiment", "intervention", "prompt_id"]
    return {
        name: pd.read_parquet(folder / name / "generations").merge(
            pd.read_parquet(folder / name / "scores" / SCORERS[1]).assign(corpus="prompts"),
            on=[*keys, "corpus"],
            how="left",
            validate="1:1",
        )
        for name in REPORTED
    }


@pytest.fixture(scope="module")
def losses(finished) -> pd.Series:
    """The loss of every window of text by experiment, intervention and window."""
    folder = finished.path("results/tiny/dpo/experiments")
    table = pd.concat(pd.read_parquet(folder / name / "losses") for name in WRITTEN)
    return table.set_index(["experiment", "intervention", "window"])["nll"].sort_index()


def test_every_intervention_is_measured(rows, finished):
    expected = [
        (experiment, name)
        for experiment in REPORTED
        for one in EXPERIMENTS[experiment]["interventions"]
        for name in (one, *(f"{one}~{draw}" for draw in DRAWS if experiment == "curve"))
    ]
    assert rows.index.tolist() == expected  # and nothing of the search
    assert (rows["n"] + rows["missing"] == 6).all()
    measured = rows[["negative_sentiment", "perplexity", "f1", "repetition", "effect_share"]]
    assert np.isfinite(measured).all().all()
    assert rows["negative_sentiment"].between(0, 1).all()
    neurons = rows["neurons"]
    groups = read_table(finished, "groups").set_index("group")["neurons"]
    assert neurons["edits", "none"] == neurons["keys", "none"] == neurons["edits", "steer-svd"] == 0
    assert neurons["edits", "ablate-top"] == neurons["edits", "ablate-negative"] == 4
    assert neurons["edits", "ablate-listed"] == neurons["edits", "invert-filed"] == 3
    assert neurons["edits", "patch-TP-"] == neurons["edits", "control"] == groups["TP-"]
    assert neurons["edits", "patch-both"] == groups["TP-"] + groups["AN-"]
    assert neurons["curve"][["top-1", "top-10", f"top-{TOTAL}"]].tolist() == [1, 10, TOTAL]
    # every operation but the one without effect does something to the text read under it
    assert rows["perplexity"]["edits"].nunique() == len(EXPERIMENTS["edits"]["interventions"]) - 1
    assert rows["perplexity"]["keys"].nunique() == len(EXPERIMENTS["keys"]["interventions"])


def test_every_scorer_judges_every_intervention(finished):
    table = read_table(finished, "interventions")
    assert table["scorer"].tolist() == list(SCORERS) * (len(table) // 2)
    first, other = (table[table["scorer"] == scorer].reset_index() for scorer in SCORERS)
    same = ["experiment", "intervention", "neurons", "perplexity", "f1", "repetition"]
    pd.testing.assert_frame_equal(first[same], other[same])
    assert (first["negative_sentiment"] != other["negative_sentiment"]).all()
    # of the lexicon, whose threshold is 0: the share of texts that hold any of its terms
    words = (finished.path("inputs/terms.csv")).read_text().splitlines()[1:]
    terms = re.compile(rf"\b({'|'.join(line.split(',')[0] for line in words)})\b")
    texts = pd.read_parquet(finished.path("results/tiny/dpo/experiments/edits/generations"))
    texts = texts.query("corpus == 'prompts' and intervention == 'none'")["text"]
    held = texts[texts.str.strip() != ""].str.contains(terms)
    assert first["negative_fraction"][0] == pytest.approx(held.mean())
    agreement = read_table(finished, "scorers")
    assert agreement[["scorer_a", "scorer_b"]].drop_duplicates().to_numpy().tolist() == [
        list(SCORERS)
    ]
    assert agreement["spearman"].between(-1, 1).all()


def test_nothing_speaks_of_another_behaviour(finished):
    """The default study's words appear nowhere in what this one shows."""
    folder = finished.path("results/tiny")
    shown = [path for kind in ("csv", "svg") for path in folder.rglob(f"*.{kind}")]
    assert len(shown) > 20
    for path in shown:
        text = path.read_text(encoding="utf-8").lower()
        assert "toxic" not in text, path
    assert any("negative sentiment" in path.read_text().lower() for path in shown)


ALIKE = {
    "scaled by 1": (("edits", "unchanged"), ("edits", "none")),
    # as many random neurons of each layer as it has are all of them
    "every neuron drawn": (("curve", f"top-{TOTAL}~random-1"), ("curve", f"top-{TOTAL}")),
}


@pytest.mark.parametrize("case", ALIKE)
def test_what_is_the_same_intervention_has_the_same_outcome(written, losses, rows, case):
    one, other = ALIKE[case]
    texts = [
        table[table["intervention"] == name].set_index(["corpus", "prompt_id"])["text"]
        for table, name in ((written[experiment], name) for experiment, name in (one, other))
    ]
    pd.testing.assert_series_equal(*texts)
    np.testing.assert_allclose(losses[one], losses[other], rtol=1e-6)
    measures = rows.columns[rows.columns.get_loc("n") :]
    np.testing.assert_allclose(
        *(rows.loc[name, measures].astype(float) for name in (one, other)), rtol=1e-6
    )


def test_no_edit_no_difference(rows):
    columns = [f"difference_none{end}" for end in ("", "_low", "_high")]
    for name in (("edits", "none"), ("edits", "unchanged"), ("keys", "none")):
        assert rows.loc[name, columns].tolist() == [0, 0, 0]
    assert rows.loc[("keys", "none"), "difference_tuned"] == 0
    assert rows.loc[("edits", "none"), "effect_share"] == 0
    assert rows.loc[("keys", "none"), "effect_share"] == 1


def test_the_account_adds_up_to_the_tuned_model(finished):
    """To the bit by activations, and but for the interaction by weights."""
    table = read_table(finished, "account").fillna({"layer": -1})
    table = table.set_index(["part", table["layer"].astype(int)])
    whole = table.loc["whole", -1]
    assert whole["causal_alone"] == whole["causal_alone_low"] == whole["causal_alone_high"] == 1
    assert table["n"].unique().tolist() == [3]
    layers = table[table["layer"] >= 0]
    assert len(layers) == 2 * tiny.LAYERS
    shifts = read_table(finished, "residual_shift")  # their shares are undefined without a drop
    for module in ("attention", "mlp"):
        of_module, shift = layers.loc[module], shifts[shifts["component"] == module]
        np.testing.assert_array_equal(of_module["direct"], shift["share"])
        assert of_module[["causal_alone", "causal_without"]].notna().all(axis=None)
        assert of_module[["weights_alone", "weights_without"]].notna().all(axis=None)
    others = ("embeddings", "norms", "final_norm", "unembedding")
    alone = [*layers["weights_alone"], *(table.loc[(n, -1), "weights_alone"] for n in others)]
    by_weights = whole["weights_alone"]  # as the blocks are replayed, by another route
    assert by_weights == pytest.approx(1, abs=1e-6)
    assert table.loc[("interaction", -1), "weights_alone"] == pytest.approx(by_weights - sum(alone))


def test_rankings_begin_apart_and_end_together(finished):
    """All units of a kind are the same ones, whatever their order, and so are all weights."""
    table = read_table(finished, "ranking_curves")
    assert (table["n"] == 3).all()
    for (operation, of), rows in table.groupby(["operation", "of"]):
        whole = rows[rows["size"] == "100%"]
        assert (whole["weights"] == 1).all(), (operation, of)
        assert np.ptp(whole["kl_share"]) < 1e-6, (operation, of)
    moved = read_table(finished, "interventions").query("scorer == @SCORERS[0]")
    blocks = table.query("of == 'blocks' and size == '100%'")["kl_share"]
    assert set(moved["experiment"]) == set(EXPERIMENTS) - {"search"}
    assert (blocks > 0.5).all()
    best = read_table(finished, "rankings")
    assert len(best) == len(table) / 3
    units = pd.read_parquet(finished.path("results/tiny/dpo/units.parquet"))
    assert units["gradient_patch"].isna().tolist() == (units["module"] == "key_values").tolist()
    assert (units["weight_change"] > 0).all()


def test_nearness_stands_beside_what_is_generated(finished):
    """Of every intervention that is reported; what is read alone has no scores."""
    table = read_table(finished, "interventions").query("scorer == @SCORERS[0]")
    table = table.set_index(["experiment", "intervention"])
    reported = [name for name in EXPERIMENTS if name != "search"]
    assert table.index.get_level_values(0).unique().tolist() == reported
    assert (table["n_read"] == 5).all()
    assert table["n"].isna().tolist() == [name not in REPORTED for name, _ in table.index]
    nothing = [("edits", "none"), ("edits", "unchanged"), ("keys", "none")]
    assert (table.loc[nothing, ["kl_share", "neutral_kl"]] == 0).all(axis=None)
    generated = table[table["n"].notna()].drop(nothing)
    assert (generated["neutral_kl"] > 0).all()
    assert (generated["neutral_kl_low"] < generated["neutral_kl_high"]).all()
    assert table.loc["back", "kl_share"]["everything"] == 1  # to the bit
    assert table.loc["back", ["kl", "agreement"]].loc["everything"].tolist() == [0, 1]
    assert table.loc["back", "kl_share"]["identity"] == 0  # likewise
    assert table.loc["units", ["neurons", "heads"]].loc["heads"].tolist() == [0, 2]
    assert table.loc["units", ["neurons", "heads"]].loc["moved"].sum() == 20
    assert table.loc["units", ["neurons", "heads"]].loc["moved"].min() > 0
    assert table.loc["units", "kl"][["moved", "rescaled", "moved~random-1"]].nunique() == 3
    late = table.loc["sites", ["neurons", "heads", "kl_share"]].loc["late"]
    assert late[["neurons", "heads"]].tolist() == [2 * tiny.NEURONS, 8]
    assert late["kl_share"] > 0.5
    assert table.loc["back", "kl_share"]["all"] > 0.5
    assert 0 < table.loc["back", "kl_share"]["projections"] < 1
    read = pd.read_parquet(finished.path("results/tiny/dpo/experiments/back/fidelity"))
    means = read.groupby("intervention")[["kl", "kl_unedited", "agreement"]].mean()
    of_back = table.loc["back"].loc[means.index]
    np.testing.assert_allclose(of_back["kl"], means["kl"])
    np.testing.assert_allclose(of_back["kl_share"], 1 - means["kl"] / means["kl_unedited"])
    np.testing.assert_allclose(of_back["agreement"], means["agreement"])


def test_margins_are_of_pairs_that_nothing_has_seen(finished):
    """Of what is named alone: at 0 and 1 to the bit where nothing or everything is moved."""
    results = finished.path("results/tiny")
    pairs = pd.read_parquet(results / "base/unseen_pairs.parquet")
    assert 2 <= len(pairs) <= 4
    assert (pairs["rejected_score"] - pairs["chosen_score"] >= 0.2).all()
    prompts = (results / "base/prompts/evaluation.jsonl").read_text().splitlines()
    assert set(pairs["prompt"]) <= {json.loads(line)["text"] for line in prompts}
    table = read_table(finished, "interventions").query("scorer == @SCORERS[0]")
    table = table.set_index(["experiment", "intervention"])
    named = table[table["n_pairs"].notna()]
    of_back = EXPERIMENTS["back"]["interventions"]
    assert named.index.tolist() == [("sites", "late"), *(("back", name) for name in of_back)]
    assert (named["n_pairs"] == len(pairs)).all()
    read = pd.read_parquet(results / "dpo/experiments/back/margins")
    assert len(read) == len(of_back) * len(pairs)
    means = read.groupby("intervention")[["margin", "margin_unedited", "margin_followed"]].mean()
    moved, way = (means[name] - means["margin_unedited"] for name in ("margin", "margin_followed"))
    shares = named.loc["back", "margin_share"]
    if shares.notna().all():
        np.testing.assert_allclose(shares, (moved / way).loc[shares.index])
    assert (moved["identity"], moved["everything"] - way["everything"]) == (0, 0)


def test_differences_are_those_of_the_scores(rows, written):
    """Over the prompts that all that are compared have a score for."""

    def score(experiment, name):
        table = written[experiment].query("corpus == 'prompts' and intervention == @name")
        return table.set_index("prompt_id")["score"]

    base, tuned = score("edits", "none"), score("keys", "none")
    for (experiment, name), row in rows.iterrows():
        scores = {"edited": score(experiment, name), "base": base, "tuned": tuned}
        means = pd.DataFrame(scores).dropna().mean()
        assert row["state"] == ("tuned" if experiment == "keys" else "base")
        assert row["difference_none"] == pytest.approx(means["edited"] - means[row["state"]])
        assert row["difference_tuned"] == pytest.approx(means["edited"] - means["tuned"])
        share = (means["base"] - means["edited"]) / (means["base"] - means["tuned"])
        assert row["effect_share"] == pytest.approx(share)
        assert row["difference_none_low"] <= row["difference_none"] <= row["difference_none_high"]


def test_controls_stand_by_what_they_control(rows, finished):
    drawn = rows[rows["control_of"] != ""]
    assert set(drawn["experiment"]) == {"curve"}
    expected = drawn["control_of"] + "~" + drawn["control"]
    assert (drawn["intervention"].str.rsplit("-", n=1).str[0] == expected).all()
    for (experiment, _), row in drawn.iterrows():
        assert row["neurons"] == rows.loc[(experiment, row["control_of"]), "neurons"]
    table = read_table(finished, "controls").query("scorer == @SCORERS[1]")
    assert table["experiment"].unique().tolist() == ["units", "curve"]
    assert table.set_index("experiment").loc["units", "advantage"].isna().all()
    assert (table["n_read"] == 5).all()
    near = read_table(finished, "interventions").set_index(["experiment", "intervention", "scorer"])
    for row in table.itertuples():
        name = (row.experiment, row.intervention, row.scorer)
        draws = [(name[0], f"{name[1]}~{row.control}-{n + 1}", name[2]) for n in range(row.draws)]
        assert row.kl_share == pytest.approx(near.loc[name, "kl_share"])
        drawn_share = near.loc[draws, "kl_share"].mean()
        assert row.draws_kl_share == pytest.approx(drawn_share)
        if row.overlap > 1 / 3:  # of all neurons there are no others to draw
            assert np.isnan(row.kl_advantage)
        else:
            assert row.kl_advantage == pytest.approx(row.kl_share - drawn_share)
    assert (table["overlap"] > 1 / 3).any()
    assert (table["overlap"] == 0).any()
    table = table.query("experiment == 'curve'").set_index(["intervention", "control"])
    assert table["draws"].to_dict() == {
        (name, kind): draws
        for name in EXPERIMENTS["curve"]["interventions"]
        for kind, draws in EXPERIMENTS["curve"]["controls"].items()
    }
    for (name, kind), row in table.iterrows():
        draws = drawn[(drawn["control_of"] == name) & (drawn["control"] == kind)]
        drawn_mean = draws["negative_sentiment"].mean()
        assert row["draws_negative_sentiment"] == pytest.approx(drawn_mean)
        assert row["negative_sentiment"] == rows.loc[("curve", name), "negative_sentiment"]
        advantage = row["effect_share"] - draws["effect_share"].mean()
        if row["overlap"] <= 1 / 3:
            assert row["advantage"] == pytest.approx(advantage)


def test_categories_share_out_the_prompts(rows, finished):
    table = read_table(finished, "categories").query("scorer == @SCORERS[1]").copy()
    assert set(table["category"]) == set(KINDS)
    edited = rows[rows["control_of"] == ""]
    assert len(table) == len(KINDS) * len(edited)
    table["sum"] = table["n"] * table["negative_sentiment"]
    sums = table.groupby(["experiment", "intervention"])[["n", "sum"]].sum().loc[edited.index]
    assert (sums["n"] == edited["n"]).all()
    np.testing.assert_allclose(sums["sum"] / sums["n"], edited["negative_sentiment"])


def test_the_best_of_the_search_is_evaluated(finished, losses, written):
    choice = json.loads(
        finished.path("results/tiny/dpo/experiments/search/choice.json").read_text()
    )
    assert choice["prompts"] <= 8  # of analysis
    searched = pd.read_parquet(finished.path("results/tiny/dpo/experiments/search/generations"))
    assert set(searched.query("corpus == 'prompts'")["prompt"]).isdisjoint(
        written["edits"].query("corpus == 'prompts'")["prompt"]
    )
    candidates = {one["intervention"]: one for one in choice["candidates"]}
    assert list(candidates) == ["weak", "strong"]
    within = [name for name, one in candidates.items() if one["perplexity"] <= choice["limit"]]
    assert choice["intervention"] == min(within, key=lambda name: candidates[name]["score"])
    # both are measured on the same neutral text
    best, chosen = losses["edits", "lower-best"], losses["search", choice["intervention"]]
    np.testing.assert_allclose(best, chosen, rtol=1e-6)
    assert not np.allclose(losses["search", "weak"], losses["search", "strong"])


@pytest.mark.parametrize("table", ["dpo/neurons", "dpo/heads", "brought/neurons"])
def test_the_parts_of_the_reduction_add_up(finished, table):
    units = pd.read_parquet(finished.path(f"results/tiny/{table}.parquet"))
    parts = units[["reduction_activation", "reduction_value", "reduction_context"]]
    np.testing.assert_allclose(parts.sum(axis=1), units["reduction"], atol=1e-12)
    assert (parts.abs().sum() > 0).all()
    assert (units["change"] > 0).all()


def test_every_head_has_a_row_and_what_it_reads(finished):
    heads = pd.read_parquet(finished.path("results/tiny/dpo/heads.parquet"))
    assert heads.columns.tolist() == [
        *("layer", "head", "projection_base", "projection_tuned", "projection_same_text"),
        *("reduction", "reduction_activation", "reduction_value", "reduction_context"),
        *("change", "inputs_base", "inputs_tuned", "p_value", "q_value"),
    ]
    places = [(layer, head) for layer in range(tiny.LAYERS) for head in range(4)]
    assert list(heads[["layer", "head"]].itertuples(index=False, name=None)) == places
    for column, place in {
        "inputs_base": "base/activations/base",
        "inputs_tuned": STORES[2],
    }.items():
        stored = []
        for shard in ("1-of-2", "2-of-2"):
            with h5py.File(finished.path(f"results/tiny/{place}/{shard}.h5")) as file:
                stored.append([file[f"heads/{layer:02d}"][:] for layer in range(tiny.LAYERS)])
        means = np.concatenate(stored, 1).mean(1).reshape(len(places), -1)
        np.testing.assert_allclose(np.stack(heads[column]), means, rtol=1e-5, atol=1e-6)


def test_heads_and_bias_add_up_to_what_attention_adds(finished):
    """As the residual stream's account has it, which reads the texts anew."""
    heads = pd.read_parquet(finished.path("results/tiny/dpo/heads.parquet"))
    direction = load_file(
        finished.path("results/tiny/base/directions/mean_difference.safetensors")
    )["vector"]
    shift = read_table(finished, "residual_shift").query("component == 'attention'")
    models = {"base": "resources/models/tiny", "tuned": "results/tiny/dpo/model"}
    for state, model in models.items():
        weights = load_file(finished.path(f"{model}/model.safetensors"))
        biases = [weights[f"model.layers.{n}.self_attn.o_proj.bias"] for n in range(tiny.LAYERS)]
        written = heads.groupby("layer")[f"projection_{state}"].sum()
        written += np.stack(biases) @ direction / np.linalg.norm(direction)
        np.testing.assert_allclose(written, shift[state], rtol=1e-4, atol=1e-5)


def test_sources_add_up_to_the_groups(finished):
    table = read_table(finished, "sources")
    sources = table.pivot_table("reduction", "group", "part")
    parts = sources[["activation", "value", "context"]]
    np.testing.assert_allclose(parts.sum(axis=1), sources["total"], atol=1e-12)
    groups = read_table(finished, "groups").set_index("group")["reduction"]
    assert sources["total"][GROUPS].to_dict() == pytest.approx(groups.to_dict())
    assert sources["total"]["all"] == pytest.approx(groups.sum())


def test_the_residual_stream_is_the_sum_of_its_parts(finished):
    table = read_table(finished, "residual_shift")
    layers = read_table(finished, "layers")
    sums = table[table["layer"].isna()].set_index("component")
    of_layers = table[table["layer"].notna()]
    for state in ("base", "tuned_on_base_text", "tuned"):
        parts = sums.loc["embeddings", state] + of_layers[state].sum()
        assert parts == pytest.approx(sums.loc["total", state], abs=1e-5)
        assert abs(sums.loc["residue", state]) < 1e-5 < abs(sums.loc["total", state])
        # what the stored activations say of the MLPs, which are read anew here
        stored = layers[layers["state"] == state.replace("_", "-")]["projection"]
        mlps = of_layers[of_layers["component"] == "mlp"][state]
        np.testing.assert_allclose(mlps, stored, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table["shift"], table["base"] - table["tuned"], atol=1e-9)


def test_claims_are_judged(finished):
    claims = read_table(finished, "claims")
    assert not claims.duplicated(["claim", "judged_by"]).any()
    of_interventions = claims[claims["judged_by"] != ""]
    judges = [*SCORERS, "kl_share"]
    assert of_interventions["judged_by"].tolist() == judges * 7  # five of the paper's, two of ours
    unread = claims["judged_by"].isin(SCORERS) & (claims["claim"] == "groups-are-needed")
    assert (claims.loc[unread, "holds"] == "not tested").all()  # what is only read has no scores
    assert set(claims.loc[~unread, "holds"]) <= {"yes", "no", "undecided"}
    moved = claims.set_index(["claim", "judged_by"]).loc["groups-beyond-random-activations"]
    table = read_table(finished, "controls").set_index(["intervention", "control", "scorer"])
    advantage = table.loc[("top-10", "random", SCORERS[0]), ["advantage", "kl_advantage"]]
    expected = pytest.approx(advantage.tolist(), nan_ok=True)  # without a drop there is no share
    assert moved.loc[[SCORERS[0], "kl_share"], "statistic"].tolist() == expected
    nulls = read_table(finished, "nulls")
    assert (nulls["draws"] == 4).all()
    assert set(nulls["claim"]) == set(claims.loc[claims["judged_by"] == "", "claim"])
    assert read_table(finished, "power")["claim"].tolist() == claims["claim"].tolist()
    assert (claims["criterion"] != "").all()


@pytest.mark.parametrize("store", STORES)
def test_stores_are_complete_and_say_how_they_were_made(finished, store):
    prompts = finished.path("results/tiny/base/prompts/analysis.jsonl").read_text().splitlines()
    seen = []
    for shard in ("1-of-2", "2-of-2"):
        with h5py.File(finished.path(f"results/tiny/{store}/{shard}.h5")) as file:
            attributes = {
                name: value.decode() if isinstance(value, bytes) else value
                for name, value in file.attrs.items()
            }
            assert attributes["complete"]
            assert attributes["schema_version"] == 3
            assert attributes["state"] == store.rsplit("/", 1)[1]
            assert attributes["shard"] == shard
            assert attributes["dtype"] == "float32"
            assert attributes["model"].startswith("tiny")
            assert attributes["revision"]
            assert attributes["seed"] == 0
            for digest in ("weight_digest", "tokenizer_digest", "prompt_set_digest"):
                assert re.fullmatch("[0-9a-f]{64}", attributes[digest])
            decoding = json.loads(attributes["decoding"])
            assert decoding["new_tokens"] == 6
            given = store.endswith("on-base-text")
            assert decoding["method"] == ("given" if given else "greedy")
            assert set(json.loads(attributes["packages"])) >= {"torch", "transformers", "h5py"}
            for group, width in {"mean": tiny.NEURONS, "heads": tiny.HIDDEN}.items():
                assert len(file[group]) == tiny.LAYERS
                for means in file[group].values():
                    assert means.shape == (4, width)
                    assert means.dtype == np.float32
                    assert means.fletcher32
                    assert np.isfinite(means[:]).all()
            seen += file["prompt_ids"][:].tolist()
    assert seen == list(range(len(prompts)))


def test_stores_of_one_text_hold_the_same_tokens(finished):
    def tokens(store):
        with h5py.File(finished.path(f"results/tiny/{store}/1-of-2.h5")) as file:
            return file["tokens"][:], file["mean/00"][:]

    text, base = tokens("base/activations/base")
    same, tuned = tokens("dpo/activations/tuned-on-base-text")
    np.testing.assert_array_equal(text, same)
    assert not np.allclose(base, tuned)


def test_tuning_and_sampling_leave_what_they_were_based_on(finished):
    results = finished.path("results/tiny")
    pairs = [json.loads(line) for line in (results / "base/preferences.jsonl").open()]
    assert 1 <= len(pairs) <= 12
    assert all(pair["rejected_score"] - pair["chosen_score"] >= 0.2 for pair in pairs)
    assert np.isfinite(read_csv(results / "dpo/tuning.csv")["loss"]).all()
    direction = json.loads((results / "base/directions/mean_difference.json").read_text())
    assert direction["prompts"] >= 4
    assert 0 <= direction["held_out"]["auroc"] <= 1
    assert len((results / "base/corpus.jsonl").read_text().splitlines()) == ARTICLES
    continuations = pd.read_parquet(results / "base/continuations/train-scored")
    assert len(continuations) == 20 * 4
    splits = [
        {json.loads(line)["text"] for line in (results / f"base/prompts/{split}.jsonl").open()}
        for split in ("train", "analysis", "evaluation")
    ]
    assert [len(split) for split in splits] == [20, 8, 6]
    assert len(set.union(*splits)) == 34


@pytest.mark.parametrize("rule", sorted(set(RULES) - ELSEWHERE))
def test_every_rule_logs_and_is_benchmarked(finished, rule):
    for pattern in patterns([*RULES[rule].log, RULES[rule].benchmark]):
        files = list(finished.folder.glob(re.sub(r"\{\w+\}", "*", pattern)))
        assert files, f"{rule} leaves no {pattern}"
