"""The paper's claims about groups and single neurons, each held against what it says where there
is nothing to find.

A claim about groups holds where its criterion is met and where the statistic lies beyond each of
its nulls: the interval of the difference, over resamples of the prompts with a draw of the null
each, is on the side that the claim speaks of. Random directions are resampled with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd

from neurondynamics.analysis.attribution import REDUCING
from neurondynamics.analysis.claims import decide, row, worst
from neurondynamics.analysis.nulls import FRACTIONS, TOP, Null
from neurondynamics.analysis.statistics import Estimate, Statistics, share, wilson
from neurondynamics.study.behaviour import Behaviour

Statistic = Callable[[np.ndarray], np.ndarray]  # of means, (resamples, ...) -> (resamples,)
Tested = tuple[dict, list[dict]]  # a row of the claims, and its rows of the nulls


def claims_on_groups(
    reduction: np.ndarray,
    nulls: Mapping[str, Null],
    behaviour: Behaviour,
    statistics: Statistics,
) -> Iterator[Tested]:
    """Test which groups and layers carry the reduction, (prompts, layers, groups)."""
    layers = reduction.shape[1]
    first = layers - layers // 3

    def shares(means: np.ndarray) -> np.ndarray:  # (resamples, layers, groups)
        reducing = means[..., : len(REDUCING)].sum(axis=-2)
        return share(reducing, reducing.sum(axis=-1, keepdims=True))

    def late_share(means: np.ndarray) -> np.ndarray:
        # of the four groups, which reduce whatever the direction; a net sum may be none
        by_layer = means[..., : len(REDUCING)].sum(axis=-1)
        return share(by_layer[..., first:].sum(axis=-1), by_layer.sum(axis=-1))

    largest = reduction[..., : len(REDUCING)].sum(axis=2).mean(axis=0).argmax()
    claims = {
        "dampened-neurons-minority": (
            f"The dampened {behaviour.adjective} neurons carry a minority of the reduction "
            "(gross share of TP-)",
            lambda means: shares(means)[..., REDUCING.index("TP-")],
            "< 0.5",
            0.318,
        ),
        "four-groups-contribute": (
            "All four groups contribute to the reduction (smallest gross share)",
            lambda means: shares(means).min(axis=-1),
            "> 0.05",
            0.0699,  # AP+
        ),
        "late-layers": (
            "The reduction lies in the last third of the layers (gross share of "
            f"layers {first} to {layers - 1}; the largest is in layer {largest})",
            late_share,
            "> 0.5",
            None,
        ),
    }
    for claim, (statement, statistic, criterion, paper) in claims.items():
        estimate = statistics.estimate(statistic, [reduction])
        about = [
            against(kind, null.reductions, reduction, statistic, criterion, statistics)
            for kind, null in nulls.items()
        ]
        one = row(claim, statement, estimate, criterion, n=len(reduction), paper=paper)
        yield _held(one, about)


def against(
    kind: str,
    draws: np.ndarray,
    array: np.ndarray,
    statistic: Statistic,
    criterion: str,
    statistics: Statistics,
) -> dict:
    """Hold a statistic of an array, (prompts, ...), against draws of a null, (draws, prompts, ...).

    The null's value is the mean over draws, its ends the least and the greatest.
    """
    of_draws = statistic(draws.mean(axis=1))  # (draws,)
    generator = np.random.default_rng(statistics.seed)

    def apart(means: np.ndarray, null: np.ndarray | None = None) -> np.ndarray:
        chosen = generator.integers(len(draws), size=len(means))  # so that their spread is in it
        if null is None:
            return statistic(means) - of_draws[chosen]
        return statistic(means) - statistic(null[np.arange(len(means)), chosen])

    # a resample of swapped prompts swaps another number of them, and is no draw of that null
    paired = [np.moveaxis(draws, 0, 1)] if kind != "swapped" else []
    _, low, high = statistics.estimate(apart, [array, *paired])
    value = statistic(array.mean(axis=0)[None])[0] - of_draws.mean()
    return _null(kind, of_draws, Estimate(value, low, high), criterion)


def claims_on_neurons(
    neurons: pd.DataFrame, nulls: Mapping[str, Null], behaviour: Behaviour, confidence: float
) -> Iterator[Tested]:
    """Test what single neurons do; the intervals take neurons as drawn independently."""
    top = neurons.nlargest(TOP, "cosine")
    of_top = f"Most of the {len(top)} most {behaviour.adjective} neurons are negatively activated"
    claims = {
        "many-increase-behaviour": (
            "increasing",
            f"Many neurons increase {behaviour.name} after tuning (fraction with a negative "
            "reduction)",
            neurons["reduction"] < 0,
            "> 0.25",
            1 - 0.5849,
        ),
        "top-neurons-negative-before": (
            "negative_before",
            f"{of_top} before tuning (fraction)",
            top["activation_base"] < 0,
            "> 0.5",
            1 - 36 / 128,  # of the 128 most toxic neurons of GPT-2-medium
        ),
        "top-neurons-negative-after": (
            "negative_after",
            f"{of_top} after tuning (fraction)",
            top["activation_tuned"] < 0,
            "> 0.5",
            None,
        ),
    }
    for claim, (fraction, statement, flags, criterion, paper) in claims.items():
        estimate = wilson(int(flags.sum()), len(flags), confidence)
        about = []
        for kind, null in nulls.items():
            of_draws = null.fractions[:, FRACTIONS.index(fraction)]
            value = estimate.value - of_draws.mean()
            ends = estimate.low - of_draws.max(), estimate.high - of_draws.min()
            about.append(_null(kind, of_draws, Estimate(value, *ends), criterion))
        one = row(
            claim, statement, estimate, criterion,
            n=len(flags), paper=paper, interval_over="neurons",
        )  # fmt: skip
        yield _held(one, about)


def _null(kind: str, of_draws: np.ndarray, difference: Estimate, criterion: str) -> dict:
    value, low, high = difference
    return {
        "null": kind,
        "draws": len(of_draws),
        "null_value": of_draws.mean(),
        "null_low": of_draws.min(),
        "null_high": of_draws.max(),
        "difference": value,
        "difference_low": low,
        "difference_high": high,
        "beyond": decide(difference, f"{criterion[0]} 0"),
    }


def _held(one: dict, about: list[dict]) -> Tested:
    """Let a claim hold no better than it does beyond its nulls."""
    beyond = worst(null["beyond"] for null in about)
    shared = {name: one[name] for name in ("claim", "statement", "statistic", "interval_over", "n")}
    held = {**one, "beyond_null": beyond, "holds": worst([one["holds"], beyond])}
    return held, [{**shared, **null} for null in about]
