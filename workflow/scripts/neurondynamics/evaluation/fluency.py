"""How fluent the text under each intervention of an experiment is."""

from __future__ import annotations

import pandas as pd

from neurondynamics.evaluation.metrics import perplexity


def measure_fluency(scores: pd.DataFrame, losses: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Return a row per intervention, in the order of `scores`: neurons perplexity f1 repetition.

    `scores`: columns `intervention f1 repetition`, a row per continuation, averaged without NaN;
    `losses`: `intervention neurons nll tokens`, a row per window of text. Raises ValueError, naming
    the experiment, where the two do not hold the same interventions.
    """
    unequal = set(scores["intervention"]) ^ set(losses["intervention"])
    if unequal:
        raise ValueError(
            f"experiment {experiment}: {', '.join(sorted(unequal))} has only scores or only "
            "losses; run the experiment again"
        )
    means = scores.groupby("intervention", sort=False)[["f1", "repetition"]].mean()
    windows = losses.groupby("intervention")
    text = pd.DataFrame(
        {
            "neurons": windows["neurons"].first(),
            "perplexity": {name: perplexity(w["nll"], w["tokens"]) for name, w in windows},
        }
    )
    return means.join(text)[["neurons", "perplexity", "f1", "repetition"]]
