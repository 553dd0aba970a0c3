"""Draw figure 3 of the paper: the reduction of each layer, stacked by group of neurons. Groups that
reduce it rise above zero, groups that increase it hang below, and a line shows the net."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import pandas as pd
from matplotlib.figure import Figure
from neurondynamics.analysis.attribution import INCREASING, REDUCING
from neurondynamics.figures import style


def figure_layer_groups(neurons: pd.DataFrame, model: str, tuned: str) -> Figure:
    """Return bars stacked by group for each layer, and the line of their net."""
    figure, (ax,) = style.new_figure("Reduction by layer and group", model, tuned, height=4.4)
    sums = neurons.pivot_table(
        index="layer", columns="group", values="reduction", aggfunc="sum", fill_value=0.0
    )
    stacked = sums.reindex(columns=[*REDUCING, *INCREASING], fill_value=0.0)
    patches = style.stack_bars(ax, sums.index, dict(stacked.items()))
    style.mark_zero(ax)
    net = ax.plot(
        sums.index,
        sums.sum(axis=1),
        color="black",
        linewidth=1.4,
        marker="o",
        markersize=4.5,
        markerfacecolor="white",
        label="net",
        zorder=3,
    )
    style.count_along(ax, sums.index.min(), sums.index.max(), "layer")
    ax.set_ylabel(f"reduction of the projection\n({style.UNITS})")
    pairs = [patch for pair in zip(patches[:4], patches[4:], strict=True) for patch in pair]
    style.legend_below(figure, [*pairs, *net], columns=5)
    return figure


def draw_layer_groups(neurons: str, svg: str, png: str, model: str, tuned: str) -> None:
    """Read the table of neurons and save the figure."""
    table = style.read_table(neurons, ["layer", "reduction", "group"])
    style.save_figure(figure_layer_groups(table, model, tuned), svg, png)


if __name__ == "__main__":
    draw_layer_groups(
        neurons=snakemake.input.neurons,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
