"""Which units an intervention edits: selections resolved on the tables of neurons and heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.interventions.listed import as_pairs, read_pairs, rows_of
from neurondynamics.interventions.matched import matched, overlap
from neurondynamics.interventions.ranking import KINDS, best_of, of_layers
from neurondynamics.interventions.units import KEY_VALUES, Units
from neurondynamics.limits import OF_NEURONS
from neurondynamics.lm.families import MODULES

QUADRANTS = ("TP", "AN", "TN", "AP")
LISTED = {  # key -> the module of units that are listed one by one, and what each is called
    "neurons": ("mlp", "neuron"),
    "heads": ("attention", "head"),
    KEY_VALUES: (KEY_VALUES, "key_value"),
}


def select(units: Units, selection: dict) -> Units:
    """Return the rows of the tables that a selection names.

    `{top: N}`                         the first units of a ranking, as `best_of` takes it
    `{modules: [attention, mlp]}`      every head, every neuron; `key_values` too
      `layers: [FIRST, LAST]`          of these layers
    `{groups: [TP-, AN-]}`             every neuron of these groups; `TP`, `AN`, `TN`, `AP` are the
                                       quadrants of cosine and base activation, for which no tuned
                                       model is needed
      `fraction: F, ranked: highest`   of each of them this part, rounded up, by |cosine|; or the
                                       `lowest`
    `{neurons: [[layer, neuron]]}`     these, in this order
    `{heads: [[layer, head]]}`         these, in this order
    `{key_values: [[layer, number]]}`  these key/value heads, in this order
    `{file: PATH}`                     neurons from the columns `layer neuron` of a CSV or parquet
                                       file
    `{random: SELECTION, seed: S}`     units drawn at random beside those of SELECTION, as many in
                                       each layer and of each size of movement (`matched`)

    Raises ValueError if the selection names a unit twice, one that is not in the table, more than
    there are or none at all, an unknown group, a file that is no such table, what heads do not
    have, or is of no known form.
    """
    form = set(selection)
    with_heads = set(KINDS) - {"neurons"}
    if selection.get("of") in with_heads or "attention" in selection.get("modules", ()):
        for key in (key for key in OF_NEURONS if key in form):
            raise ValueError(f"{key}: {OF_NEURONS[key]}")
    if "top" in form and form <= {"top", "of", "by", "activated", "layers", "seed"}:
        return _chosen(units, **best_of(units, **selection))
    if "modules" in form and form <= {"modules", "layers"}:
        return _whole_modules(units, **selection)
    if form in ({"groups"}, {"groups", "fraction", "ranked"}):
        return _chosen(units, mlp=_of_groups(units.neurons, **selection))
    if form in [{key} for key in LISTED]:
        ((key, listed),) = selection.items()
        module, unit = LISTED[key]
        return _chosen(units, **{module: rows_of(units.table(module), as_pairs(listed, unit), key)})
    if form == {"file"}:
        pairs = read_pairs(Path(selection["file"]))
        return _chosen(units, mlp=rows_of(units.neurons, pairs, selection["file"]))
    if form == {"random", "seed"}:
        if "random" in selection["random"]:
            raise ValueError("random: a random draw of a random draw; name the selection it is of")
        like = select(units, selection["random"])
        return _chosen(units, **matched(units, like, selection["seed"]))
    raise ValueError(
        f"the selection {selection} is of no known form; known are top (with of, by, activated and "
        "layers), modules (with layers), groups (with fraction and ranked together), neurons, "
        "heads, key_values, file, and random with seed"
    )


def _chosen(units: Units, **rows: pd.DataFrame) -> Units:
    """Return the rows that were chosen of some modules; of the others there are none."""
    fields = {"mlp": "neurons", "attention": "heads", KEY_VALUES: KEY_VALUES}
    tables = {field: (module, getattr(units, field)) for module, field in fields.items()}
    return replace(
        units,
        **{
            field: rows.get(module, None if table is None else table.iloc[:0])
            for field, (module, table) in tables.items()
        },
    )


def _whole_modules(
    units: Units, modules: Sequence[str], layers: Sequence[int] | str | None = None
) -> Units:
    known = (*MODULES, KEY_VALUES)
    if not modules or set(modules) - set(known):
        raise ValueError(f"modules: should be some of {', '.join(known)}, not {modules}")
    return _chosen(units, **{module: of_layers(units.table(module), layers) for module in modules})


def _of_groups(
    neurons: pd.DataFrame, groups: list[str], fraction: float = 1, ranked: str = "highest"
) -> pd.DataFrame:
    known = (*GROUPS, *QUADRANTS)
    unknown = sorted(set(groups) - set(known))
    if unknown:
        raise ValueError(f"unknown groups {unknown}; known are {', '.join(known)}")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: should be above 0 and at most 1, not {fraction}")
    if ranked not in ("highest", "lowest"):
        raise ValueError(f"ranked: should be highest or lowest, not {ranked!r}")
    strength = neurons.cosine.abs().to_numpy()
    order = np.argsort(-strength if ranked == "highest" else strength, kind="stable")
    chosen = np.zeros(len(neurons), dtype=bool)
    for group in groups:
        members = order[_in_group(neurons, group)[order]]
        # As written: in floating point, 0.1 of 30 would be 4.
        chosen[members[: math.ceil(Fraction(str(fraction)) * len(members))]] = True
    if not chosen.any():
        raise ValueError(f"no neuron is in the groups {groups}")
    return neurons[chosen]


def _in_group(neurons: pd.DataFrame, group: str) -> np.ndarray:
    """Return which neurons are in a group or quadrant, (neurons,) bool."""
    if group not in QUADRANTS:
        if "group" not in neurons:
            raise ValueError(
                f"groups: {group} needs a tuned model, and the table of neurons has no column "
                f"'group'; name one of the quadrants {', '.join(QUADRANTS)}"
            )
        return (neurons.group == group).to_numpy()
    direction = neurons.cosine > 0 if group[0] == "T" else neurons.cosine < 0
    positive = neurons.activation_base >= 0
    return (direction & (positive if group[1] == "P" else ~positive)).to_numpy()


def drawn_again(units: Units, selection: dict) -> float:
    """Return the part of the controlled units that a random selection has drawn again; 0 of any
    other selection."""
    if "random" not in selection:
        return 0.0
    return overlap(select(units, selection), select(units, selection["random"]))
