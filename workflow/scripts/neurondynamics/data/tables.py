"""Tables: in Parquet, with checksums for their content, or in CSV for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pyarrow.parquet import read_metadata

from neurondynamics.data.files import reading, replacing


def write_parquet(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table without its index: the whole of it or nothing."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, write_page_checksum=True)


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table without its index: the whole of it or nothing."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def read_parquet(path: str | Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read what `write_parquet` wrote, or some columns of it.

    Raises ValueError, naming the file, if it is truncated or damaged; without its checksums,
    damage may crash the process.
    """
    with reading(path):
        table = pd.read_parquet(path, columns=columns, page_checksum_verification=True)
        rows = read_metadata(path).num_rows  # the list of pages has no checksum
        if len(table) != rows:
            raise ValueError(f"{len(table)} of {rows} rows")
        return table
