"""Draw how near every intervention brings its model to the other one of the pair, beside its
controls: the part of the divergence between the two that it removes, as the other one's own text
shows, and of the difference of their margins, where these are measured."""

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
COLUMNS += ("margin_share", "margin_share_low", "margin_share_high")
STATES = {  # the model that is edited, and its look
    "base": ("base model, toward the tuned one", {"color": "C0", "marker": "D"}),
    "tuned": ("tuned model, toward the base one", {"color": "C3", "marker": "s"}),
}
POINT = {"markersize": 5, "markeredgecolor": style.DARK, "linestyle": "none", "zorder": 3}
MARGIN = {"marker": "x", "markersize": 4.5, "markeredgewidth": 1.4, "linestyle": "none"}
BELOW = 0.27  # of a margin's mark from its row
OFFSETS = {"random": 0.25, "signs": -0.25}  # of the draws from the row of their intervention
LEAST, MOST = -1.0, 1.5  # shares up to which the axis goes, however far an edit leads


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
        height=2.0 + 0.19 * max(len(rows), 6),
        width=6.5,
    )
    for share in (0, 1):
        ax.axvline(share, color="0.4", linestyle=":" if share == 0 else "--", zorder=1)
    for state, of_state in rows.groupby("state"):
        _, look = STATES[state]
        ends = of_state["kl_share_low"], of_state["kl_share_high"]
        ax.hlines(of_state["place"], *ends, color=look["color"], linewidth=1.4)
        ax.plot(of_state["kl_share"], of_state["place"], **look, **POINT)
        ends = of_state["margin_share_low"], of_state["margin_share_high"]
        ax.hlines(of_state["place"] - BELOW, *ends, color=look["color"], linewidth=0.7)
        below = of_state["place"] - BELOW
        ax.plot(of_state["margin_share"], below, **MARGIN, color=look["color"], zorder=3)
    for kind, some in draws.groupby("control"):
        effect_plots.mark_controls(ax, kind, some["kl_share"], some["place"] + OFFSETS[kind])
    name_rows(ax, rows)
    bounds = rows[["kl_share_low", "kl_share_high", "margin_share_low", "margin_share_high"]]
    limit(ax, [*bounds.to_numpy().flat, *draws["kl_share"]])
    mark_beyond(ax, rows["kl_share"], rows["place"])
    mark_beyond(ax, rows["margin_share"], rows["place"] - BELOW, "\N{MULTIPLICATION SIGN} ")
    if rows["kl_share"].isna().all():
        text = "the two models' predictions do not differ beyond rounding"
        look = {"ha": "center", "va": "center", "fontsize": 9, "transform": ax.transAxes}
        ax.text(0.5, 0.5, textwrap.fill(text, 30), **look)
    ax.set_xlabel("share of the way to the other model (0: unedited, 1: there)")
    handles = [
        Line2D([], [], label=label, **look, **POINT)
        for state, (label, look) in STATES.items()
        if state in set(rows["state"])
    ]
    if rows["margin_share"].notna().any():
        handles.append(Line2D([], [], label="by margins of unseen pairs", color="0.35", **MARGIN))
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
    """Let the axis hold both unedited models and what is known, but no further than it goes."""
    known = np.clip([0.0, 1.0, *(value for value in values if np.isfinite(value))], LEAST, MOST)
    margin = 0.06 * np.ptp(known)
    ax.set_xlim(known.min() - margin, known.max() + margin)


def mark_beyond(ax: Axes, shares: pd.Series, places: pd.Series, mark: str = "") -> None:
    """Write the share of what lies beside the axis at the edge, where its mark would be."""
    left, right = ax.get_xlim()
    look = {"fontsize": 6.5, "va": "center", "textcoords": "offset points"}
    for share, place in zip(shares, places, strict=True):
        if share < left:
            text = style.with_minus(f"◂ {mark}{share:.3g}")
            ax.annotate(text, (left, place), xytext=(2, 0), **look)
        if share > right:
            ax.annotate(f"{mark}{share:.3g} ▸", (right, place), xytext=(-2, 0), ha="right", **look)


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
