"""A claim: a statistic with its interval, and the criterion that it is judged by."""

from __future__ import annotations

from neurondynamics.analysis.statistics import Estimate


def decide(estimate: Estimate, criterion: str) -> str:
    """Judge a criterion ("< 1", "> 0", ">= 0.8") by the interval: "yes", "no" or "undecided"."""
    sign, bound = criterion.split()
    low, high, bound = float(estimate.low), float(estimate.high), float(bound)
    meets, misses = {
        "<": (high < bound, low >= bound),
        ">": (low > bound, high <= bound),
        ">=": (low >= bound, high < bound),
    }[sign]
    return "yes" if meets else "no" if misses else "undecided"


def row(
    claim: str,
    statement: str,
    estimate: Estimate | None,
    criterion: str,
    n: int = 0,
    missing: int = 0,
    paper: float | None = None,
    interval_over: str = "prompts",
) -> dict:
    """Return a claim as a row of a table; it is not tested where there is no estimate."""
    value, low, high = (None, None, None) if estimate is None else estimate
    return {
        "claim": claim,
        "judged_by": "",  # of those that are about interventions, the scorer or KL_SHARE
        "statement": statement,
        "statistic": value,
        "low": low,
        "high": high,
        "interval_over": interval_over,
        "n": n,
        "missing": missing,
        "paper": paper,
        "criterion": criterion,
        "holds": "not tested" if estimate is None else decide(estimate, criterion),
    }
