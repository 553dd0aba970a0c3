"""The words for the behaviour under study in tables and figures."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Behaviour:
    """A behaviour's `name`, a noun such as toxicity, and the `adjective` of what shows it."""

    name: str
    adjective: str

    @property
    def anti(self) -> str:
        """The adjective of what writes against the behaviour."""
        return f"anti-{self.adjective}"

    @property
    def column(self) -> str:
        """The column of a table that holds the mean score."""
        return _as_column(self.name)

    @property
    def fraction(self) -> str:
        """The column that holds the share of texts above a scorer's threshold."""
        return f"{_as_column(self.adjective)}_fraction"

    @property
    def columns(self) -> dict[str, str]:
        """The names of the columns of scores: `score` becomes `toxicity`, and so on."""
        plain = {f"fraction{end}": f"{self.fraction}{end}" for end in ("", "_low", "_high")}
        for prefix in ("", "draws_"):
            for suffix in ("", "_low", "_high", "_min", "_max"):
                plain[f"{prefix}score{suffix}"] = f"{prefix}{self.column}{suffix}"
        return plain


def _as_column(words: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", words).strip("_").lower()
