"""Draw what every edit of the base model changes against what it does besides: how much of the
tuning's effect it reproduces, over how far it takes the model from itself on neutral text."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from neurondynamics.figures import effect_plots, style
from neurondynamics.study.behaviour import Behaviour

COLUMNS = ("experiment", "intervention", "scorer", "control_of", "control", "state")
COLUMNS += ("effect_share", "effect_share_low", "effect_share_high")
COLUMNS += ("difference_none", "difference_none_low", "difference_none_high")
COLUMNS += ("neutral_kl", "neutral_kl_low", "neutral_kl_high")
LEAST = 1e-5  # nats per token from which the axis goes, a hundred times what rounding gives
MARKERS = "osD^vP*X<>"  # beside colours, one for each experiment
ENDS = ("", "_low", "_high")


def figure_tradeoff(
    table: pd.DataFrame, behaviour: Behaviour, model: str, tuned: str, scorer: str
) -> Figure:
    """Return effect over damage, as one scorer judges it, with the front of the best edits.

    `table`: that scorer's rows of edits of the base model and of their controls.
    """
    rows, reached = with_places(table)
    edits, draws = rows[rows["control_of"] == ""], rows[rows["control_of"] != ""]
    figure, (ax,) = style.new_figure(
        f"{behaviour.name.capitalize()} against damage to other text, judged by {scorer}",
        model,
        tuned,
        height=4.8,
        width=6.5,
    )
    handles = []
    if reached:
        for label, share, look in effect_plots.MODELS.values():
            ax.axhline(share, zorder=1, **look)
            handles.append(Line2D([], [], label=label, **look))
        ax.set_ylabel("share of the tuning's effect")
    else:
        ax.axhline(0, zorder=1, color="0.4", linestyle=":")
        ax.set_ylabel(f"drop in {behaviour.name}, mean score")
    for kind, some in draws.groupby("control"):
        effect_plots.mark_controls(ax, kind, some["x"], some["y"])
    handles += list(mark_edits(ax, edits))
    best = front(edits)
    look = {"color": "0.25", "linewidth": 1.0, "drawstyle": "steps-post", "zorder": 2}
    ax.plot(best["x"], best["y"], **look)
    handles.append(Line2D([], [], label="no edit does more for less", color="0.25", linewidth=1.0))
    every = [*rows["x"], *rows["x_low"], *rows["x_high"]]
    style.scale_logarithmically(ax.xaxis, every)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("KL(unedited ‖ edited) on neutral text, nats per token (logarithmic scale)")
    name_beside(ax, best)
    style.legend_below(
        figure, [*handles, *effect_plots.legend_of_controls(draws["control"])], columns=3
    )
    return figure


def with_places(table: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """Return rows with `x` and `y`, each with both ends, and whether y is a share of the effect.

    Where no share is known it is the drop in the mean score. What has no place is left out.
    """
    reached = bool(table["effect_share"].notna().any())
    source, sign = ("effect_share", 1) if reached else ("difference_none", -1)
    places = {f"x{end}": table[f"neutral_kl{end}"].clip(lower=LEAST) for end in ENDS}
    places |= {f"y{end}": sign * table[f"{source}{end}"] for end in ENDS}
    placed = table.assign(**places)
    return placed[placed[["x", "y"]].notna().all(axis=1)], reached


def mark_edits(ax: Axes, edits: pd.DataFrame) -> Iterator[Line2D]:
    """Draw the edits with their intervals, and yield a handle for each experiment."""
    palette = sns.color_palette("colorblind")
    for number, (experiment, some) in enumerate(edits.groupby("experiment", sort=False)):
        colour = palette[number % len(palette)]
        ax.hlines(some["y"], some["x_low"], some["x_high"], color=colour, linewidth=0.8, alpha=0.6)
        ax.vlines(some["x"], some["y_low"], some["y_high"], color=colour, linewidth=0.8, alpha=0.6)
        look = {"color": colour, "marker": MARKERS[number % len(MARKERS)], "linestyle": "none"}
        look |= {"markersize": 5.5, "markeredgecolor": style.DARK, "markeredgewidth": 0.5}
        ax.plot(some["x"], some["y"], zorder=3, **look)
        yield Line2D([], [], label=experiment, **look)


def front(edits: pd.DataFrame) -> pd.DataFrame:
    """Return the edits with an effect that no other surpasses: by growing damage, each with more
    effect than all before."""
    ordered = edits.sort_values(["x", "y"], ascending=[True, False], kind="stable")
    before = ordered["y"].cummax().shift(fill_value=0).clip(lower=0)
    return ordered[ordered["y"] > before]


def name_beside(ax: Axes, best: pd.DataFrame) -> None:
    """Name edits right of the axes, each joined to its mark by a line, so that no name covers
    another."""
    low, high = ax.get_ylim()
    step = 0.055 * (high - low)
    places, names = best["y"].to_numpy(), map(style.name_of_intervention, best["intervention"])
    spread = np.empty(len(places))  # the front rises: from the top down, at least a step apart
    ceiling = high - step / 2
    for index in reversed(range(len(places))):
        spread[index] = ceiling = min(places[index], ceiling)
        ceiling -= step
    spread += max(0.0, low + step / 2 - spread.min()) if len(spread) else 0.0
    for name, x, y, at in zip(names, best["x"], places, spread, strict=True):
        ax.annotate(
            name,
            (x, y),
            xytext=(1.02, at),
            textcoords=ax.get_yaxis_transform(),
            fontsize=7,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.5, "shrinkB": 3},
        )
    ax.set_ylim(low, high)


def draw_tradeoff(
    interventions: str, svg: str, png: str, behaviour: Behaviour, model: str, tuned: str
) -> None:
    """Read the table of interventions and save the figure; ValueError if no edit is in it."""
    table = style.read_table(interventions, COLUMNS)
    scorer = table["scorer"].iloc[0]
    edited = (table["state"] == "base") & (table["intervention"] != "none")
    table = table[edited & (table["scorer"] == scorer) & table["neutral_kl"].notna()]
    if table.empty:
        raise ValueError(
            f"{interventions}: no edit of the base model that was read on neutral text"
        )
    style.save_figure(figure_tradeoff(table, behaviour, model, tuned, scorer), svg, png)


if __name__ == "__main__":
    draw_tradeoff(
        interventions=snakemake.input.interventions,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        behaviour=Behaviour(**snakemake.params.behaviour),
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
