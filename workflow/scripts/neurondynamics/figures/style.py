"""What the figures share: their look, the groups' order, colours and hatches, reading and saving.

Colour says which quadrant of neurons a group belongs to (toward or away from the behaviour,
positively or negatively activated) and a pale colour says that the group increases the behaviour.
Hatches, markers and line styles say the same, so that a figure is readable in greyscale.
"""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from neurondynamics.analysis.attribution import GROUPS, REDUCING, UNCHANGED
from neurondynamics.data.files import replacing
from neurondynamics.data.tables import read_csv, read_parquet

logger = logging.getLogger(__name__)

UNITS = "residual-stream units"
DARK = "0.15"
ALL = "all"  # stands for all groups together where a table sums over them

_PALETTE = sns.color_palette("colorblind")
_QUADRANT_COLOURS = {"TP": _PALETTE[3], "AN": _PALETTE[0], "TN": _PALETTE[1], "AP": _PALETTE[2]}
_QUADRANT_HATCHES = {"TP": "", "AN": "///", "TN": "..", "AP": "xxx"}
_QUADRANT_MARKERS = {"TP": "o", "AN": "s", "TN": "^", "AP": "D"}


def with_minus(text: str) -> str:
    """Write the hyphens of a group's name or of a number as minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")


def name_of_intervention(name: str) -> str:
    """Write the hyphen that ends a group's name as a minus sign, and leave all other hyphens."""
    return re.sub(r"\b([TA][PN])-", lambda match: with_minus(match[0]), name)


def group_colour(group: str) -> tuple[float, float, float]:
    """Return a group's colour: its quadrant's, pale if the group increases toxicity."""
    if group == UNCHANGED:
        return (0.6, 0.6, 0.6)
    colour = np.array(_QUADRANT_COLOURS[group[:2]])
    return tuple(colour if group in REDUCING else 0.45 * colour + 0.55)


def group_marker(group: str) -> str:
    """Return the marker of a group's quadrant."""
    return _QUADRANT_MARKERS.get(group[:2], "x")


def bar_style(group: str) -> dict:
    """Return the keywords that give `Axes.bar` a group's colour, hatch and edge."""
    return {
        "facecolor": group_colour(group),
        "hatch": _QUADRANT_HATCHES.get(group[:2], ""),
        "edgecolor": DARK,
        "linewidth": 0.5,
    }


def new_figure(
    title: str,
    model: str,
    tuned: str | None,
    rows: int = 1,
    height: float = 4.0,
    columns: int = 1,
    width: float = 5.5,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of a width and height in inches, and its axes, row by row.

    Axes one above the other share their x axis, and axes side by side their y axis.
    Fonts are chosen to stay readable when a figure of the usual width is printed half a page wide.
    The last line of the title names the two models that are compared, or the one there is.
    """
    sns.set_theme(
        context="paper",
        style="whitegrid",
        palette="colorblind",
        rc={
            "font.family": "DejaVu Sans",  # comes with matplotlib: text is as wide everywhere
            "font.size": 10,
            "axes.labelsize": 10,
            "legend.fontsize": 9,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "axes.edgecolor": "0.4",
            "grid.color": "0.88",
            "grid.linewidth": 0.6,
            "hatch.linewidth": 0.5,
            "svg.hashsalt": "neurondynamics",  # element ids that do not change between two runs
        },
    )
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, sharex="col", sharey="row", squeeze=False).ravel()
    for ax in axes:
        ax.set_axisbelow(True)
    letters = int(11 * width)  # that fit into a line
    names = model if tuned is None else f"{model}, tuned: {tuned}"
    names = textwrap.fill(names, letters, break_on_hyphens=False)
    title = textwrap.fill(title, letters)
    figure.suptitle(f"{title}\n{names}", x=0.01, horizontalalignment="left", fontsize=11)
    return figure, list(axes)


def legend_below(figure: Figure, handles: Sequence, columns: int) -> None:
    """Put one legend below the axes, where it covers no data. Columns are filled one by one."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def mark_zero(ax: Axes) -> None:
    """Draw the horizontal line of zero below the data."""
    ax.axhline(0, color="0.4", linewidth=0.8, zorder=1)


def count_along(ax: Axes, first: int, last: int, label: str) -> None:
    """Let the x axis run over the whole numbers from first to last, and label it."""
    ax.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    ax.grid(visible=False, axis="x")
    ax.set_xlim(first - 0.7, last + 0.7)
    ax.set_xlabel(label)


def scale_logarithmically(axis, values) -> None:
    """Give an axis of one panel a logarithmic scale over positive values, in round numbers.

    Values that are not finite are left out. Ticks stand at round numbers, at 1, 2 and 5 of each
    decade or at decades, by how many decades there are, and read 50, 2k or 10M.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    low, high = (finite.min(), finite.max()) if len(finite) else (1.0, 10.0)
    span = max(high / low, 2.0) ** 0.08
    decades = np.log10(high / low) if high > low else 0
    name = axis.axis_name  # x or y
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low / span, high * span)})
    if decades < 0.7:
        axis.set_major_locator(MaxNLocator(nbins=4))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=6))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_formatter(NullFormatter())


def group_thousands(axis) -> None:
    """Write the numbers of an axis in full, with a comma between thousands."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def stack_bars(ax: Axes, positions: Sequence, heights: Mapping[str, np.ndarray]) -> list[Patch]:
    """Stack the groups' bars: positive heights upward from zero, negative ones downward.

    `heights` maps a group to its heights, one for each position, and is drawn in its own order.
    Returns one patch for each group, for the legend.
    """
    above = np.zeros(len(positions))
    below = np.zeros(len(positions))
    handles = []
    for group, height in heights.items():
        start = np.where(height >= 0, above, below)
        ax.bar(positions, height, width=0.8, bottom=start, **bar_style(group))
        handles.append(Patch(label=with_minus(group), **bar_style(group)))
        above += np.maximum(height, 0)
        below += np.minimum(height, 0)
    return handles


def read_table(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read the named columns of a Parquet or CSV table.

    Raises ValueError if a column is missing, if there is no row, or if a group is unknown.
    """
    read = read_parquet if Path(path).suffix == ".parquet" else read_csv
    table = read(path)
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"{path}: no column {', '.join(missing)} (found: {', '.join(table.columns)}); "
            "make the table again with this version of the workflow"
        )
    if table.empty:
        raise ValueError(f"{path}: the table has no row, so there is nothing to draw")
    if "group" in columns:
        unknown = set(table["group"]) - {*GROUPS, ALL}
        if unknown:
            raise ValueError(f"{path}: unknown group {', '.join(sorted(map(str, unknown)))}")
    return table[list(columns)]


def save_figure(figure: Figure, svg: str | Path, png: str | Path) -> None:
    """Save a figure as SVG and as PNG. The same figure gives the same bytes each time."""
    with replacing(svg) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    with replacing(png) as temporary:
        figure.savefig(temporary, format="png", dpi=200)
    logger.info("saved %s and %s", svg, png)
