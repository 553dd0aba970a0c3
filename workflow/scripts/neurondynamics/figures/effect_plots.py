"""What the figures of interventions share: their table, the scorers, the unedited models, the
controls."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from neurondynamics.figures import style
from neurondynamics.study.behaviour import Behaviour

COLUMNS = ("experiment", "intervention", "scorer", "control_of", "control", "state", "neurons")
COLUMNS += ("perplexity", "effect_share", "effect_share_low", "effect_share_high")
COLUMNS += ("n_read", "kl_share", "kl_share_low", "kl_share_high")
CONTROLS = {  # kinds of draws that an intervention is compared with, and their looks
    "random": ("random neurons", "o"),
    "signs": ("shuffled signs", "^"),
}
MODELS = {  # the unedited models by state, their effect share, and their looks
    "base": ("base model", 0.0, {"color": "0.4", "linestyle": ":", "linewidth": 1.2}),
    "tuned": ("tuned model", 1.0, {"color": "C3", "linestyle": "--", "linewidth": 1.2}),
}


def read_interventions(path: str | Path) -> pd.DataFrame:
    """Read the table of interventions; ValueError without both unedited models."""
    table = style.read_table(path, COLUMNS)
    missing = set(MODELS) - set(unedited(table).index)
    if missing:
        raise ValueError(f"{path}: no intervention none of the state {', '.join(sorted(missing))}")
    return table


def unedited(table: pd.DataFrame) -> pd.Series:
    """Return the perplexity of the unedited models by state, (2,)."""
    rows = table[table["intervention"] == "none"]
    return rows.drop_duplicates("state").set_index("state")["perplexity"]


def by_scorer(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each scorer and its rows, in the order of the table: first the one that labels."""
    for scorer in table["scorer"].unique():
        yield scorer, table[table["scorer"] == scorer]


def name_scorer(ax: Axes, scorer: str, first: bool) -> None:
    """Put a scorer above its panel, the first one of a study in bold."""
    weight = "bold" if first else "normal"
    ax.set_title(textwrap.fill(f"by {scorer}", 20), fontsize=9, fontweight=weight)


def mark_models(
    effects: Sequence[Axes], perplexities: Sequence[Axes], table: pd.DataFrame, upright: bool
) -> list[Line2D]:
    """Draw where the unedited models lie in all panels, as upright or as level lines.

    Returns one line for each model, for the legend.
    """
    of_models = unedited(table)
    handles = []
    for state, (label, share, look) in MODELS.items():
        places = [(ax, share) for ax in effects] + [(ax, of_models[state]) for ax in perplexities]
        for ax, value in places:
            draw = ax.axvline if upright else ax.axhline
            draw(value, zorder=1, **look)
        handles.append(Line2D([], [], label=label, **look))
    return handles


def mark_controls(ax: Axes, kind: str, x: pd.Series, y: pd.Series) -> None:
    """Draw the draws of one kind of control as small points."""
    _, marker = CONTROLS[kind]
    ax.plot(x, y, **_small(marker), zorder=2)


def legend_of_controls(kinds) -> list[Line2D]:
    """Return one point for the legend for each kind of control that was drawn."""
    looks = {kind: look for kind, look in CONTROLS.items() if kind in set(kinds)}
    return [Line2D([], [], label=label, **_small(marker)) for label, marker in looks.values()]


def _small(marker: str) -> dict:
    return {
        "marker": marker,
        "linestyle": "none",
        "markersize": 3.5,
        "markerfacecolor": "none",
        "markeredgecolor": "0.35",
        "markeredgewidth": 0.7,
    }


def effect_limits(rows: pd.DataFrame, name: str = "effect_share") -> tuple[float, float]:
    """Return the limits of an axis that holds both unedited models and all that is known."""
    shares = rows[[name, f"{name}_low", f"{name}_high"]].to_numpy(np.float64)
    shares = [0.0, 1.0, *shares[np.isfinite(shares)]]
    margin = 0.06 * (max(shares) - min(shares))
    return min(shares) - margin, max(shares) + margin


def explain_absence(ax: Axes, rows: pd.DataFrame, behaviour: Behaviour) -> None:
    """Say in the panel why no effect share is drawn, where there is none."""
    if rows["effect_share"].isna().all():
        text = f"tuning did not surely lower {behaviour.name}, so there is no effect to share"
        look = {"ha": "center", "va": "center", "fontsize": 9, "transform": ax.transAxes}
        ax.text(0.5, 0.5, textwrap.fill(text, 22), **look)


def effect_interval(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return both ends of the intervals of effect shares."""
    return rows["effect_share_low"], rows["effect_share_high"]
