"""Tables: in Parquet, with checksums for their content, or in CSV for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from pyarrow.parquet import read_metadata

from neurondynamics.data.files import reading, replacing
from neurondynamics.data.provenance import (
    PLACE,
    UNRECORDED,
    check_place,
    check_shards,
    check_weights,
    place_of,
    plain,
)

# Columns of CSV tables whose values are texts whatever they look like: a name may be NA or 7.
TEXTS = """category claim component control control_of criterion direction experiment group holds
    intervention interval_over item kind measure method over part published_scorer scorer scorer_a
    scorer_b section state statement tokens tokens_toward vector"""


def write_parquet(path: str | Path, table: pd.DataFrame, made: Mapping = UNRECORDED) -> None:
    """Write a table without its index: the whole of it or nothing.

    Recorded are its place, what it was `made` from, and what the table's `attrs` say already.
    """
    table = table.copy(deep=False)
    recorded = {name: plain(value) for name, value in {**table.attrs, **made}.items()}
    table.attrs = recorded | place_of(path)
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, write_page_checksum=True)


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table without its index: the whole of it or nothing."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read what `write_csv` wrote, as it was: names are texts, and numbers the same to the bit.

    Columns of TEXTS are texts, in which nothing is missing, and so are other columns that are not
    numbers throughout. A missing number is NaN. Raises ValueError, naming the file, if it is no
    table.
    """
    with reading(path):
        columns = pd.read_csv(path, nrows=0).columns
        texts = [name for name in columns if name in TEXTS.split()]
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(texts, str),
            keep_default_na=False,
            na_values={name: [""] for name in columns if name not in texts},
            float_precision="round_trip",
        )
        others = table.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]]
        return table.astype(dict.fromkeys(others, str)).fillna(dict.fromkeys(others, ""))


def read_parquet(
    path: str | Path, columns: Sequence[str] | None = None, weights: str | None = None
) -> pd.DataFrame:
    """Read what `write_parquet` wrote, or some columns of it; its `attrs` are what is recorded.

    `weights` is the digest of a model that a table of neurons or heads should be about.
    Raises ValueError, naming the file, if it is truncated or damaged, or was written to another
    place; without its checksums, damage may crash the process.
    """
    with reading(path):
        table = pd.read_parquet(path, columns=columns, page_checksum_verification=True)
        rows = read_metadata(path).num_rows  # the list of pages has no checksum
        if len(table) != rows:
            raise ValueError(f"{len(table)} of {rows} rows")
    check_place(path, table.attrs)
    if weights is not None:
        check_weights(path, table.attrs, weights)
    table.attrs.pop(PLACE, None)
    return table


def read_shards(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read all shards of a table as one, in the order given.

    Raises ValueError, naming the file, as `read_parquet` and `check_shards` do.
    """
    tables = [read_parquet(path) for path in paths]
    check_shards(list(paths), [table.attrs for table in tables])
    return pd.concat(tables, ignore_index=True)
