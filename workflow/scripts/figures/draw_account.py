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
PANELS = {  # of the layers: the measure alone, the one without, the label
    "directly, along the direction": ("direct", None, "share of the shift"),
    "by activations": ("causal_alone", "causal_without", "share of the divergence"),
    "by weights": ("weights_alone", "weights_without", ""),
}


def figure_account(table: pd.DataFrame, model: str, tuned: str) -> Figure:
    """Return the parts of all layers above, and below each layer's attention and MLP."""
    figure, axes = style.new_figure(
        "What each part carries of the tuning", model, tuned, rows=2, columns=3, width=6.5,
        height=6.4,
    )  # fmt: skip
    grid = axes[0].get_gridspec()
    for ax in axes:
        ax.remove()
    draw_parts(figure.add_subplot(grid[0, :]), table[table["layer"].isna()])
    layers = table[table["layer"].notna()]
    first = None
    for place, (title, panel) in enumerate(PANELS.items()):
        ax = figure.add_subplot(grid[1, place], sharey=first if place == 2 else None)
        first = ax if place == 1 else first
        draw_layers(ax, layers, title, *panel)
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


def draw_layers(
    ax: Axes, table: pd.DataFrame, title: str, alone: str, without: str | None, label: str
) -> None:
    """Draw the lines of attention and MLP over the layers."""
    for module, look in MODULES.items():
        rows = table[table["part"] == module].sort_values("layer")
        layers = rows["layer"].to_numpy(dtype=float)
        ax.plot(layers, rows[alone], linewidth=1.3, **look)
        ax.fill_between(layers, rows[f"{alone}_low"], rows[f"{alone}_high"], alpha=0.2, **look)
        if without is not None:
            ax.plot(layers, 1 - rows[without], linestyle="--", linewidth=1.0, **look)
    style.mark_zero(ax)
    ax.set_title(title, fontsize=9)
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
