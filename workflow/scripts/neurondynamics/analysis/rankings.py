"""How early a ranking of units finds those that carry what tuning changed.

With f(x) for `kl_share` when the first units are moved that make up a part x of all, f(0) = 0:

    CPR   the area under f, over the range of x that was measured
    CMD   the area between f and 1

both by trapezoids (MIB, arXiv 2504.13151), on the axis of x and on that of log x, where x begins at
the smallest part that was moved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from neurondynamics.analysis.fidelity import beyond_rounding, kl_share
from neurondynamics.analysis.statistics import Estimate, Statistics, share

REACHED = (50, 80)  # percent of the way
AREAS = ("cpr", "cpr_log", "cmd", "cmd_log")


class Ranked(NamedTuple):
    """What was measured of the first units of a ranking, the fewest first."""

    parts: np.ndarray  # (sizes,) of the weights of all units of the kind
    kl: np.ndarray  # (texts, sizes) nats per token
    unedited: np.ndarray  # (texts,)
    noise: np.ndarray  # (texts,) what rounding makes of kl


def curve_of(ranked: Ranked, statistics: Statistics) -> Estimate:
    """Return `kl_share` by size, (sizes,), with its interval over texts; NaN where the models are
    not `beyond_rounding`."""
    if not beyond_rounding(ranked.unedited, ranked.noise):
        return Estimate(*np.full((3, len(ranked.parts)), np.nan))
    unedited = np.broadcast_to(ranked.unedited[:, None], ranked.kl.shape)
    return statistics.estimate(kl_share, [unedited, ranked.kl])


def areas_of(ranked: Ranked, statistics: Statistics) -> dict[str, Estimate]:
    """Return AREAS by their names, each with its interval over texts."""
    if not beyond_rounding(ranked.unedited, ranked.noise):
        return dict.fromkeys(AREAS, Estimate(np.nan, np.nan, np.nan))

    def areas(unedited: np.ndarray, kl: np.ndarray) -> np.ndarray:  # (resamples, 4)
        shares = share(unedited[:, None] - kl, unedited[:, None])  # (resamples, sizes)
        return np.stack([*_areas(ranked.parts, shares)], -1)

    found = statistics.estimate(areas, [ranked.unedited, ranked.kl])
    return {name: Estimate(*(part[i] for part in found)) for i, name in enumerate(AREAS)}


def _areas(parts: np.ndarray, shares: np.ndarray):
    start = np.zeros((len(shares), 1))
    linear = np.concatenate([[0.0], parts]), np.concatenate([start, shares], 1)
    places = {"": linear, "log": (np.log10(parts), shares)}
    for distance in (lambda f: f, lambda f: np.abs(1 - f)):
        for at, f in places.values():
            width = at[-1] - at[0]
            yield np.trapezoid(distance(f), at, axis=1) / width if width else distance(f)[:, -1]


def summary(curve: Estimate, parts: np.ndarray, units: np.ndarray) -> dict[str, float | int | None]:
    """Return the smallest number of units whose interval lies above each of REACHED, `units_50` and
    so on with their part of the weights, None where none does; and the greatest `kl_share` of the
    curve, and the units where it is."""
    found: dict[str, float | int | None] = {}
    for percent in REACHED:
        above = np.flatnonzero(curve.low > percent / 100)
        first = above[0] if len(above) else None
        found[f"units_{percent}"] = None if first is None else int(units[first])
        found[f"weights_{percent}"] = None if first is None else float(parts[first])
    best = int(np.nanargmax(curve.value)) if np.isfinite(curve.value).any() else None
    found["greatest"] = np.nan if best is None else float(curve.value[best])
    found["units_greatest"] = None if best is None else int(units[best])
    return found


def in_wide(table: pd.DataFrame, names: list[str], column: str) -> np.ndarray:
    """Return a column of some interventions, in their order, (texts, names)."""
    return table.pivot_table(column, "prompt_id", "intervention")[names].to_numpy()
