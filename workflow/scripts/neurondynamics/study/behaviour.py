"""The words for the behaviour under study in tables and figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# of tables that hold scores, what their other columns are called
OTHER_COLUMNS = """
    experiment intervention scorer control_of control state neurons n missing n_paired category
    draws perplexity draws_perplexity draws_perplexity_min draws_perplexity_max f1 repetition
    draws_repetition difference_none difference_none_low difference_none_high difference_tuned
    difference_tuned_low difference_tuned_high effect_share effect_share_low effect_share_high
    draws_effect_share draws_effect_share_min draws_effect_share_max advantage advantage_low
    advantage_high
"""


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

    @property
    def clash(self) -> str | None:
        """A column that tables would have twice, or one without a name, if there is any."""
        own = list(self.columns.values())
        taken = [name for name in own if name in OTHER_COLUMNS.split() or own.count(name) > 1]
        if "" in (_as_column(self.name), _as_column(self.adjective)):
            return "without a name"
        return taken[0] if taken else None


def contradictions(config: dict) -> Iterator[str]:
    """Yield what does not go together in `behaviour`, a line each."""
    clash = Behaviour(**config["behaviour"]).clash
    if clash:
        yield f"behaviour: tables name columns by it, and one would be {clash}; word it otherwise"


def _as_column(words: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", words).strip("_").lower()
