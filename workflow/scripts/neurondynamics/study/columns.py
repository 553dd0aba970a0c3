"""Columns of tables that are named after the behaviour, held against those that are not.

Apart from behaviour.py, which scripts import: an edited check reruns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from neurondynamics.study.behaviour import Behaviour

# of tables that hold scores, the columns with names of their own
OTHERS = """
    experiment intervention scorer control_of control state neurons heads n missing n_paired
    category draws perplexity draws_perplexity draws_perplexity_min draws_perplexity_max
    neutral_kl neutral_kl_low neutral_kl_high f1 repetition draws_repetition difference_none
    difference_none_low difference_none_high difference_tuned difference_tuned_low
    difference_tuned_high effect_share effect_share_low effect_share_high draws_effect_share
    draws_effect_share_min draws_effect_share_max advantage advantage_low advantage_high n_read
    kl kl_low kl_high kl_share kl_share_low kl_share_high agreement agreement_low agreement_high
    n_pairs margin_share margin_share_low margin_share_high
"""


def clash(behaviour: Behaviour) -> str | None:
    """Return a column that tables would have twice, or that would have no name, if there is one."""
    own = list(behaviour.columns.values())
    if not behaviour.column or behaviour.fraction.startswith("_"):
        return "without a name"
    return next((name for name in own if name in OTHERS.split() or own.count(name) > 1), None)


def contradictions(config: dict) -> Iterator[str]:
    """Yield what does not go together in `behaviour`, a line each."""
    twice = clash(Behaviour(**config["behaviour"]))
    if twice:
        yield f"behaviour: tables name columns by it, and one would be {twice}; word it otherwise"
