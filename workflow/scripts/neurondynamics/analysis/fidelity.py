"""How near an intervention brings a model to the other one of the pair, over prompts or pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neurondynamics.analysis.effects import the_one
from neurondynamics.analysis.statistics import ENDS, Estimate, Statistics, share

ABOVE_NOISE = 10  # times what another batch size alone gives, that there is something to share
NAMES = ["experiment", "intervention"]
COLUMNS = [
    "neurons",
    "heads",
    "n_read",
    *(n + end for n in ("kl", "kl_share", "agreement") for end in ENDS),
]
OF_MARGINS = ["n_pairs", *(f"margin_share{end}" for end in ENDS)]


def kl_share(unedited: np.ndarray, edited: np.ndarray) -> np.ndarray:
    """Return the part of the way to the other model that an edit covers.

    1 − KL(other‖edited) / KL(other‖unedited), of means: 0 where nothing changes, 1 where the edited
    model is the other one, below 0 where the edit leads away from it. NaN where there is no way.
    """
    return share(unedited - edited, unedited)


def beyond_rounding(unedited: np.ndarray, noise: np.ndarray) -> bool:
    """Return whether two models are further apart, KL (prompts, ...), than ABOVE_NOISE times what
    rounding makes of one of them."""
    return bool(unedited.mean() > ABOVE_NOISE * np.abs(noise).mean())


def estimate_fidelity(measured: Mapping[str, pd.DataFrame], statistics: Statistics) -> pd.DataFrame:
    """Return a row per (experiment, intervention), in their order, with estimates over prompts.

    `measured`: by experiment a row per intervention and prompt, columns `intervention prompt_id
    neurons heads kl agreement kl_unedited kl_noise`. Returned are `neurons`, `heads`, `n_read`, the
    number of prompts, and, each with `_low` and `_high`, `kl` (nats per token), `kl_share` and
    `agreement`. `kl_share` is NaN, undefined, where the models are not `beyond_rounding`.
    """
    tables = [_estimated(name, table, statistics) for name, table in measured.items()]
    if not tables:
        index = pd.MultiIndex.from_arrays([[], []], names=NAMES)
        return pd.DataFrame(index=index, columns=COLUMNS)
    return pd.concat(tables)


def _estimated(experiment: str, table: pd.DataFrame, statistics: Statistics) -> pd.DataFrame:
    names, wide = _wide(table, "prompt_id")
    kl, unedited = wide("kl"), wide("kl_unedited")
    shares = statistics.estimate(kl_share, [unedited, kl])
    if not beyond_rounding(unedited, table["kl_noise"].to_numpy()):
        shares = Estimate(*np.full((3, len(names)), np.nan))
    columns = {
        "neurons": wide("neurons")[0],
        "heads": wide("heads")[0],
        "n_read": np.full(len(names), len(kl)),
        **statistics.mean(kl).columns("kl"),
        **shares.columns("kl_share"),
        **statistics.mean(wide("agreement")).columns("agreement"),
    }
    index = pd.MultiIndex.from_product([[experiment], names], names=NAMES)
    return pd.DataFrame(columns, index=index)


@dataclass(frozen=True)
class Nearness:
    """How near interventions bring a model to the other one, asked in the way that `Effects` is.

    `measured` is as `estimate_fidelity` takes it, `states` the model state of each experiment.
    """

    measured: Mapping[str, pd.DataFrame]
    states: Mapping[str, str]
    statistics: Statistics

    def missing(self, state: str, names: list[str]) -> list[str]:
        """Return which of these interventions on a state the study lacks."""
        return [f"{name} ({state})" for name in names if self._find(state, name) is None]

    def counts(self, state: str, names: list[str]) -> tuple[int, int]:
        """Return over how many prompts `estimate` is, and how many of them are missing: none."""
        return len(self._find(state, names[0])), 0

    def estimate(
        self,
        state: str,
        names: list[str],
        combine: Callable[[np.ndarray], np.ndarray] = lambda shares: shares[..., 0],
        confidence: float | None = None,
    ) -> Estimate:
        """Estimate `combine` of the shares (resamples, names) of tuning that interventions leave
        in place: of the base model `kl_share`, of the tuned one what is left, 1 - `kl_share`.

        Nothing that they need may be `missing`. NaN where the models are not `beyond_rounding`.
        """
        found = [self._find(state, name).set_index("prompt_id").sort_index() for name in names]
        edited = np.stack([rows["kl"] for rows in found], axis=1)  # (prompts, names)
        unedited = found[0]["kl_unedited"].to_numpy()
        if not beyond_rounding(unedited, found[0]["kl_noise"].to_numpy()):
            return Estimate(np.nan, np.nan, np.nan)

        def statistic(unedited: np.ndarray, edited: np.ndarray) -> np.ndarray:
            shares = kl_share(unedited[:, None], edited)  # (resamples, names)
            return combine(shares if state == "base" else 1 - shares)

        return self.statistics.estimate(statistic, [unedited, edited], confidence)

    def _find(self, state: str, name: str) -> pd.DataFrame | None:
        of_name = {
            experiment: table[table["intervention"] == name]
            for experiment, table in self.measured.items()
            if self.states[experiment] == state
        }
        return the_one(name, state, {where: rows for where, rows in of_name.items() if len(rows)})


def against_draws(
    table: pd.DataFrame | None, name: str, draws: list[str], statistics: Statistics
) -> dict[str, float]:
    """Return the `kl_share` of an intervention, the mean, least and greatest of its draws, and
    `kl_advantage`, what it is above that mean, with its interval over the same prompts.

    `table` is an experiment's, as `estimate_fidelity` takes it; nothing is said without one, and no
    more than `n_read` where the models are not `beyond_rounding`.
    """
    if table is None:
        return {}
    names, wide = _wide(table, "prompt_id")
    edited, unedited = wide("kl"), wide("kl_unedited")[:, 0]
    places = [names.index(one) for one in (name, *draws)]
    found = {"n_read": len(edited)}
    if not beyond_rounding(unedited, table["kl_noise"].to_numpy()):
        return found
    shares = kl_share(unedited.mean(), edited[:, places].mean(0))
    spread = {"": shares[1:].mean(), "_min": shares[1:].min(), "_max": shares[1:].max()}

    def advantage(unedited: np.ndarray, edited: np.ndarray) -> np.ndarray:
        each = kl_share(unedited[:, None], edited)  # (resamples, names)
        return each[:, 0] - each[:, 1:].mean(1)

    above = statistics.estimate(advantage, [unedited, edited[:, places]])
    return {
        **found,
        "kl_share": shares[0],
        **{f"draws_kl_share{end}": value for end, value in spread.items()},
        **above.columns("kl_advantage"),
    }


def estimate_margins(measured: pd.DataFrame, statistics: Statistics) -> pd.DataFrame:
    """Return a row per (experiment, intervention) with estimates over pairs.

    `measured`: a row per experiment, intervention and pair, columns `experiment intervention
    pair_id margin margin_unedited margin_followed`. Returned are `n_pairs`, the number of pairs,
    and, with `_low` and `_high`, `margin_share`: (edited - unedited) / (followed - unedited), of
    mean margins. It is NaN, undefined, where resamples show that the two models' need not differ.
    """
    tables = [_shares(name, rows, statistics) for name, rows in measured.groupby("experiment")]
    if not tables:
        index = pd.MultiIndex.from_arrays([[], []], names=NAMES)
        return pd.DataFrame(index=index, columns=OF_MARGINS)
    return pd.concat(tables)


def _shares(experiment: str, table: pd.DataFrame, statistics: Statistics) -> pd.DataFrame:
    names, wide = _wide(table, "pair_id")
    edited, unedited, followed = map(wide, ("margin", "margin_unedited", "margin_followed"))
    way = followed - unedited
    sign = np.sign(way.mean())  # the other model may be the tuned or the base one
    shares = statistics.estimate(share, [sign * (edited - unedited), sign * way])
    columns = {"n_pairs": np.full(len(names), len(way)), **shares.columns("margin_share")}
    index = pd.MultiIndex.from_product([[experiment], names], names=NAMES)
    return pd.DataFrame(columns, index=index)


def _wide(table: pd.DataFrame, key: str) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Return the interventions of an experiment, and the function that lays a column out by the key
    of its rows and by intervention, (prompts or pairs, interventions)."""
    by_name = {name: rows.set_index(key) for name, rows in table.groupby("intervention")}
    names = list(dict.fromkeys(table["intervention"]))

    def wide(column: str) -> np.ndarray:
        return pd.DataFrame({name: by_name[name][column] for name in names}).to_numpy()

    return names, wide
