"""Draw where the shift of the final residual stream along the direction comes from: what
the embeddings and each layer's attention and MLP contribute, and below it their running sum, which
ends at the total. Refuses a table that lacks a component."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from neurondynamics.figures import style

SAME_TEXT = ["shift_same_text", "shift_same_text_low", "shift_same_text_high"]
COLUMNS = ["component", "layer", "shift", "shift_low", "shift_high", *SAME_TEXT]
LOOKS = {
    "embeddings": {"facecolor": "0.6", "hatch": "xxxx"},
    "attention": {"facecolor": "lightblue", "hatch": "////"},
    "mlp": {"facecolor": "C4"},
}
LABELS = {"embeddings": "embeddings", "attention": "attention", "mlp": "MLP"}
LINES = {
    "": {"color": "black", "linestyle": "-", "marker": "o", "markerfacecolor": "white"},
    "_same_text": {"color": "C1", "linestyle": "--", "marker": "s", "markerfacecolor": "C1"},
}
RUNNING = {
    "": "sum, each model on its own text",
    "_same_text": "sum, both on the base model's text",
}


def figure_residual_shift(shifts: pd.DataFrame, model: str, tuned: str) -> Figure:
    """Return the bars of all components over the layers, and below them their running sums."""
    figure, (upper, lower) = style.new_figure(
        "Shift of the final residual stream, by what adds to it", model, tuned, rows=2, height=5.8
    )
    layers = int(shifts["layer"].max()) + 1
    start = -max(1.0, 0.07 * layers)  # far enough from layer 0 for both labels
    handles = []
    for component, look in LOOKS.items():
        rows = shifts[shifts["component"] == component].sort_values("layer")
        offset = {"embeddings": start, "attention": -0.2, "mlp": 0.2}[component]
        draw_component(upper, rows["layer"].fillna(0) + offset, rows, look)
        handles.append(Patch(label=LABELS[component], edgecolor=style.DARK, **look))
    handles += draw_running_sums(lower, shifts, start, layers)
    for ax in (upper, lower):
        style.mark_zero(ax)
        ax.grid(visible=False, axis="x")
    ticks = MaxNLocator(nbins=9, integer=True, min_n_ticks=1).tick_values(0, max(1, layers - 1))
    ticks = [int(tick) for tick in ticks if 0 <= tick < layers]
    lower.set_xticks([start, *ticks], ["emb.", *map(str, ticks)])
    lower.set_xlim(start - 0.7, layers - 0.3)
    lower.set_xlabel("layer")
    upper.set_ylabel(f"contribution\n({style.UNITS})")
    lower.set_ylabel(f"sum up to the layer\n({style.UNITS})")
    style.legend_below(figure, handles, columns=2)
    return figure


def draw_component(ax: Axes, places: pd.Series, rows: pd.DataFrame, look: dict) -> None:
    """Draw the bars of one component, each with its interval."""
    ax.bar(places, rows["shift"], width=0.4, edgecolor=style.DARK, linewidth=0.5, **look)
    ax.vlines(places, rows["shift_low"], rows["shift_high"], color=style.DARK, linewidth=0.9)


def draw_running_sums(ax: Axes, shifts: pd.DataFrame, start: float, layers: int) -> list:
    """Draw the sum of embeddings and of all layers so far, and the measured total's interval."""
    embeddings = shifts[shifts["component"] == "embeddings"]
    added = shifts[shifts["component"].isin(["attention", "mlp"])].groupby("layer").sum()
    total = shifts[shifts["component"] == "total"].iloc[0]
    handles = []
    for suffix, look in LINES.items():
        name = f"shift{suffix}"
        sums = np.cumsum([embeddings[name].iloc[0], *added[name]])
        places = [start, *range(layers)]
        handles += ax.plot(
            places, sums, label=RUNNING[suffix], linewidth=1.4, markersize=3.5, zorder=3, **look
        )
        interval = [total[f"{name}_low"], total[f"{name}_high"]]
        ax.vlines(layers - 1, *interval, color=look["color"], linewidth=1.4)
    return handles


def draw_residual_shift(shifts: str, svg: str, png: str, model: str, tuned: str) -> None:
    """Read the table of shifts and save the figure; ValueError if a component is missing."""
    table = style.read_table(shifts, COLUMNS)
    missing = {*LOOKS, "total"} - set(table["component"])
    if missing:
        raise ValueError(f"{shifts}: no row of the component {', '.join(sorted(missing))}")
    style.save_figure(figure_residual_shift(table, model, tuned), svg, png)


if __name__ == "__main__":
    draw_residual_shift(
        shifts=snakemake.input.shifts,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
