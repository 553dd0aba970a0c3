"""Draw figure 2c of the paper: how tuning moved the neurons of largest reduction, as arrows from
the base model's projection to the tuned model's, over their cosine with the direction. A few
neurons move far more than the rest, so a second panel enlarges the middle of the first."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.figures import style
from neurondynamics.study.behaviour import Behaviour

COLUMNS = ["cosine", "projection_base", "projection_tuned", "reduction", "group"]
TOP = 500
MIDDLE = 0.9  # part of the arrows' ends that the enlarged panel spans


def draw_arrows(ax: Axes, neurons: pd.DataFrame) -> list:
    """Draw an arrow for each neuron and a marker at its tail; return a handle for each group."""
    handles = []
    for group in GROUPS:
        rows = neurons[neurons["group"] == group]
        if rows.empty:
            continue
        color = style.group_colour(group)
        ax.quiver(
            rows["cosine"],
            rows["projection_base"],
            np.zeros(len(rows)),
            rows["projection_tuned"] - rows["projection_base"],
            angles="xy",
            scale_units="xy",
            scale=1,
            units="inches",
            width=0.012,
            headwidth=5,
            headlength=6,
            headaxislength=5,
            minlength=0,
            color=color,
            zorder=3,
        )
        tails = ax.scatter(
            rows["cosine"],
            rows["projection_base"],
            s=12,
            marker=style.group_marker(group),
            facecolor="white",
            edgecolor=color,
            linewidth=0.8,
            label=f"{style.with_minus(group)}: {len(rows)}",
            zorder=2,
        )
        handles.append(tails)
    # quiver sees only the arrows' tails: the heads must be inside the axes too
    ax.update_datalim(neurons[["cosine", "projection_tuned"]].to_numpy())
    ax.autoscale_view()
    return handles


def figure_neuron_shifts(
    neurons: pd.DataFrame, behaviour: Behaviour, model: str, tuned: str
) -> Figure:
    """Return one arrow for each of the TOP neurons of largest, positive reduction."""
    top = neurons[neurons["reduction"] > 0].nlargest(TOP, "reduction")
    figure, (upper, lower) = style.new_figure(
        f"Shifts of the top {len(top):,} neurons by reduction", model, tuned, rows=2, height=6.2
    )
    for ax in (upper, lower):
        style.mark_zero(ax)
        ax.axvline(0, color="0.4", linewidth=0.8, zorder=1)
        handles = draw_arrows(ax, top)
    if not top.empty:
        ends = top[["projection_base", "projection_tuned"]]
        lower.set_ylim(*np.quantile(ends, [0.5 - MIDDLE / 2, 0.5 + MIDDLE / 2]))
    upper.set_title(f"\N{LEFTWARDS ARROW} {behaviour.anti}", loc="left", fontsize=10)
    upper.set_title(f"{behaviour.adjective} \N{RIGHTWARDS ARROW}", loc="right", fontsize=10)
    lower.set_title("the same, enlarged", loc="left", fontsize=10)
    lower.xaxis.set_major_locator(MaxNLocator(nbins=7))
    label = f"cosine of the value vector with the {behaviour.name} direction"
    lower.set_xlabel(textwrap.fill(label, 60))
    label = f"projection on the {behaviour.name} direction ({style.UNITS})"
    figure.supylabel(textwrap.fill(label, 65), fontsize=10)
    style.legend_below(figure, handles, columns=4)
    return figure


def draw_neuron_shifts(
    neurons: str, svg: str, png: str, behaviour: Behaviour, model: str, tuned: str
) -> None:
    """Read the table of neurons and save the figure."""
    table = style.read_table(neurons, COLUMNS)
    style.save_figure(figure_neuron_shifts(table, behaviour, model, tuned), svg, png)


if __name__ == "__main__":
    draw_neuron_shifts(
        neurons=snakemake.input.neurons,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        behaviour=Behaviour(**snakemake.params.behaviour),
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
