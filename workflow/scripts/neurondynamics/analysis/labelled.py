"""Labelled texts, and the features of a model that directions are fitted on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from neurondynamics.data.rows import Row, is_measured, number_of, text_of, with_texts
from neurondynamics.data.tables import read_shards
from neurondynamics.data.tensors import read_tensors, write_tensors
from neurondynamics.data.texts import read_rows

logger = logging.getLogger(__name__)


def mixed_prompts(scored: Iterable[str | Path], threshold: float) -> pd.DataFrame:
    """Return the scored samples of the prompts that have some above the threshold, and others.

    Adds `toward`, whether a sample is above it, and `group`, which counts prompts: no prompt stands
    in two splits. With such prompts alone a direction is no detector of topics. Raises ValueError
    if they are too few.
    """
    table = read_shards(scored).dropna(subset="score")
    table = table.sort_values(["prompt", "sample"])  # whatever the files, one order
    table["toward"] = table.score > threshold
    table["group"] = table.groupby("prompt").ngroup()
    share = table.groupby("group").toward.transform("mean")
    mixed = table[(share > 0) & (share < 1)].reset_index(drop=True)
    number = mixed.group.nunique()
    if number < 4:
        raise ValueError(
            f"only {number} prompts have samples scored above the threshold {threshold} and "
            "others; raise prompts.train.number or sampling.samples, or lower the scorer's "
            "threshold"
        )
    return mixed


def read_labelled(
    folder: str | Path, format: str, text_field: str = "text", where: dict | None = None
) -> tuple[list[str], list[Row]]:
    """Return the texts of a fetched dataset, and its rows, which hold their labels.

    Rows without a text are left out. Raises ValueError, naming the place, for what is no text.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    rows = with_texts(folder.name, read_rows(folder.name, files, format, where), text_field)
    return [text_of(row, text_field) for row in rows], rows


def labels_of(texts: Sequence[str], rows: Sequence[Row], label: str) -> pd.DataFrame:
    """Return, for each text of a dataset, `toward` and `group`, which counts distinct texts.

    A label is a truth value or a number from 0 to 1, and says toward above one half; `toward` is 1
    or 0, and NaN where the label is missing. Raises ValueError, naming the place, for another.
    """
    values = [number_of(row, label) if is_measured(row, label) else np.nan for row in rows]
    for row, value in zip(rows, values, strict=True):
        if value < 0 or value > 1:
            raise ValueError(
                f"{row.place}: the label {label!r} should be from 0 (away) to 1 (toward), found "
                f"{value:g}; write labels so, or leave such rows out with "
                f"`where: {{{label}: {{minimum: 0, maximum: 1}}}}`"
            )
    labels = np.array(values)
    missing = np.isnan(labels)
    if missing.any():
        logger.warning("%d of %d texts have no label and are left out", missing.sum(), len(labels))
    toward = np.where(missing, np.nan, labels > 0.5)
    return pd.DataFrame({"toward": toward, "group": pd.factorize(pd.Series(texts))[0]})


def write_features(path: str | Path, features: np.ndarray, rows: np.ndarray) -> None:
    """Write features (n, d_model) and the numbers of their texts (n,) as safetensors."""
    write_tensors(path, {"features": features, "rows": rows})


def read_features(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read what `write_features` wrote. Raises ValueError as `read_tensors` does."""
    features, rows = read_tensors(path, ("features", "rows"))
    return features, rows
