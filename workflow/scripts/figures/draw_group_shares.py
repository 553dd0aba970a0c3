"""Draw figure 2a of the paper: how much of the gross reduction each of the four reducing groups of
neurons carries, with bootstrap intervals. Refuses a table that lacks one of them."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from neurondynamics.analysis.attribution import REDUCING
from neurondynamics.figures import style
from neurondynamics.study.behaviour import Behaviour

COLUMNS = ["group", "neurons", "share_gross", "share_gross_low", "share_gross_high"]
MEANINGS = {  # what the second and third letter of a group say
    "TP-": "activation > 0,\nshrinks",
    "AN-": "activation < 0,\nshrinks",
    "TN+": "activation < 0,\ngrows",
    "AP+": "activation > 0,\ngrows",
}


def figure_group_shares(
    groups: pd.DataFrame, behaviour: Behaviour, model: str, tuned: str
) -> Figure:
    """Return one labelled bar with its interval for each of the four groups."""
    figure, (ax,) = style.new_figure(
        "Share of the four reducing groups in the gross reduction", model, tuned, height=4.3
    )
    rows = groups.set_index("group").loc[list(REDUCING)]
    percent = 100 * rows[["share_gross", "share_gross_low", "share_gross_high"]]
    for place, (group, share, low, high) in enumerate(percent.itertuples(name=None)):
        ax.bar(place, share, width=0.65, **style.bar_style(group))
        ax.plot([place, place], [low, high], color=style.DARK, linewidth=1.4, marker="_")
        label = f"{share:.1f} %" if np.isfinite(share) else "no reduction"
        ax.annotate(
            label,
            (place, np.nanmax([share, high, 0])),
            xytext=(0, 5),
            textcoords="offset points",
            horizontalalignment="center",
            fontweight="bold",
        )
    ax.set_xticks(
        range(len(rows)),
        [
            f"{style.with_minus(group)}\n{_meaning(group, behaviour)}\n{count:,} neurons"
            for group, count in rows["neurons"].items()
        ],
    )
    ax.grid(visible=False, axis="x")
    ax.margins(y=0.14)
    style.mark_zero(ax)
    ax.set_ylabel("share of the gross\nreduction (%)")
    return figure


def _meaning(group: str, behaviour: Behaviour) -> str:
    side = behaviour.adjective if group[0] == "T" else behaviour.anti
    return textwrap.fill(f"{side},", 16) + f"\n{MEANINGS[group]}"


def draw_group_shares(
    groups: str, svg: str, png: str, behaviour: Behaviour, model: str, tuned: str
) -> None:
    """Read the table of groups and save the figure; ValueError if a group is missing."""
    table = style.read_table(groups, COLUMNS)
    missing = set(REDUCING) - set(table["group"])
    if missing:
        raise ValueError(f"{groups}: no row of the group {', '.join(sorted(missing))}")
    style.save_figure(figure_group_shares(table, behaviour, model, tuned), svg, png)


if __name__ == "__main__":
    draw_group_shares(
        groups=snakemake.input.groups,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        behaviour=Behaviour(**snakemake.params.behaviour),
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
