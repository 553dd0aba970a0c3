"""Whether a unit's reduction differs from zero over prompts, one by one and among many units."""

from __future__ import annotations

import numpy as np
from scipy.stats import t as students


def p_values(mean: np.ndarray, squares: np.ndarray, number: int) -> np.ndarray:
    """Return two-sided p-values of a t test of `mean` over `number` prompts against 0, (units,).

    `squares` are the sums of squared deviations from it. A unit that is the same on all prompts has
    p 0, or 1 where that is 0; of a single prompt nothing is known, NaN.
    """
    if number < 2:
        return np.full(len(mean), np.nan)
    error = np.sqrt(squares / (number - 1) / number)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(mean == 0, 0.0, np.abs(mean) / error)
    return 2 * students.sf(statistic, number - 1)


def adjusted(p: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for their number: units below q have false ones among them at a rate
    of q at most (Benjamini and Hochberg 1995). NaN stays NaN and is not counted."""
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    raised = p[order] * len(order) / np.arange(1, len(order) + 1)
    found = np.full(len(p), np.nan)
    found[order] = np.minimum.accumulate(raised[::-1])[::-1]
    return found
