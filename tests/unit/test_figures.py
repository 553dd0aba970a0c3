"""The figures of the paper: what they draw, that no text is cut off, and what they refuse."""

import itertools
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.quiver import Quiver
from matplotlib.text import Text
from neurondynamics.analysis import account
from neurondynamics.analysis.attribution import GROUPS, INCREASING, REDUCING
from neurondynamics.data.tables import read_csv
from neurondynamics.figures import effect_plots, style
from neurondynamics.study.behaviour import Behaviour

INPUTS = {
    "layer_projection": "layers",
    "cumulative_reduction": "neurons",
    "group_shares": "groups",
    "group_stack": "neurons",
    "neuron_shifts": "neurons",
    "layer_groups": "neurons",
    "top_activations": "neurons",
    "learning_curve": "curve",
    "seed_shares": "shares",
    "cumulative_effect": "interventions",
    "patch_modes": "interventions",
    "fidelity": "interventions",
    "tradeoff": "interventions",
    "scorer_effects": "scorers",
    "residual_shift": "shifts",
    "account": "account",
    "rankings": "curves",
    "reduction_sources": "sources",
}
BEHAVIOUR = Behaviour("negative sentiment", "disparaging")
WORDS = {"behaviour": BEHAVIOUR}
EXTRA = {
    "layer_projection": {"ablated": 200, **WORDS},
    "group_shares": WORDS,
    "neuron_shifts": WORDS,
    "top_activations": WORDS,
    "learning_curve": {"method": "dpo"},
    "seed_shares": {"seeds": [0, 1, 12]},
    "cumulative_effect": {"experiment": "curve", **WORDS},
    "patch_modes": WORDS,
    "tradeoff": WORDS,
    "scorer_effects": WORDS,
}
COLUMNS_OF = {"neurons": ["reduction"], "interventions": effect_plots.COLUMNS}
NAMES = {"model": "a-rather-long-model-name-8b-instruct", "tuned": "dpo-with-a-long-name-seed1"}
SCORERS = ["profanity-check", "a-classifier-with-a-name"]


def make_neurons(layers: int, width: int, seed: int = 0) -> pd.DataFrame:
    """A gated model with heavy tails: half of the activations are negative, few neurons matter."""
    rng = np.random.default_rng(seed)
    number = layers * width
    cosine = rng.standard_t(5, number) * 0.03
    base = rng.standard_t(2.2, number) * 0.05
    tuned = base + 0.3 * np.abs(base) * rng.standard_t(3, number)
    shrinks = (base - tuned > 0) == (base >= 0)
    parts = (
        np.where(cosine > 0, "T", "A"),
        np.where(base >= 0, "P", "N"),
        np.where(shrinks, "-", "+"),
    )
    return pd.DataFrame(
        {
            "layer": np.repeat(np.arange(layers), width),
            "neuron": np.tile(np.arange(width), layers),
            "cosine": cosine,
            "activation_base": base,
            "activation_tuned": tuned,
            "projection_base": base * cosine,
            "projection_tuned": tuned * cosine,
            "reduction": (base - tuned) * cosine,
            "group": ["".join(letters) for letters in zip(*parts, strict=True)],
        }
    )


def make_groups(neurons: pd.DataFrame) -> pd.DataFrame:
    sums = neurons.groupby("group")["reduction"].sum().reindex(GROUPS, fill_value=0.0)
    share = sums / sums[list(REDUCING)].sum()
    return pd.DataFrame(
        {
            "group": GROUPS,
            "neurons": neurons["group"].value_counts().reindex(GROUPS, fill_value=0).to_numpy(),
            "share_gross": share.to_numpy(),
            "share_gross_low": share.to_numpy() - 0.05,
            "share_gross_high": share.to_numpy() + 0.05,
        }
    )


def make_layers(layers: int) -> pd.DataFrame:
    states = {"base": 0.5, "base-ablated": 0.4, "tuned": -0.5, "tuned-on-base-text": -0.4}
    table = pd.DataFrame(itertools.product(states, range(layers)), columns=["state", "layer"])
    table["projection"] = table["state"].map(states) * table["layer"]
    table["projection_low"] = table["projection"] - 0.1
    table["projection_high"] = table["projection"] + 0.1
    return table


def make_shares(groups: pd.DataFrame) -> pd.DataFrame:
    """What three seeds make of the groups: the same shares, 2 points more, and 4 points less."""
    table = pd.DataFrame({"statistic": "share_gross", "part": groups["group"]})
    for seed, shift in zip(EXTRA["seed_shares"]["seeds"], (0, 0.02, -0.04), strict=True):
        for end in ("", "_low", "_high"):
            table[f"seed_{seed}{end}"] = groups[f"share_gross{end}"] + shift
    values = table[[f"seed_{seed}" for seed in EXTRA["seed_shares"]["seeds"]]]
    return table.assign(
        mean=values.mean(axis=1), deviation_between=values.std(axis=1), deviation_within=0.05
    )


def intervention(name, neurons, share, perplexity, *, experiment, state="base", control=""):
    """A row of the table of interventions; its interval is 0.2 to either side."""
    return {
        "experiment": experiment,
        "intervention": name,
        "control_of": name.split("~")[0] if control else "",
        "control": control,
        "state": state,
        "neurons": neurons,
        "perplexity": perplexity,
        "effect_share": share,
        "effect_share_low": share - 0.2,
        "effect_share_high": share + 0.2,
        "difference_none": -share / 5,
        "difference_none_low": -share / 5 - 0.1,
        "difference_none_high": -share / 5 + 0.1,
        "neutral_kl": np.log(perplexity / 25),
        "neutral_kl_low": np.log(perplexity / 25) / 2,
        "neutral_kl_high": np.log(perplexity / 25) * 2,
        "n_read": 48,
        "kl_share": share - 0.5,
        "kl_share_low": share - 0.6,
        "kl_share_high": share - 0.3,
        # of what is named alone
        "margin_share": np.nan if control else share - 0.1,
        "margin_share_low": np.nan if control else share - 0.4,
        "margin_share_high": np.nan if control else share,
    }


def make_interventions() -> pd.DataFrame:
    """Ever more neurons; two patches with controls, one of which ruins the model.

    The second scorer finds half of what the first one does, and an unedited model has all of it.
    """
    rows = [
        intervention("none", 0, 0.0, 25.5, experiment="first"),
        intervention("none", 0, 1.0, 26.5, experiment="second", state="tuned"),
        intervention("top-10000", 10_000, 0.8, 31, experiment="curve"),
        intervention("top-1", 1, 0.01, 25.6, experiment="curve"),
        intervention("top-100", 100, 0.1, 27, experiment="curve"),
    ]
    for name, share, perplexity in (("mean-TP-AN-", 1.1, 4e6), ("paired-TN+AP+-TP-", 0.6, 28)):
        rows.append(intervention(name, 9000, share, perplexity, experiment="modes"))
        for control, value in (("random", 0.1), ("random", -0.3), ("signs", 0.0)):
            other = f"{name}~{control}-{value}"
            row = intervention(other, 9000, value, perplexity, experiment="modes", control=control)
            rows.append(row)
    table = pd.DataFrame(rows)
    half = table.assign(scorer=SCORERS[1])
    shares = [column for column in table if column.startswith("effect_share")]
    half.loc[half["intervention"] != "none", shares] /= 2
    return pd.concat([table.assign(scorer=SCORERS[0]), half]).sort_index(kind="stable")


def make_agreement(scorers: list[str]) -> pd.DataFrame:
    """A rank correlation of -0.25 over interventions and of 0.5 over continuations."""
    over = {"continuations": (1000, 0.5), "interventions": (12, -0.25)}
    rows = [
        (*pair, name, *values)
        for pair in itertools.combinations(scorers, 2)
        for name, values in over.items()
    ]
    return pd.DataFrame(rows, columns=["scorer_a", "scorer_b", "over", "n", "spearman"])


def make_shifts(layers: int) -> pd.DataFrame:
    """Embeddings 1; attention adds the layer's number, the MLP -2; on the same text half of it."""
    rows = [("embeddings", None, 1.0)]
    for layer in range(layers):
        rows += [("attention", layer, float(layer)), ("mlp", layer, -2.0)]
    table = pd.DataFrame(rows, columns=["component", "layer", "shift"])
    sums = table.groupby("component")["shift"].sum()
    behind = [("attention_all", sums["attention"]), ("mlp_all", sums["mlp"]), ("total", sums.sum())]
    behind = pd.DataFrame(behind, columns=["component", "shift"])
    table = pd.concat([table, behind], ignore_index=True)
    table["shift_low"], table["shift_high"] = table["shift"] - 0.3, table["shift"] + 0.2
    for column in ("shift", "shift_low", "shift_high"):
        table[column.replace("shift", "shift_same_text")] = table[column] / 2
    return table


def make_account(layers: int) -> pd.DataFrame:
    """Attention brings 0.1 more with each layer, MLPs 0.01 a layer; by weights half of it."""
    parts = [(part, None, 0.3) for part in account.PARTS] + [("whole", None, 1.0)]
    parts += [("attention", layer, 0.1 * layer) for layer in range(layers)]
    parts += [("mlp", layer, 0.01 * layer) for layer in range(layers)]
    table = pd.DataFrame(parts, columns=["part", "layer", "direct"])
    for column, times in (("direct", 1), ("causal", 1), ("weights", 0.5)):
        for measure in [column] if column == "direct" else [f"{column}_alone", f"{column}_without"]:
            value = times * table["direct"]
            table[measure] = 1 - value if measure.endswith("without") else value
            table[f"{measure}_low"] = table[measure] - 0.1
            table[f"{measure}_high"] = table[measure] + 0.05
    return table


def make_rankings() -> pd.DataFrame:
    """Of two kinds of units: a ranking that rises early, and one by chance."""
    parts = np.array([0.01, 0.1, 0.5, 1.0])
    rows = [
        {"operation": operation, "of": of, "by": by, "units": 1000 * part, "weights": part,
         "kl_share": part**power, "kl_share_low": part**power - 0.1,
         "kl_share_high": part**power + 0.05}
        for operation, of in (("transplant", "blocks"), ("patch", "neurons"))
        for by, power in (("gradient_transplant", 0.2), ("random", 1.0))
        for part in parts
    ]  # fmt: skip
    return pd.DataFrame(rows)


def make_sources(groups: pd.DataFrame) -> pd.DataFrame:
    """Of every group's share 60 % are activation, -10 % value vectors and 50 % context."""
    totals = pd.concat([groups.set_index("group")["share_gross"], pd.Series({"all": 0.3})])
    parts = {"activation": 0.6, "value": -0.1, "context": 0.5, "total": 1.0}
    table = pd.DataFrame(itertools.product(totals.index, parts), columns=["group", "part"])
    table["reduction"] = table["group"].map(totals) * table["part"].map(parts)
    return table.assign(
        reduction_low=table["reduction"] - 0.02, reduction_high=table["reduction"] + 0.01
    )


def make_curve(steps: int) -> pd.DataFrame:
    """Losses that fall from log 2, on held-out pairs every second step and lowest at the second."""
    step = np.arange(1, steps + 1)
    measured = step % 2 == 0
    held_out = {
        "loss": np.where(measured, 0.5 + 0.01 * step, np.nan),
        "accuracy": np.where(measured, 0.7, np.nan),
        "margin": np.where(measured, 0.4, np.nan),
    }
    own = {"loss": np.log(2) / step, "accuracy": 1 - 0.5 / step, "margin": 0.1 * step}
    held_out = {f"held_out_{name}": values for name, values in held_out.items()}
    return pd.DataFrame({"step": step, "learning_rate": 1e-6, **own, **held_out})


# for tests that tables of one size are enough for
FEW = pytest.mark.parametrize("tables", [(2, 32)], indirect=True, ids=["few"])


@pytest.fixture(params=[(30, 100), (2, 32), (1, 2)], ids=["many", "few", "two"])
def tables(request, tmp_path):
    """Paths of the three tables, for many, few, and two neurons."""
    neurons = make_neurons(*request.param)
    return write_tables(tmp_path, neurons, make_groups(neurons), make_layers(request.param[0]))


def write_tables(folder, neurons, groups, layers) -> dict:
    neurons.to_parquet(folder / "neurons.parquet")
    groups.to_csv(folder / "groups.csv", index=False)
    layers.to_csv(folder / "layers.csv", index=False)
    make_shares(groups).to_csv(folder / "shares.csv", index=False)
    make_interventions().to_csv(folder / "interventions.csv", index=False)
    make_agreement(SCORERS).to_csv(folder / "scorers.csv", index=False)
    make_curve(4 * layers["layer"].nunique()).to_csv(folder / "curve.csv", index=False)
    make_shifts(layers["layer"].nunique()).to_csv(folder / "shifts.csv", index=False)
    make_account(layers["layer"].nunique()).to_csv(folder / "account.csv", index=False)
    make_rankings().to_csv(folder / "ranking_curves.csv", index=False)
    make_sources(groups).to_csv(folder / "sources.csv", index=False)
    return {
        "neurons": folder / "neurons.parquet",
        "groups": folder / "groups.csv",
        "layers": folder / "layers.csv",
        "shares": folder / "shares.csv",
        "interventions": folder / "interventions.csv",
        "scorers": folder / "scorers.csv",
        "curve": folder / "curve.csv",
        "shifts": folder / "shifts.csv",
        "account": folder / "account.csv",
        "curves": folder / "ranking_curves.csv",
        "sources": folder / "sources.csv",
    }


def draw(name: str, tables: dict, folder) -> None:
    inputs = {INPUTS[name], "interventions"} if name == "scorer_effects" else {INPUTS[name]}
    getattr(import_module(f"draw_{name}"), f"draw_{name}")(
        **{key: str(tables[key]) for key in inputs},
        svg=str(folder / f"{name}.svg"),
        png=str(folder / f"{name}.png"),
        **NAMES,
        **EXTRA.get(name, {}),
    )


def bars(ax) -> pd.DataFrame:
    """The bars of an axes, in the order drawn."""
    rows = [
        (bar.get_x() + bar.get_width() / 2, bar.get_y(), bar.get_height()) for bar in ax.patches
    ]
    return pd.DataFrame(rows, columns=["x", "bottom", "height"])


# What is drawn


def test_layer_projection_draws_the_three_states():
    table = make_layers(4)
    figure = import_module("draw_layer_projection").figure_layer_projection(
        table, 1200, **WORDS, **NAMES
    )
    zero, *lines = figure.axes[0].lines
    assert list(zero.get_ydata()) == [0, 0]
    assert [list(line.get_ydata()) for line in lines] == [
        [0, 0.5, 1.0, 1.5],
        [0, 0.4, 0.8, pytest.approx(1.2)],
        [0, -0.5, -1.0, -1.5],
    ]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 3
    band = figure.axes[0].collections[2].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == pytest.approx((-1.6, 0.1))
    assert (
        figure.legends[0].texts[1].get_text() == "base model, top 1,200 disparaging neurons ablated"
    )


def test_layer_projection_sorts_layers():
    table = make_layers(4).sample(frac=1, random_state=0)
    figure = import_module("draw_layer_projection").figure_layer_projection(
        table, 2, **WORDS, **NAMES
    )
    assert list(figure.axes[0].lines[1].get_xdata()) == [0, 1, 2, 3]


def test_cumulative_reduction_by_hand():
    """Ranked 3, 1, 0, -2: the curve is 3, 4, 4, 2, so half, 3/4 and 99 % of 2 take one neuron."""
    module = import_module("draw_cumulative_reduction")
    figure = module.figure_cumulative_reduction(np.array([1.0, -2.0, 3.0, 0.0]), **NAMES)
    curve = figure.axes[0].lines[1]
    assert list(curve.get_xdata()) == [1, 2, 3, 4]
    assert list(curve.get_ydata()) == [3, 4, 4, 2]
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "50 % of the net at 1 neuron",
        "75 % of the net at 1 neuron",
        "99 % of the net at 1 neuron",
        "maximum 4 at 2 neurons",
        "net 2 at 4 neurons",
    ]


def test_cumulative_reduction_of_many_neurons_ends_at_the_net():
    reduction = make_neurons(30, 1536)["reduction"].to_numpy()
    module = import_module("draw_cumulative_reduction")
    curve = module.figure_cumulative_reduction(reduction, **NAMES).axes[0].lines[1]
    assert curve.get_xdata()[-1] == len(reduction)
    assert curve.get_ydata()[-1] == pytest.approx(reduction.sum(), abs=1e-12)
    assert curve.get_ydata().max() == pytest.approx(reduction[reduction > 0].sum())


def test_neurons_to_reach():
    neurons_to_reach = import_module("draw_cumulative_reduction").neurons_to_reach
    curve = np.array([1.0, 2.0, 3.0, 4.0])
    assert [neurons_to_reach(curve, part) for part in (0.5, 0.75, 0.99)] == [2, 3, 4]
    assert neurons_to_reach(np.array([1.0, -1.0]), 0.5) is None


def test_group_shares_draws_the_table():
    groups = pd.DataFrame(
        {
            "group": ["AP+", "TN+", "AN-", "TP-", "TP+"],
            "neurons": [1803, 17779, 25390, 3961, 1809],
            "share_gross": [0.07, 0.239, 0.373, 0.318, -0.043],
            "share_gross_low": [0.06, 0.2, 0.3, 0.3, -0.1],
            "share_gross_high": [0.08, 0.25, 0.4, 0.35, 0.0],
        }
    )
    figure = import_module("draw_group_shares").figure_group_shares(groups, **WORDS, **NAMES)
    ax = figure.axes[0]
    assert bars(ax)["height"].tolist() == pytest.approx([31.8, 37.3, 23.9, 7.0])
    assert [list(line.get_ydata()) for line in ax.lines[:4]] == [
        pytest.approx(interval) for interval in ([30, 35], [30, 40], [20, 25], [6, 8])
    ]
    assert [text.get_text() for text in ax.texts] == ["31.8 %", "37.3 %", "23.9 %", "7.0 %"]
    labels = [label.get_text().split("\n") for label in ax.get_xticklabels()]
    assert [(lines[0], lines[-1]) for lines in labels] == [
        ("TP−", "3,961 neurons"),
        ("AN−", "25,390 neurons"),
        ("TN+", "17,779 neurons"),
        ("AP+", "1,803 neurons"),
    ]


def test_rank_cuts():
    rank_cuts = import_module("draw_group_stack").rank_cuts
    assert rank_cuts(1).tolist() == [1]
    assert rank_cuts(20).tolist() == [1, 2, 5, 10, 20]
    cuts = [20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 57_501]
    assert rank_cuts(57_501).tolist() == cuts


def test_short_number():
    short_number = import_module("draw_group_stack").short_number
    numbers = [1, 999, 1000, 23_102, 240_738]
    assert [short_number(number) for number in numbers] == ["1", "999", "1k", "23.1k", "241k"]


def test_group_stack_by_hand():
    """Ranked AN- 4, TP- 2, TP- 1, AP+ 1; TP+ is no reducing group and is left out."""
    neurons = pd.DataFrame(
        {"reduction": [1.0, 2.0, 4.0, 9.0, 1.0], "group": ["TP-", "TP-", "AN-", "TP+", "AP+"]}
    )
    module = import_module("draw_group_stack")
    stack = module.stack_by_group(neurons)
    assert stack.index.tolist() == [1, 2, 4]
    assert stack.to_numpy().tolist() == [[0, 4, 0, 0], [2, 4, 0, 0], [3, 4, 0, 1]]
    upper, lower = module.figure_group_stack(neurons, **NAMES).axes
    assert bars(upper)["height"].tolist() == [0, 2, 3, 4, 4, 4, 0, 0, 0, 0, 0, 1]
    assert bars(upper)["bottom"].tolist()[3:6] == [0, 2, 3]
    assert bars(lower)["height"].tolist()[2::3] == [37.5, 50, 0, 12.5]


def test_group_stack_ends_at_the_shares_of_figure_2a():
    neurons = make_neurons(6, 100)
    lower = import_module("draw_group_stack").figure_group_stack(neurons, **NAMES).axes[1]
    last = bars(lower).groupby(np.repeat(np.arange(4), len(lower.patches) // 4))["height"].last()
    assert last.tolist() == pytest.approx(100 * make_groups(neurons)["share_gross"][:4].to_numpy())


def test_neuron_shifts_draws_the_neurons_of_largest_reduction():
    neurons = make_neurons(10, 200)
    module = import_module("draw_neuron_shifts")
    figure = module.figure_neuron_shifts(neurons, **WORDS, **NAMES)
    top = neurons.nlargest(500, "reduction")
    for ax in figure.axes:
        arrows = [artist for artist in ax.collections if isinstance(artist, Quiver)]
        tails = np.concatenate([arrow.XY for arrow in arrows])
        shifts = np.concatenate([arrow.V for arrow in arrows])
        order = np.argsort(tails[:, 0])
        top = top.sort_values("cosine")
        assert tails[order] == pytest.approx(top[["cosine", "projection_base"]].to_numpy())
        assert -shifts[order] == pytest.approx(top["reduction"].to_numpy())
    low, high = figure.axes[0].get_ylim()
    assert low <= top["projection_tuned"].min()
    assert high >= top["projection_base"].max()


def test_neuron_shifts_leaves_out_neurons_that_increase():
    neurons = make_neurons(1, 20)
    module = import_module("draw_neuron_shifts")
    figure = module.figure_neuron_shifts(neurons, **WORDS, **NAMES)
    arrows = [artist for artist in figure.axes[0].collections if isinstance(artist, Quiver)]
    assert sum(len(arrow.V) for arrow in arrows) == (neurons["reduction"] > 0).sum()


def test_layer_groups_by_hand():
    neurons = pd.DataFrame(
        {
            "layer": [0, 0, 0, 2, 2, 2],
            "reduction": [3.0, 1.0, -2.0, -1.0, -4.0, 0.5],
            "group": ["TP-", "AP+", "TP+", "AP-", "TN-", "unchanged"],
        }
    )
    ax = import_module("draw_layer_groups").figure_layer_groups(neurons, **NAMES).axes[0]
    drawn = bars(ax)
    drawn["group"] = np.repeat([*REDUCING, *INCREASING], 2)
    drawn = drawn[drawn["height"] != 0].set_index(["group", "x"])
    assert drawn.T.to_dict() == {
        ("TP-", 0): {"bottom": 0, "height": 3},
        ("AP+", 0): {"bottom": 3, "height": 1},
        ("TP+", 0): {"bottom": 0, "height": -2},
        ("TN-", 2): {"bottom": 0, "height": -4},
        ("AP-", 2): {"bottom": -4, "height": -1},
    }
    net = ax.lines[-1]
    assert list(net.get_xdata()) == [0, 2]
    assert list(net.get_ydata()) == [2, -4.5]


def test_top_activations_pairs_the_neurons_of_highest_cosine():
    neurons = make_neurons(3, 100)
    module = import_module("draw_top_activations")
    figure = module.figure_top_activations(neurons, **WORDS, **NAMES)
    top = neurons.sort_values("cosine", ascending=False).head(100)
    ax = figure.axes[0]
    base, tuned = ax.lines[1:]
    assert list(base.get_xdata()) == list(range(1, 101))
    assert list(base.get_ydata()) == top["activation_base"].tolist()
    assert list(tuned.get_ydata()) == top["activation_tuned"].tolist()
    joins = next(artist for artist in ax.collections if isinstance(artist, LineCollection))
    assert joins.get_segments()[3][:, 1] == pytest.approx(
        top[["activation_base", "activation_tuned"]].to_numpy()[3]
    )
    negative = [(top[column] < 0).sum() for column in ("activation_base", "activation_tuned")]
    assert [text.get_text() for text in figure.legends[0].texts] == [
        f"base model: {negative[0]} of 100 negative",
        f"tuned model: {negative[1]} of 100 negative",
    ]


def test_seed_shares_draws_every_seed_less_the_mean():
    groups = make_groups(make_neurons(6, 100))
    shares, seeds = make_shares(groups), EXTRA["seed_shares"]["seeds"]
    figure = import_module("draw_seed_shares").figure_seed_shares(shares, seeds, **NAMES)
    ax = figure.axes[0]
    intervals, points = ax.lines[:24:2], ax.lines[1:24:2]
    # shifts of 0, 2 and −4 points have a mean of −2/3; the intervals are 5 points to either side
    shifts = [2 / 3, 8 / 3, -10 / 3] * 4
    assert [point.get_ydata()[0] for point in points] == pytest.approx(shifts)
    for interval, shift in zip(intervals, shifts, strict=True):
        assert list(interval.get_ydata()) == pytest.approx([shift - 5, shift + 5])
        assert interval.get_xdata()[0] == interval.get_xdata()[1]
    places = [round(point.get_xdata()[0]) for point in points]
    assert places == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert len({point.get_xdata()[0] for point in points}) == 12
    assert len({point.get_marker() for point in points}) == 3
    labels = [label.get_text().split("\n") for label in ax.get_xticklabels()]
    mean = 100 * (groups["share_gross"][0] - 0.02 / 3)
    # the deviation of 0, 2 and −4: the root of (4/9 + 64/9 + 100/9) / 2
    assert labels[0] == ["TP−", f"mean {mean:.1f} %", "between ±3.06", "within ±5.00"]
    assert [label[0] for label in labels] == ["TP−", "AN−", "TN+", "AP+"]


def test_cumulative_effect_runs_over_the_neurons_of_its_experiment():
    module = import_module("draw_cumulative_effect")
    figure = module.figure_cumulative_effect(make_interventions(), "curve", **WORDS, **NAMES)
    near, upper, middle, lower = figure.axes
    assert [ax.get_title() for ax in (upper, middle)] == [
        "by profanity-check",
        "by a-classifier-\nwith-a-name",
    ]
    for ax, of_models, values in (
        (near, [0, 1], pytest.approx([-0.49, -0.4, 0.3])),
        (upper, [0, 1], [0.01, 0.1, 0.8]),
        (middle, [0, 1], [0.005, 0.05, 0.4]),
        (lower, [25.5, 26.5], [25.6, 27, 31]),
    ):
        *models, curve = ax.lines
        assert [line.get_ydata()[0] for line in models] == of_models
        assert list(curve.get_xdata()) == [1, 100, 10_000]
        assert list(curve.get_ydata()) == values
        assert ax.get_xscale() == "log"
    assert lower.get_yscale() == "log"
    bands = (near, (-0.59, 0.5)), (upper, (-0.19, 1.0)), (middle, (-0.095, 0.5))
    for ax, ends in bands:
        band = ax.collections[0].get_paths()[0].get_extents()
        assert (band.ymin, band.ymax) == pytest.approx(ends)


def test_cumulative_effect_has_panels_of_what_is_measured():
    table = make_interventions()
    written = ["perplexity", "effect_share", "effect_share_low", "effect_share_high"]
    table.loc[table["experiment"] == "curve", written] = np.nan
    module = import_module("draw_cumulative_effect")
    (near,) = module.figure_cumulative_effect(table, "curve", **WORDS, **NAMES).axes
    assert near.get_ylabel() == "share of the\ndivergence removed"
    table = make_interventions()
    table.loc[table["experiment"] == "curve", "n_read"] = np.nan
    figure = module.figure_cumulative_effect(table, "curve", **WORDS, **NAMES)
    assert [ax.get_ylabel()[:8] for ax in figure.axes] == ["share of", "share of", "perplexi"]


def test_cumulative_effect_draws_controls_apart():
    table = make_interventions().query("experiment != 'curve'").replace("modes", "curve")
    module = import_module("draw_cumulative_effect")
    figure = module.figure_cumulative_effect(table, "curve", **WORDS, **NAMES)
    _, _, random, signs, curve = figure.axes[1].lines
    assert sorted(random.get_ydata()) == [-0.3, -0.3, 0.1, 0.1]
    assert list(signs.get_ydata()) == [0, 0]
    assert list(curve.get_ydata()) == [1.1, 0.6]
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels[-2:] == ["random neurons", "shuffled signs"]


def test_patch_modes_puts_controls_beside_what_they_control():
    module = import_module("draw_patch_modes")
    figure = module.figure_patch_modes(make_interventions(), **WORDS, **NAMES)
    effect, other, perplexity = figure.axes
    names = [label.get_text() for label in effect.get_yticklabels()]
    assert names == ["mean-TP−AN−", "paired-TN+AP+-TP−"]
    for ax, of_models, points, draws in (
        (effect, [0, 1], [1.1, 0.6], [[0.1, -0.3], [0, 0]]),
        (other, [0, 1], [0.55, 0.3], [[0.05, -0.15], [0, 0]]),
        (perplexity, [25.5, 26.5], [4e6, 28], [[4e6, 4e6], [4e6, 28]]),
    ):
        *models, random, signs, main = ax.lines
        assert [line.get_xdata()[0] for line in models] == of_models
        assert list(main.get_xdata()) == points
        assert list(main.get_ydata()) == [0, -1]
        assert list(random.get_xdata())[:2] == draws[0]
        assert [round(y) for y in random.get_ydata()] == [0, 0, -1, -1]
        assert list(signs.get_xdata()) == draws[1]
        assert [round(y) for y in signs.get_ydata()] == [0, -1]
    assert effect.get_ylim()[0] < effect.get_ylim()[1]  # the first row is on top
    intervals = effect.collections[0].get_segments()
    assert [list(line[:, 0]) for line in intervals] == [
        pytest.approx([0.9, 1.3]),
        pytest.approx([0.4, 0.8]),
    ]
    assert perplexity.get_xscale() == "log"


def test_tradeoff_names_the_edits_that_none_surpasses():
    table = make_interventions().query("scorer == @SCORERS[0] and state == 'base'")
    table = table[table["intervention"] != "none"]
    module = import_module("draw_tradeoff")

    def drawn(table):
        figure = module.figure_tradeoff(table, BEHAVIOUR, *NAMES.values(), scorer=SCORERS[0])
        (ax,) = figure.axes
        assert ax.get_xscale() == "log"
        return ax, [text.get_text() for text in ax.texts]

    ax, names = drawn(table)
    # of these, each does more than those left of it
    assert names == ["top-1", "top-100", "paired-TN+AP+-TP−", "top-10000", "mean-TP−AN−"]
    assert ax.get_ylabel() == "share of the tuning's effect"
    assert len(ax.lines[-2].get_xdata()) == 2  # the marks of the last experiment
    worse = table["intervention"] == "paired-TN+AP+-TP-"
    _, names = drawn(table.assign(effect_share=table["effect_share"].mask(worse, 0.05)))
    assert names == ["top-1", "top-100", "top-10000", "mean-TP−AN−"]
    # with no share the drop itself, and what is not moved at all stands at the edge
    ax, names = drawn(table.assign(effect_share=np.nan, neutral_kl=0.0))
    assert names == ["mean-TP−AN−"]
    assert ax.get_ylabel() == "drop in negative sentiment, mean score"
    (x,), (y,) = (ax.lines[-1].get_data()[axis] for axis in (0, 1))
    assert (x, y) == (module.LEAST, pytest.approx(1.1 / 5))


def test_interventions_of_one_name_are_told_apart():
    table = make_interventions().query("experiment == 'modes'")
    models = make_interventions().query("intervention == 'none'")
    table = pd.concat([models, table, table.assign(experiment="more", effect_share=0.25)])
    module = import_module("draw_patch_modes")
    effect = module.figure_patch_modes(table, **WORDS, **NAMES).axes[0]
    names = [label.get_text() for label in effect.get_yticklabels()]
    assert names[::2] == ["modes: mean-TP−AN−", "more: mean-TP−AN−"]
    *_, signs, main = effect.lines
    assert list(main.get_xdata()) == [1.1, 0.6, 0.25, 0.25]
    assert [round(y) for y in signs.get_ydata()] == [0, -1, -2, -3]
    assert list(signs.get_xdata()) == [0, 0, 0.25, 0.25]


@pytest.mark.parametrize("name", ["cumulative_effect", "patch_modes"])
def test_effects_and_intervals_that_are_undefined_are_left_out(name, tmp_path):
    """Where resamples need not show a drop there is no share, of one prompt no interval."""
    table = make_interventions()
    table.loc[4:, ["effect_share_low", "effect_share_high"]] = np.nan
    columns = ["effect_share", "effect_share_low", "effect_share_high"]
    table.loc[table["intervention"] == "top-1", columns] = np.nan
    table.to_csv(tmp_path / "interventions.csv", index=False)
    draw(name, {"interventions": tmp_path / "interventions.csv"}, tmp_path)
    assert (tmp_path / f"{name}.png").exists()
    low, high = effect_plots.effect_limits(table)
    assert -1 < low < -0.3 < 1.1 < high < 2


@pytest.mark.parametrize("name", ["cumulative_effect", "patch_modes"])
def test_an_empty_panel_says_why(name, monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(style, "save_figure", lambda figure, *paths: figures.append(figure))
    for shares in (make_interventions()["effect_share"], np.nan):
        table = make_interventions().assign(effect_share=shares)
        table.to_csv(tmp_path / "interventions.csv", index=False)
        draw(name, {"interventions": tmp_path / "interventions.csv"}, tmp_path)
    place = 1 if name == "cumulative_effect" else 0  # behind the panel of the divergence
    known, unknown = ([text.get_text() for text in figure.axes[place].texts] for figure in figures)
    assert known == []
    assert "tuning did not surely lower negative sentiment" in unknown[0].replace("\n", " ")


def test_scorer_effects_draws_every_two_scorers_against_each_other():
    table = make_interventions()
    third = table[table["scorer"] == SCORERS[0]].assign(scorer="third", effect_share=np.nan)
    table = pd.concat([table, third]).sort_index(kind="stable")
    scorers = [*SCORERS, "third"]
    module = import_module("draw_scorer_effects")
    figure = module.figure_scorer_effects(table, make_agreement(scorers), **WORDS, **NAMES)
    one, hidden, two, three = figure.axes
    assert not hidden.get_visible()
    random, signs, edited, diagonal, base, tuned = one.lines
    assert list(edited.get_xdata()) == [0.8, 0.01, 0.1, 1.1, 0.6]
    assert edited.get_ydata() == pytest.approx(edited.get_xdata() / 2)
    assert sorted(random.get_xdata()) == [-0.3, -0.3, 0.1, 0.1]
    assert list(signs.get_xdata()) == [0, 0]
    assert [list(line.get_xydata()[0]) for line in (base, tuned)] == [[0, 0], [1, 1]]
    assert (diagonal.get_xy1(), diagonal.get_xy2()) == ((0, 0), (1, 1))
    along, upright = (lines.get_segments() for lines in one.collections)
    assert along[0].tolist() == [pytest.approx([0.6, 0.4]), pytest.approx([1.0, 0.4])]
    assert upright[0].tolist() == [pytest.approx([0.8, 0.3]), pytest.approx([0.8, 0.5])]
    said = "rank correlation\n−0.25 over interventions\n0.50 over continuations"
    assert [ax.get_title() for ax in (one, two, three)] == [said] * 3
    assert [ax.get_ylabel() for ax in (one, two)] == [f"effect share\nby {s}" for s in scorers[1:]]
    assert [ax.get_xlabel() for ax in (two, three)] == [f"effect share\nby {s}" for s in SCORERS]
    for ax in (two, three):
        assert len(ax.lines) == 0
        assert "did not surely" in ax.texts[0].get_text()


def test_agreement_that_is_not_known_is_said_so():
    describe = import_module("draw_scorer_effects").describe_agreement
    agreement = make_agreement(SCORERS).assign(spearman=[np.nan, 0.5])
    assert describe(agreement, *SCORERS) == "rank correlation\n0.50 over interventions"
    unknown = describe(agreement.assign(spearman=np.nan), *SCORERS)
    assert unknown == "rank correlation\nunknown: all scores are alike"


def test_learning_curve_draws_steps_and_held_out_pairs():
    curve = make_curve(6)
    figure = import_module("draw_learning_curve").figure_learning_curve(curve, "ipo", **NAMES)
    for ax, name in zip(figure.axes, ("loss", "accuracy", "margin"), strict=True):
        lines = {line.get_color(): line.get_xydata() for line in ax.lines}
        np.testing.assert_array_equal(lines["C0"], curve[["step", name]])
        held_out = curve.loc[1::2, ["step", f"held_out_{name}"]]
        np.testing.assert_array_equal(lines["C1"], held_out)
        assert set(lines[style.DARK][:, 0]) == {2}  # where the weights are taken from
    assert "IPO" in figure.get_suptitle()


def test_learning_curve_of_a_method_without_rewards_has_only_losses():
    curve = make_curve(1)[["step", "loss"]]
    figure = import_module("draw_learning_curve").figure_learning_curve(curve, "simpo", **NAMES)
    assert "Learning curve (SimPO)" in figure.get_suptitle()
    (ax,) = figure.axes
    assert ax.lines[0].get_marker() == "o"  # a line of one point would not be seen
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["pairs of the step"]


def test_only_the_hyphens_of_groups_become_minus_signs():
    names = {
        "mean-TP-AN-": "mean-TP−AN−",
        "without-TN+": "without-TN+",
        "ablate-positive-100": "ablate-positive-100",
        "TP-": "TP−",
        "STOP-1": "STOP-1",
    }
    assert {name: style.name_of_intervention(name) for name in names} == names


@pytest.mark.parametrize(
    ("values", "inside"),
    [
        ([25.5, 31.0], 25.5),
        ([25.0, 4e6], 4e6),
        ([3.0, 3.0], 3.0),
        ([5.0, np.inf, np.nan], 5.0),
        ([np.nan], 5.0),
    ],
)
def test_logarithmic_axes_hold_their_values(values, inside):
    _, (ax,) = style.new_figure("title", **NAMES)
    style.scale_logarithmically(ax.yaxis, values)
    low, high = ax.get_ylim()
    assert 0 < low < inside < high < 1e8
    assert ax.get_yscale() == "log"
    assert ax.get_xscale() == "linear"
    assert sum(low <= tick <= high for tick in ax.get_yticks()) >= 2


def test_residual_shift_draws_every_part_and_sums_them_up():
    table = make_shifts(3).sample(frac=1, random_state=0)
    figure = import_module("draw_residual_shift").figure_residual_shift(table, **NAMES)
    upper, lower = figure.axes
    drawn = bars(upper)
    assert drawn["height"].tolist() == [1, 0, 1, 2, -2, -2, -2]
    assert drawn["x"].tolist() == pytest.approx([-1, -0.2, 0.8, 1.8, 0.2, 1.2, 2.2])
    intervals = [lines.get_segments() for lines in upper.collections]
    assert [len(segments) for segments in intervals] == [1, 3, 3]
    assert intervals[1][2].tolist() == [pytest.approx([1.8, 1.7]), pytest.approx([1.8, 2.2])]
    own, same = lower.lines[:2]
    assert list(own.get_xdata()) == [-1, 0, 1, 2]
    assert list(own.get_ydata()) == [1, -1, -2, -2]
    assert list(same.get_ydata()) == [0.5, -0.5, -1, -1]
    assert [lines.get_segments()[0][:, 1].tolist() for lines in lower.collections] == [
        pytest.approx([-2.3, -1.8]),
        pytest.approx([-1.15, -0.9]),
    ]
    ticks = [label.get_text() for label in lower.get_xticklabels()]
    assert ticks == ["emb.", "0", "1", "2"]


def test_reduction_sources_draws_the_parts_of_the_groups_and_of_all_neurons():
    groups = make_groups(make_neurons(6, 100))
    table = make_sources(groups).sample(frac=1, random_state=0)
    figure = import_module("draw_reduction_sources").figure_reduction_sources(table, **NAMES)
    ax = figure.axes[0]
    totals = [*groups["share_gross"][:8], 0.3]
    heights = [part * total for part in (0.6, -0.1, 0.5) for total in totals]
    assert bars(ax)["height"].tolist() == pytest.approx(heights)
    places = bars(ax)["x"].to_numpy().reshape(3, 9)
    assert places[1].tolist() == pytest.approx(list(range(9)))
    assert (np.diff(places, axis=0) > 0).all()
    ends = [segment[:, 1] for lines in ax.collections for segment in lines.get_segments()]
    assert np.ravel(ends) == pytest.approx([h + d for h in heights for d in (-0.02, 0.01)])
    assert [line.get_ydata()[0] for line in ax.lines[:9]] == pytest.approx(totals)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == [*map(style.with_minus, REDUCING + INCREASING), "all\nneurons"]


# How it looks


@pytest.mark.parametrize("name", INPUTS)
def test_no_text_is_cut_off_or_covered(name, tables, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(style, "save_figure", lambda figure, *paths: figures.append(figure))
    draw(name, tables, tmp_path)
    (figure,) = figures
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    whole = figure.get_tightbbox(renderer)  # in inches
    assert min(whole.x0, whole.y0) >= 0
    assert (whole.x1, whole.y1) <= tuple(figure.get_size_inches())
    texts = [
        text
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible() and not is_hidden_tick_label(text, figure)
    ]
    assert not any("toxic" in text.get_text().lower() for text in texts)  # another behaviour
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    for (first, box), (second, other) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other), f"{first!r} and {second!r} overlap"
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text
    legend_boxes = [legend.get_window_extent(renderer) for legend in figure.legends]
    for legend, ax in itertools.product(legend_boxes, figure.axes):
        assert not legend.overlaps(ax.get_window_extent(renderer))


def is_hidden_tick_label(text: Text, figure) -> bool:
    """Whether a text belongs to a tick outside the limits, which is not drawn."""
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if text in (tick.label1, tick.label2):
                    return not low <= tick.get_loc() <= high
    return False


def test_groups_differ_without_colour():
    for groups in (REDUCING, INCREASING):
        assert len({style.bar_style(group)["hatch"] for group in groups}) == 4
        assert len({style.group_marker(group) for group in groups}) == 4
        assert len({style.group_colour(group) for group in groups}) == 4
    for reducing, increasing in zip(REDUCING, INCREASING, strict=True):
        assert sum(style.group_colour(increasing)) > sum(style.group_colour(reducing))


# Files


@FEW
@pytest.mark.parametrize("name", INPUTS)
def test_both_files_are_written_and_the_same_each_time(name, tables, tmp_path):
    written = []
    for run in ("first", "second"):
        draw(name, tables, tmp_path / run)
        svg, png = tmp_path / run / f"{name}.svg", tmp_path / run / f"{name}.png"
        written.append((svg.read_bytes(), png.read_bytes()))
        assert sorted(path.name for path in svg.parent.iterdir()) == [png.name, svg.name]
    assert written[0] == written[1]
    assert b"<svg" in written[0][0]
    assert b"<dc:date>" not in written[0][0]
    assert written[0][1].startswith(b"\x89PNG")


@pytest.mark.parametrize("name", INPUTS)
def test_a_tuned_model_that_changed_nothing(name, tmp_path):
    neurons = make_neurons(2, 8).assign(reduction=0.0, group="unchanged")
    neurons["activation_tuned"] = neurons["activation_base"]
    neurons["projection_tuned"] = neurons["projection_base"]
    tables = write_tables(tmp_path, neurons, make_groups(neurons), make_layers(2))
    draw(name, tables, tmp_path)
    assert (tmp_path / f"{name}.png").exists()


# What is refused


@FEW
@pytest.mark.parametrize("name", INPUTS)
def test_a_missing_column_is_named(name, tables, tmp_path):
    module = import_module(f"draw_{name}")
    column = getattr(module, "COLUMNS", COLUMNS_OF.get(INPUTS[name]))[-1]
    path = tables[INPUTS[name]]
    table = pd.read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
    table = table.drop(columns=column)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=rf"{path.name}: no column {column}"):
        draw(name, tables, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_table_is_refused(tmp_path):
    make_layers(2).head(0).to_csv(tmp_path / "layers.csv", index=False)
    with pytest.raises(ValueError, match="no row"):
        draw("layer_projection", {"layers": tmp_path / "layers.csv"}, tmp_path)


def test_an_unknown_group_is_refused(tmp_path):
    neurons = make_neurons(2, 8).assign(group="XY-")
    neurons.to_parquet(tmp_path / "neurons.parquet")
    with pytest.raises(ValueError, match="unknown group XY-"):
        draw("layer_groups", {"neurons": tmp_path / "neurons.parquet"}, tmp_path)


def test_a_missing_state_is_refused(tmp_path):
    table = make_layers(2).query("state != 'base-ablated'")
    table.to_csv(tmp_path / "layers.csv", index=False)
    with pytest.raises(ValueError, match="no rows of the state base-ablated"):
        draw("layer_projection", {"layers": tmp_path / "layers.csv"}, tmp_path)


def test_a_missing_group_is_refused(tmp_path):
    groups = make_groups(make_neurons(2, 8)).query("group != 'AP+'")
    groups.to_csv(tmp_path / "groups.csv", index=False)
    with pytest.raises(ValueError, match=r"no row of the group AP\+"):
        draw("group_shares", {"groups": tmp_path / "groups.csv"}, tmp_path)


@FEW
def test_a_missing_seed_is_refused(tables, tmp_path):
    table = read_csv(tables["shares"]).drop(columns="seed_12")
    table.to_csv(tables["shares"], index=False)
    with pytest.raises(ValueError, match=r"shares\.csv: no column seed_12"):
        draw("seed_shares", tables, tmp_path)


def test_account_draws_parts_and_layers():
    table = make_account(4).sample(frac=1, random_state=0)
    figure = import_module("draw_account").figure_account(table, **NAMES)
    parts, direct, causal, weights = figure.axes
    assert [label.get_text() for label in parts.get_yticklabels()][2] == "MLPs"
    points = parts.lines[2:]  # behind the unedited models
    shown = [list(dict.fromkeys(line.get_xdata().round(6))) for line in points]
    assert shown == [[0.3], [0.7], [0.15], [0.85]]
    attention, mlp = direct.lines[:2]
    assert list(attention.get_ydata()) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert list(mlp.get_ydata()) == pytest.approx([0, 0.01, 0.02, 0.03])
    assert list(weights.lines[0].get_ydata()) == pytest.approx([0, 0.05, 0.1, 0.15])
    assert causal.get_ylim() == weights.get_ylim()


def test_rankings_draw_a_panel_for_each_kind_of_units():
    table = make_rankings().sample(frac=1, random_state=0).sort_values("operation")
    figure = import_module("draw_rankings").figure_rankings(table, **NAMES)
    assert [ax.get_title() for ax in figure.axes] == [
        "activations of neurons",
        "weights of all units of the blocks",
    ]
    for ax in figure.axes:
        lines = {str(line.get_marker()): list(line.get_ydata()) for line in ax.lines[2:]}
        assert lines["x"] == pytest.approx([0.01, 0.1, 0.5, 1.0])  # by chance
        assert lines["D"] == pytest.approx([0.01**0.2, 0.1**0.2, 0.5**0.2, 1.0])
        assert ax.get_xscale() == "log"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["gradient × change of weights", "random"]


def test_an_account_without_a_part_is_refused(tmp_path):
    table = make_account(2).query("part != 'final_norm'")
    table.to_csv(tmp_path / "account.csv", index=False)
    with pytest.raises(ValueError, match=r"account\.csv: no row of final_norm"):
        draw("account", {"account": tmp_path / "account.csv"}, tmp_path)


@FEW
def test_seeds_without_a_group_are_refused(tables, tmp_path):
    table = read_csv(tables["shares"]).query("part != 'AN-'")
    table.to_csv(tables["shares"], index=False)
    with pytest.raises(ValueError, match=r"no share_gross of the group AN-"):
        draw("seed_shares", tables, tmp_path)


@pytest.mark.parametrize(
    ("name", "kept", "said"),
    [
        ("cumulative_effect", "experiment != 'curve'", "no intervention of the experiment curve"),
        ("patch_modes", "control_of == ''", "no intervention has controls"),
        ("patch_modes", "state == 'base'", "no intervention none of the state tuned"),
        ("cumulative_effect", "experiment != 'first'", "no intervention none of the state base"),
        ("tradeoff", "state == 'tuned'", "no edit of the base model"),
    ],
)
def test_interventions_without_what_is_drawn_are_refused(name, kept, said, tmp_path):
    path = tmp_path / "interventions.csv"
    make_interventions().query(kept).to_csv(path, index=False)
    with pytest.raises(ValueError, match=rf"interventions\.csv: {said}"):
        draw(name, {"interventions": path}, tmp_path)


def test_scorers_without_a_correlation_are_refused(tmp_path):
    tables = {name: tmp_path / f"{name}.csv" for name in ("interventions", "scorers")}
    make_interventions().to_csv(tables["interventions"], index=False)
    make_agreement([SCORERS[0], "other"]).to_csv(tables["scorers"], index=False)
    said = f"scorers.csv: no correlation of the scorers {' and '.join(SCORERS)}"
    with pytest.raises(ValueError, match=said):
        draw("scorer_effects", tables, tmp_path)


def test_a_missing_component_is_refused(tmp_path):
    make_shifts(2).query("component != 'mlp'").to_csv(tmp_path / "shifts.csv", index=False)
    with pytest.raises(ValueError, match=r"shifts\.csv: no row of the component mlp"):
        draw("residual_shift", {"shifts": tmp_path / "shifts.csv"}, tmp_path)


def test_a_missing_part_is_refused(tmp_path):
    table = make_sources(make_groups(make_neurons(2, 8)))
    table = table.query("part != 'value' or group not in ('TN+', 'all')")
    table.to_csv(tmp_path / "sources.csv", index=False)
    with pytest.raises(ValueError, match=r"sources\.csv: no row of the part value for TN\+, all"):
        draw("reduction_sources", {"sources": tmp_path / "sources.csv"}, tmp_path)


def test_nearness_far_below_the_unedited_model_is_written_at_the_edge():
    """Where an edit leads away from the other model, the axis does not follow it."""
    table = make_interventions().query("scorer == @SCORERS[0]")
    shares = ["kl_share", "kl_share_low", "kl_share_high"]
    table.loc[table["intervention"] == "top-100", shares] = -17.8, -20.0, -15.0
    table.loc[table["intervention"] == "top-1", "margin_share"] = 4.3
    figure = import_module("draw_fidelity").figure_fidelity(table, "base", "tuned")
    (ax,) = figure.axes
    assert ax.get_xlim()[0] > -1.3
    written = [text.get_text() for text in ax.texts]
    assert "\N{BLACK LEFT-POINTING SMALL TRIANGLE} \N{MINUS SIGN}17.8" in written
    assert ax.get_xlim()[1] < 1.8
    assert "\N{MULTIPLICATION SIGN} 4.3 \N{BLACK RIGHT-POINTING SMALL TRIANGLE}" in written
    assert {"modes", "curve"} <= set(written)  # experiments are named beside their rows
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(names) == 5  # neither baselines nor controls have rows
