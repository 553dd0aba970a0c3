"""Draw figure 4 of the paper: the mean activation of the neurons of highest cosine before and after
tuning, and how many of them are negatively activated on average."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from neurondynamics.figures import style
from neurondynamics.study.behaviour import Behaviour

COLUMNS = ["cosine", "activation_base", "activation_tuned"]
TOP = 100


def figure_top_activations(
    neurons: pd.DataFrame, behaviour: Behaviour, model: str, tuned: str
) -> Figure:
    """Return a pair of markers for each of the TOP neurons of highest cosine, the highest first."""
    top = neurons.nlargest(TOP, "cosine")
    figure, (ax,) = style.new_figure(
        f"Activation of the top {len(top):,} neurons by cosine", model, tuned
    )
    style.mark_zero(ax)
    ranks = np.arange(1, len(top) + 1)
    ax.vlines(
        ranks,
        top["activation_base"],
        top["activation_tuned"],
        color="0.5",
        linewidth=0.9,
        zorder=2,
    )
    handles = []
    for name, column, look in (
        (
            "base model",
            "activation_base",
            {"marker": "o", "markerfacecolor": "white", "color": "C0"},
        ),
        ("tuned model", "activation_tuned", {"marker": "v", "color": "C3"}),
    ):
        negative = int((top[column] < 0).sum())
        handles += ax.plot(
            ranks,
            top[column],
            linestyle="none",
            markersize=4.5,
            label=f"{name}: {negative} of {len(top)} negative",
            zorder=3,
            **look,
        )
    label = textwrap.fill(f"rank by cosine with the {behaviour.name} direction", 50)
    style.count_along(ax, 1, len(top), label)
    # a few neurons dwarf the rest: linear around zero, logarithmic beyond the typical activation
    typical = np.abs(top[["activation_base", "activation_tuned"]].to_numpy()).max(axis=1)
    linear = 10 ** np.ceil(np.log10(max(np.median(typical), 1e-9)))  # so that no tick is below it
    ax.set_yscale("symlog", linthresh=linear, linscale=2)
    ax.margins(y=0.08)
    ax.set_ylabel("mean activation\n(a.u., symmetric log scale)")
    style.legend_below(figure, handles, columns=1)
    return figure


def draw_top_activations(
    neurons: str, svg: str, png: str, behaviour: Behaviour, model: str, tuned: str
) -> None:
    """Read the table of neurons and save the figure."""
    table = style.read_table(neurons, COLUMNS)
    style.save_figure(figure_top_activations(table, behaviour, model, tuned), svg, png)


if __name__ == "__main__":
    draw_top_activations(
        neurons=snakemake.input.neurons,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        behaviour=Behaviour(**snakemake.params.behaviour),
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
