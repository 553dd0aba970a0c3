"""Per intervention and scorer: score, fluency, and how much of the tuning's effect it reproduces.

The score is the mean over the prompts that could be scored. The differences compare an intervention
with the unedited model of its own state and with the unedited tuned model, prompt by prompt, and
`effect_share` with the unedited base and tuned models, each on the prompts that all of them have a
score for, `n_paired` of them in the end. They are empty where the study lacks one of these, and
`effect_share` also where resamples show that tuning need not have lowered the score. A fraction has
Wilson's interval.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging

import numpy as np
import pandas as pd
from neurondynamics.analysis.effects import parse_control, read_effects
from neurondynamics.analysis.statistics import Estimate, Statistics, wilson
from neurondynamics.data.tables import write_csv
from neurondynamics.evaluation.fluency import FLUENCY, read_fluency
from neurondynamics.study.behaviour import Behaviour

logger = logging.getLogger("tabulate_interventions")

# these come first; further columns are those of `Effects.estimate_all`
COLUMNS = """experiment intervention scorer control_of control state neurons n missing
    score score_low score_high fraction fraction_low fraction_high"""


def tabulate_interventions(
    scores: list[str],
    measures: list[str],
    losses: list[str],
    table: str,
    *,
    states: dict[str, str],
    thresholds: dict[str, float],
    behaviour: Behaviour,
    statistics: Statistics,
) -> None:
    """Write the CSV file `table` from the scores, measures and losses of experiments.

    `scores`, `measures`, `losses`: parquet files, any number per experiment. `states`: the model
    state of each experiment. `thresholds`: by scorer, the score above which a continuation counts
    as showing the behaviour, after which columns are named. `control_of` and `control` are the
    intervention that a control is of and its kind. Raises ValueError where an experiment's files
    do not hold the same interventions.
    """
    fluency = read_fluency(measures, losses, states)
    judged = {}
    for scorer, effects in read_effects(scores, thresholds, states, statistics).items():
        for lacking in effects.missing("base", []):
            logger.warning("no effect_share without %s", lacking)
        judged[scorer] = (effects.scores, effects.estimate_all())
    _, estimates = next(iter(judged.values()))  # every scorer's have the same index and columns
    columns = dict.fromkeys([*COLUMNS.split(), *FLUENCY, *estimates])
    rows = [
        {
            "experiment": experiment,
            "intervention": intervention,
            "scorer": scorer,
            **_control(intervention),
            "state": states[experiment],
            **_counts(
                continuations[(experiment, intervention)],
                thresholds[scorer],
                statistics.confidence,
            ),
            **fluency[experiment].loc[intervention],
            **estimates.loc[(experiment, intervention)],
        }
        for experiment, intervention in estimates.index
        for scorer, (continuations, estimates) in judged.items()
    ]
    written = pd.DataFrame(rows, columns=list(columns)).astype({"neurons": int, "n_paired": int})
    write_csv(table, written.rename(columns=behaviour.columns))


def _control(intervention: str) -> dict[str, str]:
    control = parse_control(intervention)
    return {
        "control_of": control.of if control else "",
        "control": control.kind if control else "",
    }


def _counts(scores: pd.Series, threshold: float, confidence: float) -> dict[str, float]:
    known = scores.dropna()
    above = Estimate(np.nan, np.nan, np.nan)
    if len(known):
        above = wilson(int((known > threshold).sum()), len(known), confidence)
    counted = {"n": len(known), "missing": len(scores) - len(known)}
    return counted | above.columns("fraction")


if __name__ == "__main__":
    tabulate_interventions(
        scores=snakemake.input.scores,
        measures=snakemake.input.measures,
        losses=snakemake.input.losses,
        table=snakemake.output.table,
        states=snakemake.params.states,
        thresholds=snakemake.params.thresholds,
        behaviour=Behaviour(**snakemake.params.behaviour),
        statistics=Statistics(**snakemake.params.statistics),
    )
