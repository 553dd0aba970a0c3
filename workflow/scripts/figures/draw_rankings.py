"""Draw how near the base model comes to the tuned one as ever more units are moved, the first ones
of each ranking: a panel for each kind of units and way of moving them."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from neurondynamics.analysis.statistics import ENDS
from neurondynamics.figures import style

COLUMNS = ["operation", "of", "by", "units", "weights", *(f"kl_share{end}" for end in ENDS)]
LOOKS = {
    "gradient_transplant": {"color": "C3", "marker": "D"},
    "gradient_patch": {"color": "C0", "marker": "o"},
    "weight_change": {"color": "C1", "marker": "s"},
    "change": {"color": "C2", "marker": "^"},
    "reduction": {"color": "C4", "marker": "v"},
    "cosine": {"color": "C5", "marker": "P"},
    "random": {"color": "0.35", "marker": "x", "linestyle": "--"},
}
NAMES = {by: by.replace("_", " ") for by in LOOKS}
NAMES |= {"gradient_transplant": "gradient × change of weights"}
NAMES |= {"gradient_patch": "gradient × change of activations"}
MOVED = {"transplant": "weights of", "patch": "activations of"}
KINDS = {"all": "neurons and heads", "blocks": "all units of the blocks"}
ACROSS = 2  # panels side by side


def figure_rankings(table: pd.DataFrame, model: str, tuned: str) -> Figure:
    """Return the curves of all rankings, with their intervals."""
    panels = list(table.groupby(["operation", "of"], sort=False))
    rows = -(-len(panels) // ACROSS)
    figure, axes = style.new_figure(
        "How few units carry the tuning", model, tuned,
        rows=rows, columns=min(len(panels), ACROSS), height=1.7 + 2.3 * rows, width=6.5,
    )  # fmt: skip
    for ax, ((operation, of), curves) in zip(axes, panels, strict=False):
        draw_panel(ax, curves)
        ax.set_title(f"{MOVED[operation]} {KINDS.get(of, of)}", fontsize=9)
    for ax in axes[len(panels) :]:
        ax.remove()
    columns = min(len(panels), ACROSS)
    for place, ax in enumerate(axes[: len(panels)]):
        if place % columns == 0:
            ax.set_ylabel("share of the\ndivergence removed")
        if place + columns >= len(panels):
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("part of their weights that is moved")
    drawn = [by for by in LOOKS if by in set(table["by"])]
    style.legend_below(figure, [Line2D([], [], label=NAMES[by], **look(by)) for by in drawn], 2)
    return figure


def look(by: str) -> dict:
    """Return how the line of a ranking is drawn."""
    return {"markersize": 4, "linewidth": 1.3, **LOOKS[by]}


def draw_panel(ax: Axes, curves: pd.DataFrame) -> None:
    """Draw the rankings of one kind of units, moved in one way."""
    for share in (0, 1):
        ax.axhline(share, color="0.4", linestyle=":" if share == 0 else "--", zorder=1)
    for by, rows in curves.groupby("by", sort=False):
        rows = rows.sort_values("weights")
        ax.plot(rows["weights"], rows["kl_share"], **look(by))
        ends = rows["kl_share_low"], rows["kl_share_high"]
        ax.fill_between(rows["weights"], *ends, color=LOOKS[by]["color"], alpha=0.2, linewidth=0)
    style.scale_logarithmically(ax.xaxis, curves["weights"])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda part, _: f"{100 * part:g} %"))
    if curves["kl_share"].isna().all():
        ax.set_title("the two models' predictions do not differ beyond rounding", fontsize=9)


def draw_rankings(curves: str, svg: str, png: str, model: str, tuned: str) -> None:
    """Read the table of curves and save the figure."""
    style.save_figure(figure_rankings(style.read_table(curves, COLUMNS), model, tuned), svg, png)


if __name__ == "__main__":
    draw_rankings(
        curves=snakemake.input.curves,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
