"""Draw how near every intervention brings its model to the other one of the pair, as that one's own
text shows: the part of the divergence between the two that it removes, beside its controls."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from neurondynamics.figures import effect_plots, style

COLUMNS = ("experiment", "intervention", "scorer", "control_of", "control", "state")
COLUMNS += ("kl_share", "kl_share_low", "kl_share_high")
STATES = {  # the model that is edited, and its look
    "base": ("base model, toward the tuned one", {"color": "C0", "marker": "D"}),
    "tuned": ("tuned model, toward the base one", {"color": "C3", "marker": "s"}),
}
POINT = {"markersize": 5, "markeredgecolor": style.DARK, "linestyle": "none", "zorder": 3}
OFFSETS = {"random": 0.25, "signs": -0.25}  # of the draws from the row of their intervention
LEAST = -1.0  # share up to which the axis goes, however far an edit leads away


def figure_fidelity(table: pd.DataFrame, model: str, tuned: str) -> Figure:
    """Return a row for each intervention, in the order of the table, first on top."""
    rows = table[(table["control_of"] == "") & (table["intervention"] != "none")]
    rows = rows.assign(place=-np.arange(len(rows)))
    draws = table[table["control_of"] != ""].merge(
        rows[["experiment", "intervention", "place"]].set_axis(
            ["experiment", "control_of", "place"], axis=1
        )
    )
    figure, (ax,) = style.new_figure(
        "How near interventions come to the other model",
        model,
        tuned,
        height=2.0 + 0.17 * max(len(rows), 6),
        width=6.5,
    )
    for share in (0, 1):
        ax.axvline(share, color="0.4", linestyle=":" if share == 0 else "--", zorder=1)
    for state, of_state in rows.groupby("state"):
        _, look = STATES[state]
        ends = of_state["kl_share_low"], of_state["kl_share_high"]
        ax.hlines(of_state["place"], *ends, color=look["color"], linewidth=1.4)
        ax.plot(of_state["kl_share"], of_state["place"], **look, **POINT)
    for kind, some in draws.groupby("control"):
        effect_plots.mark_controls(ax, kind, some["kl_share"], some["place"] + OFFSETS[kind])
    name_rows(ax, rows)
    limit(ax, [*rows["kl_share_low"], *rows["kl_share_high"], *draws["kl_share"]])
    mark_beyond(ax, rows)
    if rows["kl_share"].isna().all():
        text = "the two models' predictions do not differ beyond rounding"
        look = {"ha": "center", "va": "center", "fontsize": 9, "transform": ax.transAxes}
        ax.text(0.5, 0.5, textwrap.fill(text, 30), **look)
    ax.set_xlabel("share of the divergence removed (0: unedited, 1: the other model)")
    handles = [
        Line2D([], [], label=label, **look, **POINT)
        for state, (label, look) in STATES.items()
        if state in set(rows["state"])
    ]
    style.legend_below(
        figure, [*handles, *effect_plots.legend_of_controls(draws["control"])], columns=2
    )
    return figure


def name_rows(ax: Axes, rows: pd.DataFrame) -> None:
    """Name the interventions, and part experiments by lines with their names."""
    names = [style.name_of_intervention(name) for name in rows["intervention"]]
    ax.set_yticks(rows["place"], names, fontsize=7)
    ax.set_ylim(-len(rows) + 0.4, 0.6)
    for experiment, some in rows.groupby("experiment", sort=False):
        if some["place"].max() < 0:
            ax.axhline(some["place"].max() + 0.5, color="0.85", linewidth=0.8, zorder=0)
        where = {"xy": (1.01, some["place"].mean()), "xycoords": ("axes fraction", "data")}
        ax.annotate(experiment, **where, fontsize=7, va="center", color="0.35")


def limit(ax: Axes, values: list[float]) -> None:
    """Let the axis hold both unedited models and what is known, but no further than LEAST."""
    known = [0.0, 1.0, *(value for value in values if np.isfinite(value))]
    margin = 0.06 * (max(known) - max(min(known), LEAST))
    ax.set_xlim(max(min(known), LEAST) - margin, max(known) + margin)


def mark_beyond(ax: Axes, rows: pd.DataFrame) -> None:
    """Write the share of what lies left of the axis where its point would be."""
    left, _ = ax.get_xlim()
    for row in rows[rows["kl_share"] < left].itertuples():
        text = style.with_minus(f"◂ {row.kl_share:.3g}")
        ax.annotate(text, (left, row.place), fontsize=7, va="center", xytext=(2, 0),
                    textcoords="offset points")  # fmt: skip


def draw_fidelity(interventions: str, svg: str, png: str, model: str, tuned: str) -> None:
    """Read the table of interventions and save the figure; ValueError where none was measured."""
    table = style.read_table(interventions, (*COLUMNS, "n_read"))
    table = table[(table["scorer"] == table["scorer"].iloc[0]) & table["n_read"].notna()]
    if table.empty:
        raise ValueError(f"{interventions}: no intervention whose fidelity was measured")
    style.save_figure(figure_fidelity(table, model, tuned), svg, png)


if __name__ == "__main__":
    draw_fidelity(
        interventions=snakemake.input.interventions,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
