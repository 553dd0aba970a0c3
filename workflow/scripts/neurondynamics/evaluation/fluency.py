"""How fluent the text under each intervention of an experiment is."""

from __future__ import annotations

import pandas as pd

from neurondynamics.evaluation.metrics import perplexity


def measure_fluency(measures: pd.DataFrame, losses: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Return a row per intervention, in the order of `measures`: neurons perplexity f1 repetition.

    `measures`: columns `intervention f1 repetition`, a row per continuation, averaged without NaN;
    `losses`: `intervention neurons nll tokens`, a row per window of text. Raises ValueError, naming
    the experiment, where the two do not hold the same interventions.
    """
    unequal = set(measures["intervention"]) ^ set(losses["intervention"])
    if unequal:
        raise ValueError(
            f"experiment {experiment}: {', '.join(sorted(unequal))} has only measures or only "
            "losses; run the experiment again"
        )
    means = measures.groupby("intervention", sort=False)[["f1", "repetition"]].mean()
    windows = losses.groupby("intervention")
    text = pd.DataFrame(
        {
            "neurons": windows["neurons"].first(),
            "perplexity": {name: perplexity(w["nll"], w["tokens"]) for name, w in windows},
        }
    )
    return means.join(text)[["neurons", "perplexity", "f1", "repetition"]]
