"""Draw figure 1b of the paper: the reduction of the projection on the direction, summed over ever
more neurons, from the one that reduces it most to the one that increases it most."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from neurondynamics.figures import style

FRACTIONS = {0.50: "^", 0.75: "D", 0.99: "v"}  # of the net reduction, and their markers
MAXIMUM_POINTS = 3000  # of the drawn curve; more cannot be seen on a logarithmic axis


def neurons_to_reach(curve: np.ndarray, fraction: float) -> int | None:
    """Return how many neurons bring the curve (n,) to a fraction of its last value, its net.

    None where the net is not positive, as there is nothing to reach.
    """
    if curve[-1] <= 0:
        return None
    return int(np.argmax(curve >= fraction * curve[-1])) + 1


def figure_cumulative_reduction(reduction: np.ndarray, model: str, tuned: str) -> Figure:
    """Return the cumulative sum of the reductions (n,), in descending order, over 1..n."""
    figure, (ax,) = style.new_figure("Reduction summed over ranked neurons", model, tuned)
    style.mark_zero(ax)
    curve = np.cumsum(np.sort(reduction)[::-1], dtype=np.float64)  # (n,)
    total, top = len(curve), int(np.argmax(curve)) + 1
    counts = np.unique(np.geomspace(1, total, MAXIMUM_POINTS).round().astype(int))
    counts = np.union1d(counts, top)
    ax.plot(counts, curve[counts - 1], color="C0", linewidth=1.6, zorder=2)
    ax.axhline(curve[-1], color="C3", linewidth=1, linestyle="--", zorder=1)

    def mark(count: int, marker: str, label: str, color: str) -> None:
        label = f"{style.with_minus(label)} at {count:,} neuron{'s' * (count != 1)}"
        ax.plot(
            count,
            curve[count - 1],
            label=label,
            color=color,
            marker=marker,
            linestyle="none",
            markersize=7,
            markeredgecolor=style.DARK,
            markeredgewidth=0.6,
            zorder=3,
            clip_on=False,
        )

    for fraction, marker in FRACTIONS.items():
        count = neurons_to_reach(curve, fraction)
        if count is not None:
            mark(count, marker, f"{100 * fraction:.0f} % of the net", "white")
    mark(top, "o", f"maximum {curve[top - 1]:.3g}", "C0")
    mark(total, "s", f"net {curve[-1]:.3g}", "C3")

    ax.set_xscale("log")
    steps = (1, 2, 5) if total < 1000 else (1,)  # of each decade
    ax.xaxis.set_major_locator(LogLocator(subs=steps))
    style.group_thousands(ax.xaxis)
    ax.set_xlabel("neurons, ranked by their reduction (logarithmic scale)")
    ax.set_ylabel(f"cumulative reduction\n({style.UNITS})")
    style.legend_below(figure, ax.get_legend_handles_labels()[0], columns=2)
    return figure


def draw_cumulative_reduction(neurons: str, svg: str, png: str, model: str, tuned: str) -> None:
    """Read the table of neurons and save the figure."""
    table = style.read_table(neurons, ["reduction"])
    figure = figure_cumulative_reduction(table["reduction"].to_numpy(), model, tuned)
    style.save_figure(figure, svg, png)


if __name__ == "__main__":
    draw_cumulative_reduction(
        neurons=snakemake.input.neurons,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
