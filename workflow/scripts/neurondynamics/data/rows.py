"""Rows of a dataset and their fields, which name file and line where they are not as they should.

Nothing heavy is imported here, since rule files may import this module.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

WORDS = {"true": 1.0, "false": 0.0}  # numbers that a CSV file may write as words
UNMEASURED = {"", "nan", "na", "n/a", "null", "none"}  # where a CSV file has no number


class Row(dict):
    """One record of a dataset by its fields, which knows its file and its line or row there."""

    def __init__(self, content: dict, path: Path, number: int, format: str):
        super().__init__(content)
        unit = "row" if format == "parquet" else "line"
        self.place = f"{path}, {unit} {number}"  # for messages
        self.source = f"{path.name}:{number}"
        self.untyped = format == "csv"  # its values are texts, whatever they mean


def field(row: Row, name: str) -> object:
    """Return a field of a row; a dot reaches into an object, as in `prompt.text`.

    Raises ValueError naming the place, and the fields that there are.
    """
    if name in row:
        return row[name]
    value, parts = row, name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(value, Mapping) or part not in value:
            there = ", ".join(map(str, value)) if isinstance(value, Mapping) else ""
            within = f" in {'.'.join(parts[:depth])}" if depth else ""
            raise ValueError(f"{row.place}: no field {name!r}; there are {there or 'none'}{within}")
        value = value[part]
    return value


def text_of(row: Row, name: str, blank: bool = False) -> str:
    """Return a field that is a text, as it is; a `blank` one only where that is allowed.

    Raises ValueError naming place and field.
    """
    value = field(row, name)
    if not isinstance(value, str) or not (blank or value.strip()):
        raise ValueError(f"{row.place}: the field {name!r} should be a text, found {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{row.place}: the field {name!r} holds half a surrogate pair") from error
    return value


def with_texts(name: str, rows: list[Row], *fields: str) -> list[Row]:
    """Return the rows of the dataset `name` without those that have no text in one of the fields.

    That is null, or nothing but white space. How many are left out, is logged. Raises ValueError
    where a row lacks a field, and if no row is left.
    """
    kept = [row for row in rows if not any(_is_blank(field(row, each)) for each in fields)]
    left_out, what = len(rows) - len(kept), " or ".join(map(repr, fields))
    if not kept:
        raise ValueError(f"{name}: none of its {len(rows)} rows has a text in the field {what}")
    if left_out:
        number = f"{left_out} of {len(rows)} rows"
        logger.warning("%s: %s have no text in the field %s and are left out", name, number, what)
    return kept


def _is_blank(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def is_measured(row: Row, name: str) -> bool:
    """Return whether a field, which should be a number, holds something: not null, not NaN."""
    value = field(row, name)
    if row.untyped:
        return value.strip().lower() not in UNMEASURED
    return not _is_blank(value)


def number_of(row: Row, name: str) -> float:
    """Return a field that is a number, or one written as text in a CSV file.

    Truth values count as 0 and 1. Raises ValueError naming place and field.
    """
    value = field(row, name)
    number = _parse_number(value) if row.untyped else value
    if not isinstance(number, (int, float)) or not abs(number) < math.inf:
        raise ValueError(f"{row.place}: the field {name!r} should be a number, found {value!r}")
    return float(number)


def _parse_number(text: str) -> float:
    word = text.strip().lower()
    if "_" in word or not word.isascii():  # Python reads 1_0 as 10
        return math.nan
    try:
        return WORDS[word] if word in WORDS else float(word)
    except ValueError:
        return math.nan


def fits(row: Row, name: str, wanted: object) -> bool:
    """Return whether a field has the value, or lies between the bounds, that `where` asks for."""
    value = field(row, name)
    if isinstance(wanted, Mapping):
        if not is_measured(row, name):
            return False
        low, high = wanted.get("minimum", -math.inf), wanted.get("maximum", math.inf)
        return low <= number_of(row, name) <= high
    if row.untyped and not isinstance(wanted, str):
        return is_measured(row, name) and number_of(row, name) == wanted
    return value == wanted
