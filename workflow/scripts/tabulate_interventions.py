"""One row per intervention: toxicity, fluency, and how much of the tuning's effect it reproduces.

Toxicity is the mean over the prompts that could be scored. The differences compare an intervention
with the unedited model of its own state and with the unedited tuned model, prompt by prompt, and
`effect_share` with the unedited base and tuned models, each on the prompts that all of them have a
score for. They are empty where the study lacks one of these, and `effect_share` also where tuning
did not lower toxicity.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging

import numpy as np
import pandas as pd
from neurondynamics.analysis.effects import Effects, parse_control, read_experiments
from neurondynamics.data.records import replacing
from neurondynamics.evaluation.fluency import measure_fluency

logger = logging.getLogger("tabulate_interventions")

COLUMNS = """experiment intervention control_of control state neurons n missing
    toxicity toxicity_low toxicity_high toxic_fraction perplexity f1 repetition
    difference_none difference_none_low difference_none_high
    difference_tuned difference_tuned_low difference_tuned_high
    effect_share effect_share_low effect_share_high"""


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
    """Write the CSV file `table` from the scores and losses of experiments.

    `scores` and `losses`: parquet files, any number per experiment. `states`: the model state of
    each experiment. A continuation scored above `toxic_threshold` is toxic. `control_of` and
    `control` are the intervention that a control is of and its kind. Raises ValueError where an
    experiment's files do not hold the same interventions.
    """
    scored = read_experiments(scores, states)
    fluency = {
        name: measure_fluency(scored[name], table, name)
        for name, table in read_experiments(losses, states).items()
    }
    effects = Effects.pair(scored, states=states, samples=samples, confidence=confidence, seed=seed)
    for lacking in effects.missing("base", []):
        logger.warning("no effect_share without %s", lacking)
    estimates = effects.estimate_all()
    rows = []
    for experiment, intervention in effects.toxicity.columns:
        control = parse_control(intervention)
        measured = scored[experiment]
        continuations = (measured["intervention"] == intervention) & (
            measured["corpus"] == "prompts"
        )
        known = measured.loc[continuations, "toxicity"].dropna()
        rows.append(
            {
                "experiment": experiment,
                "intervention": intervention,
                "control_of": control.of if control else "",
                "control": control.kind if control else "",
                "state": states[experiment],
                "n": len(known),
                "missing": continuations.sum() - len(known),
                "toxic_fraction": (known > toxic_threshold).mean() if len(known) else np.nan,
                **fluency[experiment].loc[intervention],
                **estimates.loc[(experiment, intervention)],
            }
        )
    with replacing(table) as temporary:
        pd.DataFrame(rows, columns=COLUMNS.split()).astype({"neurons": int}).to_csv(
            temporary, index=False
        )


if __name__ == "__main__":
    tabulate_interventions(
        scores=snakemake.input.scores,
        losses=snakemake.input.losses,
        table=snakemake.output.table,
        states=snakemake.params.states,
        toxic_threshold=snakemake.params.toxic_threshold,
        **snakemake.params.statistics,
    )
