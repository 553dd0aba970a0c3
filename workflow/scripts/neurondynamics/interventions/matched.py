"""Random units that control for where chosen ones lie and how far tuning moved them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from neurondynamics.interventions.units import COLUMNS, Units

BINS = 10  # of the size of the movement, in every layer
LEAST = 20  # units of a layer to a bin: fewer leave none to draw from


def matched(units: Units, like: Units, seed: int) -> dict[str, pd.DataFrame]:
    """Return units drawn at random, by module: as many as `like` has in each cell.

    A cell is a tenth of a layer's units by how far tuning moved what they write (`change`), where
    that is known and the layer has enough, or else the layer. The units that are controlled are
    drawn only where a cell has no others left.
    """
    generator = np.random.default_rng(seed)
    drawn = {}
    for module in COLUMNS:
        wanted = like.table(module) if _has(like, module) else None
        if wanted is None or wanted.empty:
            continue
        table = units.table(module).reset_index(drop=True)
        named = _named(table, wanted, module)
        cells = _cells(table)
        rows = [
            _draw(generator, np.flatnonzero(cells == cell), named)
            for cell in np.unique(cells[named])
        ]
        drawn[module] = table.iloc[np.sort(np.concatenate(rows))]
    return drawn


def overlap(drawn: Units, like: Units) -> float:
    """Return the part of some units that were drawn again as their control."""
    again = number = 0
    for module in COLUMNS:
        if _has(like, module):
            again += int(_named(drawn.table(module), like.table(module), module).sum())
            number += len(like.table(module))
    return again / number


def _has(units: Units, module: str) -> bool:
    tables = {"mlp": units.neurons, "attention": units.heads}
    return tables.get(module, units.key_values) is not None


def _named(table: pd.DataFrame, wanted: pd.DataFrame, module: str) -> np.ndarray:
    """Return which rows of a table of units are in another one, (rows,)."""
    keys = ["layer", COLUMNS[module]]
    one, other = (pd.MultiIndex.from_frame(some[keys]) for some in (table, wanted))
    return one.isin(other)


def _cells(table: pd.DataFrame) -> np.ndarray:
    """Return the cell of each unit, (rows,)."""
    layers = table["layer"].to_numpy(dtype=np.int64)
    if "change" not in table:
        return layers * BINS
    of_layer = table.groupby("layer")["change"]
    place, number = of_layer.rank(method="first") - 1, of_layer.transform("size")
    bins = (number // LEAST).clip(1, BINS)
    return layers * BINS + (place * bins // number).to_numpy(dtype=np.int64)


def _draw(generator: np.random.Generator, cell: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Return rows of a cell, as many as are named there: of the others, as far as they reach."""
    inside, outside = cell[named[cell]], cell[~named[cell]]
    if len(inside) <= len(outside):
        return generator.choice(outside, len(inside), replace=False)
    again = generator.choice(inside, len(inside) - len(outside), replace=False)
    return np.concatenate([outside, again])
