"""Draw where the reduction of each group of neurons comes from: changed activations, changed value
vectors, and the text that the tuned model writes. Refuses a table that lacks a group or a part."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from neurondynamics.analysis.attribution import INCREASING, REDUCING
from neurondynamics.figures import style

COLUMNS = ["group", "part", "reduction", "reduction_low", "reduction_high"]
BARS = (*REDUCING, *INCREASING, style.ALL)
LOOKS = {
    "activation": {"facecolor": "C4"},
    "value": {"facecolor": "C8", "hatch": "xxxx"},
    "context": {"facecolor": "lightblue", "hatch": "////"},
}
LABELS = {
    "activation": "activation",
    "value": "value vector",
    "context": "context (the text)",
}
WIDTH = 0.27


def figure_reduction_sources(sources: pd.DataFrame, model: str, tuned: str) -> Figure:
    """Return three bars with their intervals for each group and all neurons, and their total."""
    figure, (ax,) = style.new_figure(
        "Where the reduction of each group comes from", model, tuned, height=4.3
    )
    rows = sources.set_index(["part", "group"]).sort_index()
    handles = []
    for index, (part, look) in enumerate(LOOKS.items()):
        reduction = rows.loc[part].loc[list(BARS)]
        places = [place + (index - 1) * WIDTH for place in range(len(BARS))]
        bar = {"edgecolor": style.DARK, "linewidth": 0.5, **look}
        ax.bar(places, reduction["reduction"], width=WIDTH, **bar)
        ends = reduction["reduction_low"], reduction["reduction_high"]
        ax.vlines(places, *ends, color=style.DARK, linewidth=1.2)
        handles.append(Patch(label=LABELS[part], **bar))
    look = {"color": "black", "linewidth": 1.6}
    for place, total in enumerate(rows.loc["total"].loc[list(BARS), "reduction"]):
        ax.plot([place - 1.6 * WIDTH, place + 1.6 * WIDTH], [total, total], **look)
    handles.append(Line2D([], [], label="total", **look))
    for edge in (len(REDUCING), len(REDUCING + INCREASING)):
        ax.axvline(edge - 0.5, color="0.6", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(BARS)), [*map(style.with_minus, BARS[:-1]), "all\nneurons"])
    ax.set_xlim(-0.6, len(BARS) - 0.4)
    ax.grid(visible=False, axis="x")
    style.mark_zero(ax)
    ax.set_ylabel(f"reduction of the projection\n({style.UNITS})")
    style.legend_below(figure, handles, columns=4)
    return figure


def draw_reduction_sources(sources: str, svg: str, png: str, model: str, tuned: str) -> None:
    """Read the table of sources and save the figure; ValueError if a row is missing."""
    table = style.read_table(sources, COLUMNS)
    rows = set(zip(table["group"], table["part"], strict=True))
    for part in (*LOOKS, "total"):
        missing = [group for group in BARS if (group, part) not in rows]
        if missing:
            raise ValueError(f"{sources}: no row of the part {part} for {', '.join(missing)}")
    style.save_figure(figure_reduction_sources(table, model, tuned), svg, png)


if __name__ == "__main__":
    draw_reduction_sources(
        sources=snakemake.input.sources,
        svg=snakemake.output.svg,
        png=snakemake.output.png,
        model=snakemake.params.model,
        tuned=snakemake.params.tuned,
    )
