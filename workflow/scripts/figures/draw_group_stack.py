"""Draw figure 2b of the paper: how the four reducing groups of neurons stack up to the gross
reduction, and what part of it each holds, as ever more of their neurons are counted, from the one
that reduces it most."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from neurondynamics.analysis.attribution import REDUCING
from neurondynamics.figures import style

BARS = 12


def rank_cuts(total: int) -> np.ndarray:
    """Return up to BARS numbers of neurons: the largest of 1, 2, 5, 10, 20, ... and the total."""
    series = np.outer(10 ** np.arange(10), (1, 2, 5)).ravel()
    return np.append(series[series < total][1 - BARS :], total)


def stack_by_group(neurons: pd.DataFrame) -> pd.DataFrame:
    """Sum the reduction of each reducing group over the top-ranked neurons of the four together.

    Returns one column for each group; the index is the number of neurons counted.
    """
    reducing = neurons[neurons["group"].isin(REDUCING)]
    ranked = reducing.sort_values("reduction", ascending=False, kind="stable")
    sums = {
        group: ranked["reduction"].where(ranked["group"] == group, 0.0).cumsum().to_numpy()
        for group in REDUCING
    }
    cuts = rank_cuts(len(ranked)) if len(ranked) else np.array([], dtype=int)
    return pd.DataFrame(sums, index=range(1, len(ranked) + 1)).loc[cuts]


def short_number(number: int) -> str:
    """Write a number of neurons in few signs: 500, 2k, 23.1k, 241k."""
    if number < 1000:
        return str(number)
    return f"{number / 1000:.{0 if number >= 100_000 else 1}f}".removesuffix(".0") + "k"


def figure_group_stack(neurons: pd.DataFrame, model: str, tuned: str) -> Figure:
    """Return the stacked cumulative reduction of the four groups, and below it their shares."""
    figure, (upper, lower) = style.new_figure(
        "Reducing groups among the top-ranked neurons", model, tuned, rows=2, height=5.8
    )
    stack = stack_by_group(neurons)
    places = np.arange(len(stack))
    handles = style.stack_bars(upper, places, dict(stack.items()))
    shares = 100 * stack.div(stack.sum(axis=1), axis=0)
    style.stack_bars(lower, places, dict(shares.items()))
    for ax in (upper, lower):
        ax.grid(visible=False, axis="x")
        style.mark_zero(ax)
    lower.set_xticks(places, [short_number(count) for count in stack.index])
    upper.set_ylabel(f"cumulative reduction\n({style.UNITS})")
    lower.set_ylabel("share of each bar (%)")
    lower.set_xlabel("neurons of the four groups, ranked by their reduction")
    style.legend_below(figure, handles, columns=len(REDUCING))
    return figure


def draw_group_stack(neurons: str, svg: str, png: str, model: str, tuned: str) -> None:
    """Read the table of neurons and save the figure."""
    table = style.read_table(neurons, ["reduction", "group"])
    style.save_figure(figure_group_stack(table, model, tuned), svg, png)


if __name__ == "__main__":
    draw_group_stack(
        neurons=snakemake.input.neurons,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
