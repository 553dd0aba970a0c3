"""Draw the learning curve of a tuning: the loss of each step and on held-out pairs, how many pairs
are ranked rightly, and by what margin. A method without rewards has a panel of the loss alone."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from neurondynamics.data.tables import read_csv
from neurondynamics.figures import style

COLUMNS = ["step", "loss"]
NAMES = {"simpo": "SimPO"}  # that are not written in capitals
PANELS = {
    "loss": "loss",
    "accuracy": "pairs ranked rightly",
    "margin": "margin of rewards",
}
LINES = {
    "": {"color": "C0", "linestyle": "-", "linewidth": 1.2},
    "held_out_": {"color": "C1", "linestyle": "--", "marker": "o", "linewidth": 1.4},
}
LABELS = {"": "pairs of the step", "held_out_": "held-out pairs"}


def figure_learning_curve(curve: pd.DataFrame, method: str, model: str, tuned: str) -> Figure:
    """Return a panel for each measure that the curve has, over the steps."""
    panels = [name for name in PANELS if name in curve]
    figure, axes = style.new_figure(
        f"Learning curve ({NAMES.get(method, method.upper())})",
        model,
        tuned,
        rows=len(panels),
        height=1.4 + 1.5 * len(panels),
    )
    for ax, name in zip(axes, panels, strict=True):
        draw_measure(ax, curve, name)
    style.count_along(axes[-1], curve["step"].min(), curve["step"].max(), "step")
    shown = [prefix for prefix in LINES if f"{prefix}loss" in curve]
    handles = [Line2D([], [], label=LABELS[prefix], **LINES[prefix]) for prefix in shown]
    if "held_out_loss" in curve:
        best = curve.loc[curve["held_out_loss"].idxmin(), "step"]
        look = {"color": style.DARK, "linestyle": ":", "linewidth": 1.2}
        for ax in axes:
            ax.axvline(best, zorder=1, **look)
        handles.append(Line2D([], [], label=f"weights that are kept (step {best})", **look))
    style.legend_below(figure, handles, columns=len(handles))
    return figure


def draw_measure(ax: Axes, curve: pd.DataFrame, name: str) -> None:
    """Draw one measure of the steps, and of held-out pairs where they were evaluated."""
    for prefix, look in LINES.items():
        if f"{prefix}{name}" in curve:
            rows = curve[["step", f"{prefix}{name}"]].dropna()
            alone = {"marker": "o"} if len(rows) == 1 else {}
            ax.plot(*rows.to_numpy().T, markersize=3.5, zorder=3, **look | alone)
    ax.grid(visible=False, axis="x")
    ax.set_ylabel(PANELS[name])
    if name == "accuracy":
        ax.set_ylim(-0.04, 1.04)
        ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if name == "margin":
        style.mark_zero(ax)


def draw_learning_curve(
    curve: str, svg: str, png: str, method: str, model: str, tuned: str
) -> None:
    """Read the table of steps and save the figure."""
    known = [f"{prefix}{name}" for prefix in LINES for name in PANELS]
    found = read_csv(curve).columns.intersection(known)
    table = style.read_table(curve, [*COLUMNS, *found.drop("loss", errors="ignore")])
    style.save_figure(figure_learning_curve(table, method, model, tuned), svg, png)


if __name__ == "__main__":
    draw_learning_curve(
        curve=snakemake.input.curve,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        method=snakemake.params.version["method"],
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
