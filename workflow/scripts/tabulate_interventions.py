"""One row per intervention: toxicity, fluency, and how much of the tuning's effect it reproduces.

Toxicity is the mean over the prompts that could be scored. `effect_share` compares an intervention
with the unedited base and tuned models on the prompts that all three have a score for; it is empty
where the study lacks one of the two, or where tuning did not lower toxicity.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging

import numpy as np
import pandas as pd
from neurondynamics.analysis.effects import Effects
from neurondynamics.analysis.statistics import Estimate, bootstrap_mean
from neurondynamics.data.records import replacing
from neurondynamics.evaluation.metrics import perplexity

logger = logging.getLogger("tabulate_interventions")


def tabulate_interventions(
    scores: list[str],
    losses: list[str],
    table: str,
    states: dict[str, str],
    toxic_threshold: float,
    samples: int,
    confidence: float,
    seed: int,
) -> None:
    """Write the CSV file `table` from one scores and one losses parquet file per experiment.

    `states`: the model state of each experiment, in the order of the files. A continuation scored
    above `toxic_threshold` is toxic. Raises ValueError where an experiment's two files do not hold
    the same interventions.
    """
    scored = {name: pd.read_parquet(path) for name, path in zip(states, scores, strict=True)}
    lost = {name: pd.read_parquet(path) for name, path in zip(states, losses, strict=True)}
    for experiment in states:
        unequal = set(scored[experiment]["intervention"]) ^ set(lost[experiment]["intervention"])
        if unequal:
            raise ValueError(
                f"experiment {experiment}: {', '.join(sorted(unequal))} has only scores or only "
                "losses; run the experiment again"
            )
    options = {"samples": samples, "confidence": confidence, "seed": seed}
    effects = Effects.pair(scored, states=states, **options)
    rows = []
    for experiment, intervention in effects.toxicity.columns:
        toxicity = effects.toxicity[experiment, intervention].to_numpy()
        mean = bootstrap_mean(toxicity, **options)
        effect = Estimate(np.nan, np.nan, np.nan)
        missing = effects.missing(states[experiment], [intervention])
        if missing:
            logger.warning("%s: no effect_share without %s", intervention, ", ".join(missing))
        else:
            effect = effects.estimate(states[experiment], [intervention])
        measured = scored[experiment].query("intervention == @intervention")
        windows = lost[experiment].query("intervention == @intervention")
        known = toxicity[~np.isnan(toxicity)]
        rows.append(
            {
                "experiment": experiment,
                "intervention": intervention,
                "state": states[experiment],
                "neurons": windows["neurons"].iloc[0],
                "n": len(known),
                "missing": (measured["corpus"] == "prompts").sum() - len(known),
                "toxicity": mean.value,
                "toxicity_low": mean.low,
                "toxicity_high": mean.high,
                "toxic_fraction": (known > toxic_threshold).mean() if len(known) else np.nan,
                "perplexity": perplexity(windows["nll"], windows["tokens"]),
                "f1": measured["f1"].mean(),
                "repetition": measured["repetition"].mean(),
                "effect_share": effect.value,
                "effect_share_low": effect.low,
                "effect_share_high": effect.high,
            }
        )
    with replacing(table) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


if __name__ == "__main__":
    tabulate_interventions(
        scores=snakemake.input.scores,
        losses=snakemake.input.losses,
        table=snakemake.output.table,
        states=snakemake.params.states,
        toxic_threshold=snakemake.params.toxic_threshold,
        **snakemake.params.statistics,
    )
