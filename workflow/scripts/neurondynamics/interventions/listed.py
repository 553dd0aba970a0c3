"""Units that are listed one by one, in the configuration or in a file."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from neurondynamics.data.formats import PARQUET, taking
from neurondynamics.data.rows import Row, field
from neurondynamics.data.texts import csv_rows

PAIR = ["layer", "neuron"]
WHOLE = re.compile(r"-?[0-9]{1,18}")  # which one is in the table is told later


def as_pairs(listed: list, unit: str) -> pd.DataFrame:
    """Return pairs of layer and neuron or head, whichever the `unit` is, as columns.

    Raises ValueError, naming the entry, for what is no pair of whole numbers.
    """
    for entry in listed:
        whole = isinstance(entry, (list, tuple)) and all(type(number) is int for number in entry)
        if not whole or len(entry) != 2:
            raise ValueError(f"{unit}s: expected pairs [layer, {unit}], found {entry!r}")
    return pd.DataFrame(listed, columns=["layer", unit])


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


def rows_of(table: pd.DataFrame, pairs: pd.DataFrame, place: str) -> pd.DataFrame:
    """Return the rows of a table of units that distinct pairs name, in their order.

    Raises ValueError, naming the place where they are listed, if there is none, one stands there
    twice or is not in the table.
    """
    unit = pairs.columns[1]
    if pairs.empty:
        raise ValueError(f"{place}: no {unit} is listed; list at least one pair of layer, {unit}")
    twice = pairs[pairs.duplicated()]
    if len(twice):
        layer, number = twice.iloc[0]
        raise ValueError(f"{place}: layer {layer}, {unit} {number} is listed twice; list it once")
    known = pd.MultiIndex.from_frame(table[["layer", unit]])
    rows = known.get_indexer(pd.MultiIndex.from_frame(pairs))
    if (rows < 0).any():
        layer, number = pairs[rows < 0].iloc[0]
        raise ValueError(
            f"{place}: layer {layer}, {unit} {number} is not in the table, whose layers go from "
            f"{table.layer.min()} to {table.layer.max()} and {unit}s from "
            f"{table[unit].min()} to {table[unit].max()}; count both from 0"
        )
    return table.iloc[rows]
