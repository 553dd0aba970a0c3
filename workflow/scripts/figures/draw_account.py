"""Draw what each part of the model carries of the tuning: alone and without it, by activations and
by weights, and layer by layer."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from neurondynamics.analysis.account import MEASURES, PARTS
from neurondynamics.analysis.statistics import ENDS
from neurondynamics.figures import style

COLUMNS = ["part", "layer", *(name + end for name in ("direct", *MEASURES) for end in ENDS)]
LABELS = {part: part.replace("_", " ") for part in PARTS} | {"mlp": "MLPs"}
KINDS = {  # by how a part is moved, its label, its look, and how far from its row it is drawn
    "causal": ("activations", {"color": "C0", "marker": "o"}, 0.13),
    "weights": ("weights", {"color": "C3", "marker": "D"}, -0.13),
}
MODULES = {"attention": {"color": "C0"}, "mlp": {"color": "C1"}}
PANELS = {  # of the layers: what is drawn, and what it is a share of
    "direct": ("direct", "share of the shift"),
    "activations alone": ("causal_alone", "share of the divergence"),
    "weights alone": ("weights_alone", ""),
}


def figure_account(table: pd.DataFrame, model: str, tuned: str) -> Figure:
    """Return the parts of all layers above, and below each layer's attention and MLP."""
    figure, axes = style.new_figure(
        "What each part carries of the tuning", model, tuned, height=6.2, width=6.5
    )
    axes[0].remove()
    above, below = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    draw_parts(above.subplots(), table[table["layer"].isna()])
    panels = below.subplots(1, len(PANELS))
    panels[2].sharey(panels[1])
    for ax, (title, (column, label)) in zip(panels, PANELS.items(), strict=True):
        draw_layers(ax, table[table["layer"].notna()], column, label)
        ax.set_title(title, fontsize=9)
    style.legend_below(figure, handles(), columns=3)
    return figure


def draw_parts(ax: Axes, table: pd.DataFrame) -> None:
    """Draw a row for each part, first on top: filled alone, hollow where all but it is moved."""
    rows = table.set_index("part").reindex(PARTS)
    places = -np.arange(len(PARTS))
    for share in (0, 1):
        ax.axvline(share, color="0.4", linestyle=":" if share == 0 else "--", zorder=1)
    for kind, (_, look, offset) in KINDS.items():
        for measure, fill in (("alone", look["color"]), ("without", "white")):
            low, value, high = (rows[f"{kind}_{measure}{end}"] for end in ("_low", "", "_high"))
            ax.hlines(places + offset, low, high, color=look["color"], linewidth=1.3)
            ax.plot(
                value, places + offset, linestyle="none", markersize=5, zorder=3,
                markerfacecolor=fill, markeredgecolor=look["color"], marker=look["marker"],
            )  # fmt: skip
    ax.set_yticks(places, [LABELS[part] for part in PARTS])
    ax.set_ylim(-len(PARTS) + 0.4, 0.6)
    ax.set_xlabel("share of the divergence removed (0: base model, 1: tuned model)")
    if rows[f"{MEASURES[0]}"].isna().all():
        ax.set_title("the two models' predictions do not differ beyond rounding", fontsize=9)


def draw_layers(ax: Axes, table: pd.DataFrame, column: str, label: str) -> None:
    """Draw the lines of attention and MLP over the layers, with their intervals."""
    for module, look in MODULES.items():
        rows = table[table["part"] == module].sort_values("layer")
        layers = rows["layer"].to_numpy(dtype=float)
        ax.plot(layers, rows[column], linewidth=1.3, **look)
        ax.fill_between(layers, rows[f"{column}_low"], rows[f"{column}_high"], alpha=0.2, **look)
    style.mark_zero(ax)
    ax.set_ylabel(label)
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))


def handles() -> list[Line2D]:
    """Return the legend: what the marks above and the lines below stand for."""
    marks = {"linestyle": "none", "markersize": 5}
    found = []
    for label, look, _ in KINDS.values():
        edge = {"markeredgecolor": look["color"], "marker": look["marker"]}
        found.append(Line2D([], [], label=f"{label} alone", markerfacecolor=look["color"],
                            **edge, **marks))  # fmt: skip
        found.append(Line2D([], [], label=f"all but its {label}", markerfacecolor="white",
                            **edge, **marks))  # fmt: skip
    found += [Line2D([], [], label=LABELS[name], **look) for name, look in MODULES.items()]
    return found


def draw_account(account: str, svg: str, png: str, model: str, tuned: str) -> None:
    """Read the table of the account and save the figure; ValueError where a part is missing."""
    table = style.read_table(account, COLUMNS)
    missing = set(PARTS) - set(table["part"])
    if missing:
        raise ValueError(f"{account}: no row of {', '.join(sorted(missing))}")
    style.save_figure(figure_account(table, model, tuned), svg, png)


if __name__ == "__main__":
    draw_account(
        account=snakemake.input.account,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
