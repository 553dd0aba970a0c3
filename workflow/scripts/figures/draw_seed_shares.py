"""Draw the shares of the four reducing groups for every tuning seed, each with its
interval over prompts, around their mean: the spread between seeds beside the spread within one."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from neurondynamics.analysis.attribution import REDUCING
from neurondynamics.figures import style

COLUMNS = ["statistic", "part", "mean", "deviation_between", "deviation_within"]
MARKERS = "os^DvPX*"
WIDTH = 0.6  # of the axis that a group's points take


def figure_seed_shares(table: pd.DataFrame, seeds: list[int], model: str, tuned: str) -> Figure:
    """Return one point with its interval per seed for each of the four groups, less their mean."""
    figure, (ax,) = style.new_figure(
        "Shares of the reducing groups, by tuning seed", model, tuned, height=4.3
    )
    rows = table[table["statistic"] == "share_gross"].set_index("part").loc[list(REDUCING)]
    offsets = WIDTH * ((np.arange(len(seeds)) + 0.5) / len(seeds) - 0.5)
    for place, (group, row) in enumerate(rows.iterrows()):
        for number, (seed, offset) in enumerate(zip(seeds, offsets, strict=True)):
            share = row[[f"seed_{seed}{end}" for end in ("", "_low", "_high")]]
            value, low, high = 100 * (share.astype(float) - row["mean"])
            x = place + offset
            ax.plot([x, x], [low, high], color=style.DARK, linewidth=1.2, marker="_", zorder=2)
            ax.plot(
                x,
                value,
                marker=MARKERS[number % len(MARKERS)],
                markersize=5,
                markerfacecolor=style.group_colour(group),
                markeredgecolor=style.DARK,
                markeredgewidth=0.6,
                zorder=3,
            )
    style.mark_zero(ax)
    ax.set_xticks(range(len(rows)), [_label(group, row) for group, row in rows.iterrows()])
    ax.set_xlim(-0.6, len(rows) - 0.4)
    ax.grid(visible=False, axis="x")
    ax.set_ylabel("share of the gross reduction,\nless the mean of the seeds\n(percentage points)")
    handles = [
        Line2D(
            [],
            [],
            label=f"seed {seed}",
            color=style.DARK,
            marker=MARKERS[number % len(MARKERS)],
            markerfacecolor="white",
            linewidth=1.4,
        )
        for number, seed in enumerate(seeds)
    ]
    style.legend_below(figure, handles, columns=4)
    return figure


def _label(group: str, row: pd.Series) -> str:
    between, within = 100 * row["deviation_between"], 100 * row["deviation_within"]
    mean = style.with_minus(f"{100 * row['mean']:.1f}")
    return f"{style.with_minus(group)}\nmean {mean} %\nbetween ±{between:.2f}\nwithin ±{within:.2f}"


def draw_seed_shares(
    shares: str, svg: str, png: str, seeds: list[int], model: str, tuned: str
) -> None:
    """Read the table of seeds and save the figure; ValueError if a group is missing."""
    columns = [f"seed_{seed}{end}" for seed in seeds for end in ("", "_low", "_high")]
    read = style.read_table(shares, [*COLUMNS, *columns])
    missing = set(REDUCING) - set(read.loc[read["statistic"] == "share_gross", "part"])
    if missing:
        raise ValueError(f"{shares}: no share_gross of the group {', '.join(sorted(missing))}")
    style.save_figure(figure_seed_shares(read, seeds, model, tuned), svg, png)


if __name__ == "__main__":
    draw_seed_shares(
        shares=snakemake.input.shares,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        seeds=snakemake.params.seeds,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
