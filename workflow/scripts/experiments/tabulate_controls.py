"""Controlled interventions against their controls: a row per intervention, control and scorer.

A control does the same to as many random neurons of each layer (`random`), or moves the same
neurons as far with the direction of half of the moves flipped (`signs`). Only what an intervention
does beyond its controls says something about its neurons.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import numpy as np
import pandas as pd
from neurondynamics.analysis.effects import parse_control, read_effects
from neurondynamics.analysis.statistics import Estimate, Statistics
from neurondynamics.data.tables import write_csv
from neurondynamics.evaluation.fluency import read_fluency
from neurondynamics.study.behaviour import Behaviour

COLUMNS = """experiment intervention scorer state control draws
    score draws_score draws_score_min draws_score_max
    perplexity draws_perplexity draws_perplexity_min draws_perplexity_max
    repetition draws_repetition
    effect_share draws_effect_share draws_effect_share_min draws_effect_share_max
    n advantage advantage_low advantage_high"""


def tabulate_controls(
    scores: list[str],
    measures: list[str],
    losses: list[str],
    table: str,
    *,
    states: dict[str, str],
    scorers: list[str],
    behaviour: Behaviour,
    statistics: Statistics,
) -> None:
    """Write the CSV file `table` from the scores, measures and losses of experiments.

    `scores`, `measures` and `losses`: parquet files, any number per experiment. `states`: the model
    state of each experiment. Columns are named after the behaviour. Of the draws of a kind of
    control there are the mean, the least and the greatest; the mean of perplexities is the
    geometric one. `advantage` is the effect share of the intervention minus the mean one of its
    draws, bootstrapped over the `n` prompts that all of them have a score for. A study without
    controls gets the header alone. Raises ValueError for a control whose intervention is not in
    the experiment.
    """
    fluency = read_fluency(measures, losses, states)
    judged = {
        scorer: (effects, effects.estimate_all())
        for scorer, effects in read_effects(scores, scorers, states, statistics).items()
    }
    interventions = next(iter(judged.values()))[0].scores.columns
    rows = [
        {
            "experiment": experiment,
            "intervention": intervention,
            "scorer": scorer,
            "state": states[experiment],
            "control": kind,
            "draws": len(draws),
            **_against(
                fluency[experiment].join(estimates.loc[experiment]),
                effects.advantage(experiment, intervention, draws),
                *(intervention, draws),
            ),
            "n": effects.paired(experiment, [intervention, *draws]),
        }
        for (experiment, intervention, kind), draws in find_controls(interventions).items()
        for scorer, (effects, estimates) in judged.items()
    ]
    written = pd.DataFrame(rows, columns=COLUMNS.split())
    write_csv(table, written.rename(columns=behaviour.columns))


def _against(
    measures: pd.DataFrame, advantage: Estimate, intervention: str, draws: list[str]
) -> dict[str, float]:
    edited, drawn = measures.loc[intervention], measures.loc[draws]
    return {
        **edited[["score", "perplexity", "repetition", "effect_share"]],
        **_spread(drawn, "score"),
        **_spread(drawn, "perplexity"),
        "draws_perplexity": np.exp(np.log(drawn["perplexity"]).mean()),
        "draws_repetition": drawn["repetition"].mean(),
        **_spread(drawn, "effect_share"),
        **advantage.columns("advantage"),
    }


def find_controls(interventions: list[tuple[str, str]]) -> dict[tuple[str, str, str], list[str]]:
    """Return the names of the draws by (experiment, controlled intervention, kind of control)."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for experiment, name in interventions:
        control = parse_control(name)
        if control is None:
            continue
        if (experiment, control.of) not in interventions:
            raise ValueError(
                f"experiment {experiment}: {name} is a control of {control.of}, which the "
                "experiment lacks; run it again"
            )
        found.setdefault((experiment, control.of, control.kind), []).append(name)
    return found


def _spread(drawn: pd.DataFrame, measure: str) -> dict[str, float]:
    return {
        f"draws_{measure}": drawn[measure].mean(skipna=False),
        f"draws_{measure}_min": drawn[measure].min(skipna=False),
        f"draws_{measure}_max": drawn[measure].max(skipna=False),
    }


if __name__ == "__main__":
    tabulate_controls(
        scores=snakemake.input.scores,
        measures=snakemake.input.measures,
        losses=snakemake.input.losses,
        table=snakemake.output.table,
        states=snakemake.params.states,
        scorers=snakemake.params.scorers,
        behaviour=Behaviour(**snakemake.params.behaviour),
        statistics=Statistics(**snakemake.params.statistics),
    )
