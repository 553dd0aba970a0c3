"""Per intervention and scorer: score, fluency, and how much of the tuning's effect it reproduces.

The score is the mean over the prompts that could be scored. The differences compare an intervention
with the unedited model of its own state and with the unedited tuned model, prompt by prompt, and
`effect_share` with the unedited base and tuned models, each on the prompts that all of them have a
score for. They are empty where the study lacks one of these, and `effect_share` also where tuning
did not lower the score.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging

import numpy as np
import pandas as pd
from neurondynamics.analysis.effects import (
    Effects,
    parse_control,
    read_experiments,
    read_scores,
)
from neurondynamics.behaviour import Behaviour
from neurondynamics.data.records import replacing
from neurondynamics.evaluation.fluency import measure_fluency

logger = logging.getLogger("tabulate_interventions")

COLUMNS = """experiment intervention scorer control_of control state neurons n missing
    score score_low score_high fraction perplexity f1 repetition
    difference_none difference_none_low difference_none_high
    difference_tuned difference_tuned_low difference_tuned_high
    effect_share effect_share_low effect_share_high"""


def tabulate_interventions(
    scores: list[str],
    measures: list[str],
    losses: list[str],
    table: str,
    states: dict[str, str],
    thresholds: dict[str, float],
    behaviour: Behaviour,
    samples: int,
    confidence: float,
    seed: int,
) -> None:
    """Write the CSV file `table` from the scores, measures and losses of experiments.

    `scores`, `measures`, `losses`: parquet files, any number per experiment. `states`: the model
    state of each experiment. `thresholds`: by scorer, the score above which a continuation counts
    as showing the behaviour, after which columns are named. `control_of` and `control` are the
    intervention that a control is of and its kind. Raises ValueError where an experiment's files
    do not hold the same interventions.
    """
    written = read_experiments(measures, states)
    fluency = {
        name: measure_fluency(written[name], table, name)
        for name, table in read_experiments(losses, states).items()
    }
    judged = {}
    for scorer, scored in read_scores(scores, thresholds, states).items():
        options = {"samples": samples, "confidence": confidence, "seed": seed}
        effects = Effects.pair(scored, states=states, **options)
        for lacking in effects.missing("base", []):
            logger.warning("no effect_share without %s", lacking)
        judged[scorer] = (effects.scores, effects.estimate_all())
    interventions = next(iter(judged.values()))[0].columns
    rows = [
        {
            "experiment": experiment,
            "intervention": intervention,
            "scorer": scorer,
            **_control(intervention),
            "state": states[experiment],
            **_counts(continuations[(experiment, intervention)], thresholds[scorer]),
            **fluency[experiment].loc[intervention],
            **estimates.loc[(experiment, intervention)],
        }
        for experiment, intervention in interventions
        for scorer, (continuations, estimates) in judged.items()
    ]
    with replacing(table) as temporary:
        pd.DataFrame(rows, columns=COLUMNS.split()).astype({"neurons": int}).rename(
            columns=behaviour.columns
        ).to_csv(temporary, index=False)


def _control(intervention: str) -> dict[str, str]:
    control = parse_control(intervention)
    return {
        "control_of": control.of if control else "",
        "control": control.kind if control else "",
    }


def _counts(scores: pd.Series, threshold: float) -> dict[str, float]:
    known = scores.dropna()
    return {
        "n": len(known),
        "missing": len(scores) - len(known),
        "fraction": (known > threshold).mean() if len(known) else np.nan,
    }


if __name__ == "__main__":
    tabulate_interventions(
        scores=snakemake.input.scores,
        measures=snakemake.input.measures,
        losses=snakemake.input.losses,
        table=snakemake.output.table,
        states=snakemake.params.states,
        thresholds=snakemake.params.thresholds,
        behaviour=Behaviour(**snakemake.params.behaviour),
        **snakemake.params.statistics,
    )
