"""Which neurons an intervention edits: selections resolved on the table of neurons."""

from __future__ import annotations

import numpy as np
import pandas as pd

from neurondynamics.analysis.attribution import GROUPS


def select(neurons: pd.DataFrame, selection: dict) -> pd.DataFrame:
    """Return the rows of the neuron table that a selection names.

    `{top: N}`                         the N neurons of highest cosine
    `{top: N, activated: positive}`    the same among those positively activated in the base model
    `{groups: [TP-, AN-]}`             every neuron of these groups
    `{random: SELECTION, seed: S}`     neurons drawn at random, in each layer as many as SELECTION
                                       has there

    Raises ValueError if the selection names more neurons than there are, none at all, an unknown
    group, or is of no known form.
    """
    form = frozenset(selection)
    if form in ({"top"}, {"top", "activated"}):
        return _top(neurons, selection["top"], selection.get("activated"))
    if form == {"groups"}:
        unknown = sorted(set(selection["groups"]) - set(GROUPS))
        if unknown:
            raise ValueError(f"unknown groups {unknown}; known are {', '.join(GROUPS)}")
        chosen = neurons[neurons.group.isin(selection["groups"])]
        if chosen.empty:
            raise ValueError(f"no neuron is in the groups {selection['groups']}")
        return chosen
    if form == {"random", "seed"}:
        return _matched_random(neurons, select(neurons, selection["random"]), selection["seed"])
    raise ValueError(f"the selection {selection} is of no known form")


def _top(neurons: pd.DataFrame, number: int, activated: str | None) -> pd.DataFrame:
    among = neurons
    if activated is not None:
        positive = neurons.activation_base >= 0
        among = neurons[positive if activated == "positive" else ~positive]
    if number > len(among):
        kind = f" {activated}ly activated" if activated else ""
        raise ValueError(f"top: {number} was asked for, but there are {len(among)}{kind} neurons")
    return among.sort_values("cosine", ascending=False, kind="stable").head(number)


def _matched_random(neurons: pd.DataFrame, like: pd.DataFrame, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    wanted = like.groupby("layer").size()
    drawn = [
        generator.choice(neurons.index[neurons.layer == layer], number, replace=False)
        for layer, number in wanted.items()
    ]
    return neurons.loc[np.sort(np.concatenate(drawn))]
