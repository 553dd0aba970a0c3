"""Which neurons an intervention edits: selections resolved on the table of neurons."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.data.formats import PARQUET, taking
from neurondynamics.data.rows import Row, field
from neurondynamics.data.texts import csv_rows

QUADRANTS = ("TP", "AN", "TN", "AP")
PAIR = ["layer", "neuron"]
WHOLE = re.compile(r"-?[0-9]{1,18}")  # which one is in the table is told later


def select(neurons: pd.DataFrame, selection: dict) -> pd.DataFrame:
    """Return the rows of the neuron table that a selection names.

    `{top: N}`                         the N neurons of highest cosine, or `all`
      `by: reduction`                  of largest reduction instead
      `activated: positive`            among those positively activated in the base model (0 counts
                                       as positive); `negative` among the others
    `{groups: [TP-, AN-]}`             every neuron of these groups; `TP`, `AN`, `TN`, `AP` are the
                                       quadrants of cosine and base activation, for which no tuned
                                       model is needed
      `fraction: F, ranked: highest`   of each of them this part, rounded up, by |cosine|; or the
                                       `lowest`
    `{neurons: [[layer, neuron]]}`     these, in this order
    `{file: PATH}`                     the same from the columns `layer neuron` of a CSV or parquet
                                       file
    `{random: SELECTION, seed: S}`     neurons drawn at random, in each layer as many as SELECTION
                                       has there

    Raises ValueError if the selection names a neuron twice, one that is not in the table, more than
    there are or none at all, an unknown group, a file that is no such table, or is of no known
    form.
    """
    form = set(selection)
    if "top" in form and form <= {"top", "by", "activated"}:
        return _top(neurons, **selection)
    if form in ({"groups"}, {"groups", "fraction", "ranked"}):
        return _of_groups(neurons, **selection)
    if form == {"neurons"}:
        return _listed(neurons, _pairs(selection["neurons"]), "neurons")
    if form == {"file"}:
        return _listed(neurons, read_pairs(Path(selection["file"])), selection["file"])
    if form == {"random", "seed"}:
        if "random" in selection["random"]:
            raise ValueError("random: a random draw of a random draw; name the selection it is of")
        return _matched_random(neurons, select(neurons, selection["random"]), selection["seed"])
    raise ValueError(
        f"the selection {selection} is of no known form; known are top (with by and activated), "
        "groups (with fraction and ranked together), neurons, file, and random with seed"
    )


def _top(
    neurons: pd.DataFrame, top: int | str, by: str = "cosine", activated: str | None = None
) -> pd.DataFrame:
    if by not in ("cosine", "reduction"):
        raise ValueError(f"by: neurons are ranked by cosine or by reduction, not by {by!r}")
    if by not in neurons:
        raise ValueError(f"by: the table of neurons has no column {by!r}; attribute neurons first")
    if activated not in (None, "positive", "negative"):
        raise ValueError(f"activated: should be positive or negative, not {activated!r}")
    among = neurons
    if activated is not None:
        positive = neurons.activation_base >= 0
        among = neurons[positive if activated == "positive" else ~positive]
    if top == "all":
        top = len(among)
    if top < 1:
        raise ValueError(f"top: {top} neurons are none; ask for at least 1")
    if top > len(among):
        kind = f" {activated}ly activated" if activated else ""
        raise ValueError(f"top: {top} was asked for, but there are {len(among)}{kind} neurons")
    return among.sort_values(by, ascending=False, kind="stable").head(top)


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


def _pairs(listed: list) -> pd.DataFrame:
    for entry in listed:
        whole = isinstance(entry, (list, tuple)) and all(type(number) is int for number in entry)
        if not whole or len(entry) != 2:
            raise ValueError(f"neurons: expected pairs [layer, neuron], found {entry!r}")
    return pd.DataFrame(listed, columns=["layer", "neuron"])


def read_pairs(path: Path) -> pd.DataFrame:
    """Return the columns `layer neuron` of a file.

    Raises ValueError, naming it and the line of a CSV file, where it lacks them or holds something
    else there than whole numbers.
    """
    if path.suffix == ".csv":
        rows = csv_rows(path)
        return pd.DataFrame([[_whole(row, name) for name in PAIR] for row in rows], columns=PAIR)
    if path.suffix != ".parquet":
        raise ValueError(f"{path}: neurons are read from a .csv or a .parquet file")
    with taking(path, PARQUET):
        table = pd.read_parquet(path)
    for column in PAIR:
        if column not in table:
            raise ValueError(
                f"{path}: no column {column!r}; there are {', '.join(map(str, table))}, and layer "
                "and neuron are needed"
            )
        whole = pd.api.types.is_integer_dtype(table[column]) and table[column].notna().all()
        if len(table) and not whole:
            raise ValueError(f"{path}: the column {column!r} should hold whole numbers alone")
    return table[PAIR]


def _whole(row: Row, name: str) -> int:
    value = field(row, name)
    if not WHOLE.fullmatch(value):
        raise ValueError(
            f"{row.place}: the field {name!r} should be a whole number such as 7, found {value!r}"
        )
    return int(value)


def _listed(neurons: pd.DataFrame, pairs: pd.DataFrame, place: str) -> pd.DataFrame:
    """Return the rows of distinct pairs `layer neuron`, in their order."""
    if pairs.empty:
        raise ValueError(f"{place}: no neuron is listed; list at least one pair of layer, neuron")
    twice = pairs[pairs.duplicated()]
    if len(twice):
        layer, neuron = twice.iloc[0]
        raise ValueError(f"{place}: layer {layer}, neuron {neuron} is listed twice; list it once")
    table = pd.MultiIndex.from_frame(neurons[["layer", "neuron"]])
    rows = table.get_indexer(pd.MultiIndex.from_frame(pairs))
    if (rows < 0).any():
        layer, neuron = pairs[rows < 0].iloc[0]
        raise ValueError(
            f"{place}: layer {layer}, neuron {neuron} is not in the table, whose layers go from "
            f"{neurons.layer.min()} to {neurons.layer.max()} and neurons from "
            f"{neurons.neuron.min()} to {neurons.neuron.max()}; count both from 0"
        )
    return neurons.iloc[rows]


def _matched_random(neurons: pd.DataFrame, like: pd.DataFrame, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    wanted = like.groupby("layer").size()
    drawn = [
        generator.choice(neurons.index[neurons.layer == layer], number, replace=False)
        for layer, number in wanted.items()
    ]
    return neurons.loc[np.sort(np.concatenate(drawn))]
