"""How fluent the text under each intervention of an experiment is."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from neurondynamics.analysis.effects import read_experiments
from neurondynamics.analysis.statistics import ENDS, Statistics
from neurondynamics.evaluation.metrics import MEASURES, perplexity

FLUENCY = ("perplexity", *sorted(MEASURES))  # what is said of an intervention, in this order
NEUTRAL = tuple("neutral_kl" + end for end in ENDS)  # and of it on neutral text


def read_fluency(
    measures: list[str], losses: list[str], experiments: Iterable[str]
) -> dict[str, pd.DataFrame]:
    """Read the measures and losses of experiments: by experiment what `measure_fluency` returns.

    `measures`, `losses`: parquet files, any number per experiment. Raises ValueError as
    `read_experiments` and `measure_fluency` do.
    """
    experiments = list(experiments)
    read = read_experiments(losses, experiments)
    return {
        name: measure_fluency(written, read[name], name)
        for name, written in read_experiments(measures, experiments).items()
    }


def estimate_neutral(
    losses: list[str], experiments: Iterable[str], statistics: Statistics
) -> dict[str, pd.DataFrame]:
    """Return by experiment how far interventions take a model from itself on neutral text.

    Of `losses`, parquet files, the column `neutral_kl`, KL(unedited ‖ edited) in nats per token,
    is averaged over windows: a row per intervention with NEUTRAL, the mean and both ends of its
    interval. Raises ValueError as `read_experiments` does.
    """
    estimated = {}
    for name, table in read_experiments(losses, experiments).items():
        wide = table.pivot_table("neutral_kl", index="window", columns="intervention")
        found = statistics.mean(wide.to_numpy()).columns("neutral_kl")  # each (interventions,)
        estimated[name] = pd.DataFrame(found, index=wide.columns)
    return estimated


def measure_fluency(measures: pd.DataFrame, losses: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Return a row per intervention, in the order of `measures`: `neurons`, `heads` and FLUENCY.

    `measures`: a row per continuation with its `intervention` and MEASURES, averaged without NaN;
    `losses`: `intervention neurons heads nll tokens`, a row per window of text. Raises
    ValueError, naming the experiment, where the two do not hold the same interventions.
    """
    unequal = set(measures["intervention"]) ^ set(losses["intervention"])
    if unequal:
        raise ValueError(
            f"experiment {experiment}: {', '.join(sorted(unequal))} has only measures or only "
            "losses; run the experiment again"
        )
    means = measures.groupby("intervention", sort=False)[list(MEASURES)].mean()
    windows = losses.groupby("intervention")
    text = pd.DataFrame(
        {
            "neurons": windows["neurons"].first(),
            "heads": windows["heads"].first(),
            "perplexity": {name: perplexity(w["nll"], w["tokens"]) for name, w in windows},
        }
    )
    return means.join(text)[["neurons", "heads", *FLUENCY]]
