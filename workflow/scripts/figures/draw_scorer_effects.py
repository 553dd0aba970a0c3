"""Draw the effect shares of the interventions by one scorer against those by another, for every two
scorers, with the rank correlation of their scores: would another scorer have found the same?"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from neurondynamics.figures import effect_plots, style
from neurondynamics.study.behaviour import Behaviour

COLUMNS = ["scorer_a", "scorer_b", "over", "n", "spearman"]
PANEL = 2.5  # inches of every panel, where there are more than one
POINT = {"color": "C0", "marker": "D", "markersize": 4.5, "markeredgecolor": style.DARK}
DIAGONAL = {"color": "0.6", "linewidth": 0.9, "zorder": 1}
MODELS = {"base": {"marker": "P", "color": "0.4"}, "tuned": {"marker": "X", "color": "C3"}}
STATE = {"linestyle": "none", "markersize": 8, "markeredgecolor": style.DARK, "zorder": 4}


def figure_scorer_effects(
    table: pd.DataFrame, agreement: pd.DataFrame, behaviour: Behaviour, model: str, tuned: str
) -> Figure:
    """Return a panel for every two scorers: the earlier one along x, the later one along y.

    `table`: the table of interventions; `agreement`: that of rank correlations.
    """
    scorers = dict(effect_plots.by_scorer(table))
    names = list(scorers)
    side = len(names) - 1
    size = {"height": 5.4} if side == 1 else {"height": PANEL * side + 1.2, "width": PANEL * side}
    figure, axes = style.new_figure(
        "Effect of the interventions by different scorers",
        model,
        tuned,
        rows=side,
        columns=side,
        **size,
    )
    grid = np.reshape(axes, (side, side))
    for row, column in zip(*np.triu_indices(side, 1), strict=True):
        grid[row, column].set_visible(False)
    for one, other in combinations(range(len(names)), 2):
        ax = grid[other - 1, one]
        pair = [names[one], names[other]]
        draw_pair(ax, *(scorers[name] for name in pair), behaviour)
        ax.set_title(describe_agreement(agreement, *pair), fontsize=9)
        if other == side:
            ax.set_xlabel(f"effect share\nby {pair[0]}")
        if one == 0:
            ax.set_ylabel(f"effect share\nby {pair[1]}")
    handles = [Line2D([], [], label="intervention", linestyle="none", **POINT)]
    handles += effect_plots.legend_of_controls(table["control"])
    for state, look in MODELS.items():
        handles.append(Line2D([], [], label=effect_plots.MODELS[state][0], **look, **STATE))
    handles.append(Line2D([], [], label="equal shares", **DIAGONAL))
    style.legend_below(figure, handles, columns=3)
    return figure


def draw_pair(ax: Axes, one: pd.DataFrame, other: pd.DataFrame, behaviour: Behaviour) -> None:
    """Draw the shares by two scorers with their intervals, and the two models.

    `one`, `other`: each scorer's rows of the table of interventions.
    """
    rows = one.merge(other, on=["experiment", "intervention"], suffixes=("", "_other"))
    rows = rows[rows["intervention"] != "none"]
    of_other = rows[["effect_share_other", "effect_share_low_other", "effect_share_high_other"]]
    of_other = of_other.rename(columns=lambda name: name.removesuffix("_other"))
    limits = [effect_plots.effect_limits(shares) for shares in (rows, of_other)]
    x, y = rows["effect_share"], of_other["effect_share"]
    edited = rows["control_of"] == ""
    known = edited & x.notna() & y.notna()
    ax.set(xlim=limits[0], ylim=limits[1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5))
    if not known.any():
        effect_plots.explain_absence(ax, rows.assign(effect_share=np.nan), behaviour)
        return
    for kind, draws in rows[~edited].groupby("control"):
        effect_plots.mark_controls(ax, kind, x[draws.index], y[draws.index])
    look = {"color": "C0", "linewidth": 0.8, "alpha": 0.45, "zorder": 2}
    ax.hlines(y[known], *effect_plots.effect_interval(rows[known]), **look)
    ax.vlines(x[known], *effect_plots.effect_interval(of_other[known]), **look)
    ax.plot(x[edited], y[edited], linestyle="none", zorder=3, **POINT)
    ax.axline((0, 0), (1, 1), **DIAGONAL)
    for state, look in MODELS.items():
        share = effect_plots.MODELS[state][1]
        ax.plot(share, share, **look, **STATE)


def describe_agreement(agreement: pd.DataFrame, one: str, other: str) -> str:
    """Return two scorers' rank correlations over interventions and over continuations."""
    pair = agreement[(agreement["scorer_a"] == one) & (agreement["scorer_b"] == other)]
    correlations = pair.set_index("over")["spearman"]
    known = [
        style.with_minus(f"{correlations[over]:.2f} over {over}")
        for over in ("interventions", "continuations")
        if np.isfinite(correlations[over])
    ]
    return "\n".join(["rank correlation", *(known or ["unknown: all scores are alike"])])


def draw_scorer_effects(
    interventions: str,
    scorers: str,
    svg: str,
    png: str,
    behaviour: Behaviour,
    model: str,
    tuned: str,
) -> None:
    """Read the tables of interventions and of rank correlations and save the figure.

    Raises ValueError where the table of correlations lacks two of the scorers.
    """
    table = effect_plots.read_interventions(interventions)
    agreement = style.read_table(scorers, COLUMNS)
    found = set(agreement[["scorer_a", "scorer_b"]].itertuples(index=False, name=None))
    for pair in combinations(table["scorer"].unique(), 2):
        if pair not in found:
            raise ValueError(f"{scorers}: no correlation of the scorers {' and '.join(pair)}")
    style.save_figure(figure_scorer_effects(table, agreement, behaviour, model, tuned), svg, png)


if __name__ == "__main__":
    draw_scorer_effects(
        interventions=snakemake.input.interventions,
        scorers=snakemake.input.scorers,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        behaviour=Behaviour(**snakemake.params.behaviour),
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
