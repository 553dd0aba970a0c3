"""Rankings of units, by what the tables of neurons, heads and key/value heads say of each."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pandas as pd

from neurondynamics.interventions.units import KEY_VALUES, NAMES, Units
from neurondynamics.limits import NO_COSINE, OF_GRADIENTS, THIRDS, layers_of
from neurondynamics.lm.families import MODULES

# `of` -> modules
KINDS = {"neurons": ("mlp",), "heads": ("attention",), "all": MODULES}
KINDS |= {"blocks": (*MODULES, KEY_VALUES)}
RANDOM = "random"
LACKING = dict.fromkeys(OF_GRADIENTS, "set `gradients` in the configuration")
LACKING |= {"gradient_patch": "key/value heads are not patched; set `gradients` for the others"}
RANKINGS = ("cosine", "reduction", "change", *OF_GRADIENTS, RANDOM)


def best_of(
    units: Units,
    top: int | str,
    of: str = "neurons",
    by: str = "cosine",
    activated: str | None = None,
    layers: Sequence[int] | str | None = None,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Return the first units of a ranking, by the module that they are of.

    `top` is how many: a number, "all", or a part of them such as "1%", which is one at least.
    `of` are the neurons, the `heads`, `all` of both in one ranking, or `blocks`, with the key/value
    heads too: these are ranked by what each of a unit's weights has of it on average, and a part of
    them is that of their weights, to which they do not quite come. They are ranked `by` the largest
    cosine (heads have none), reduction, change, weight_change, gradient_transplant or
    gradient_patch, or at random, drawn with `seed`, fewer of them among more. Neurons may be those
    that are `activated` positive (0 counts as positive) or negative in the base model, and units
    those of some `layers`, as `layers_of` takes them.

    Raises ValueError for more units than there are or none at all, and for what is not measured of
    them.
    """
    if of not in KINDS:
        raise ValueError(f"of: should be one of {', '.join(KINDS)}, not {of!r}")
    if by not in RANKINGS:
        raise ValueError(f"by: units are ranked by {', '.join(RANKINGS)}, not by {by!r}")
    if by == "cosine" and of != "neurons":
        raise ValueError(f"by: {NO_COSINE}")
    if activated not in (None, "positive", "negative"):
        raise ValueError(f"activated: should be positive or negative, not {activated!r}")
    among = {module: of_layers(units.table(module), layers) for module in KINDS[of]}
    if activated is not None:
        positive = among["mlp"].activation_base >= 0
        among["mlp"] = among["mlp"][positive if activated == "positive" else ~positive]
    numbers = np.concatenate([np.arange(len(table)) for table in among.values()])
    modules = np.repeat(list(among), [len(table) for table in among.values()])
    ranked = _ranking(among, by, of == "blocks", seed)
    kind = {"all": "units", "blocks": "units"}.get(of, of)
    kind = f"{activated}ly activated {kind}" if activated else kind
    held = [table["parameters"] for table in among.values()] if of == "blocks" else None
    sizes = np.ones(len(ranked)) if held is None else np.concatenate(held)[ranked]
    best = ranked[: _number(top, sizes, kind)]
    return {
        module: table.iloc[numbers[best[modules[best] == module]]]
        for module, table in among.items()
    }


def _ranking(among: dict[str, pd.DataFrame], by: str, per_weight: bool, seed: int) -> np.ndarray:
    """Return the order of the units of some tables, one after the other, the first one first."""
    if by == RANDOM:
        return np.random.default_rng(seed).permutation(sum(map(len, among.values())))
    scores = []
    for module, table in among.items():
        if by not in table or table[by].isna().any():
            kind = f"{NAMES[module]}s"
            remedy = LACKING.get(by, f"attribute {kind} first")
            raise ValueError(f"by: the table of {kind} has no column {by!r}; {remedy}")
        score = table[by].to_numpy()
        if per_weight:  # a norm is the root of a sum over weights
            held = table["parameters"].to_numpy()
            score = score / (np.sqrt(held) if by == "weight_change" else held)
        scores.append(score)
    return np.argsort(-np.concatenate(scores), kind="stable")


def _number(top: int | str, sizes: np.ndarray, kind: str) -> int:
    """Return how many of the first units `top` asks for; a part of them is one of their sizes."""
    there = len(sizes)
    if top == "all":
        return there
    if isinstance(top, str):
        wanted = Fraction(top.removesuffix("%")) / 100 * int(sizes.sum())
        within = sizes.cumsum() * wanted.denominator <= wanted.numerator
        return max(1, int(within.sum()))
    if top < 1:
        raise ValueError(f"top: {top} {kind} are none; ask for at least 1")
    if top > there:
        raise ValueError(f"top: {top} was asked for, but there are {there} {kind}")
    return top


def of_layers(table: pd.DataFrame, layers: Sequence[int] | str | None) -> pd.DataFrame:
    """Return the rows of some layers, as `layers_of` takes them."""
    if layers is None:
        return table
    number = int(table.layer.max()) + 1
    chosen = layers_of(layers, number)
    if not chosen or chosen.start < 0 or chosen.stop > number:
        raise ValueError(
            f"layers: should be one of {', '.join(THIRDS)}, or the first and the last one, "
            f"counted 0 to {number - 1}, not {layers}"
        )
    return table[table.layer.isin(chosen)]
