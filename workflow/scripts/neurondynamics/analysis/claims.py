"""A claim: a statistic with its interval, and the criterion that it is judged by."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Protocol

import numpy as np

from neurondynamics.analysis.statistics import Estimate

logger = logging.getLogger(__name__)

ENDS_OF_CLAIM = ("statistic", "low", "high")
TOLD = (
    "claim",
    "judged_by",
    "statement",
    "criterion",
    *ENDS_OF_CLAIM,
    "interval_over",
    "n",
    "holds",
)


class Judge(Protocol):
    """A measure of how much of a tuning interventions bring: `Effects` of a scorer, `Nearness`."""

    def missing(self, state: str, names: list[str]) -> list[str]:
        """Return what is missing of interventions on a state."""

    def counts(self, state: str, names: list[str]) -> tuple[int, int]:
        """Return over how many prompts `estimate` is, and how many are left out."""

    def estimate(self, state: str, names: list[str], **options) -> Estimate:
        """Estimate shares of the tuning."""


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


ORDER = ("no", "undecided", "yes")


def worst(verdicts: Iterable[str]) -> str:
    """Return the one of some verdicts that says least for a claim."""
    return min(verdicts, key=ORDER.index)


def power(claim: Mapping, confidence: float) -> dict:
    """Return how many prompts or neurons would decide a claim, a `row`, if all else stayed.

    `variance` is that of one of them, from the interval's width, as of a normal distribution; the
    distance from the statistic to the interval's end on the side of the bound falls with the root
    of the number. `n_needed` is `n` where the claim is decided, and empty where the statistic is
    at its bound, or unknown.
    """
    value, low, high = (np.nan if claim[name] is None else claim[name] for name in ENDS_OF_CLAIM)
    bound = claim["criterion"].split()[1]
    n, away = claim["n"], value - float(bound)
    deviation = (high - low) / 2 / NormalDist().inv_cdf((1 + confidence) / 2)
    end = value - low if away > 0 else high - value
    needed = n if claim["holds"] in ("yes", "no") else np.nan
    if claim["holds"] == "undecided" and away and np.isfinite(end):
        needed = max(n, math.ceil(n * (end / abs(away)) ** 2))
    told = {name: claim[name] for name in TOLD}
    return {**told, "variance": n * deviation**2, "n_needed": needed}


def tested(judge: Judge, state: str, names: list[str], **options) -> dict:
    """Return the `estimate` of shares of interventions on a state, and over how many prompts it is,
    `n` and `missing`; None where the study lacks what it needs."""
    missing = judge.missing(state, names)
    if missing or not names:
        logger.warning("not tested: the study lacks %s", ", ".join(missing) or "the interventions")
        return {"estimate": None}
    counts = dict(zip(("n", "missing"), judge.counts(state, names), strict=True))
    return {"estimate": judge.estimate(state, names, **options), **counts}


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
        "beyond_null": "",  # of those that have nulls, whether the statistic lies beyond each
        "holds": "not tested" if estimate is None else decide(estimate, criterion),
    }
