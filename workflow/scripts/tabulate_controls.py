"""Controlled interventions against their controls, one row per intervention and kind of control.

A control does the same to as many random neurons of each layer (`random`), or moves the same
neurons as far with the direction of half of the moves flipped (`signs`). Only what an intervention
does beyond its controls says something about its neurons.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import numpy as np
import pandas as pd
from neurondynamics.analysis.effects import Effects, parse_control, read_experiments
from neurondynamics.data.records import replacing
from neurondynamics.evaluation.fluency import measure_fluency

COLUMNS = """experiment intervention state control draws
    toxicity draws_toxicity draws_toxicity_min draws_toxicity_max
    perplexity draws_perplexity draws_perplexity_min draws_perplexity_max
    repetition draws_repetition
    effect_share draws_effect_share draws_effect_share_min draws_effect_share_max
    advantage advantage_low advantage_high"""


def tabulate_controls(
    scores: list[str],
    losses: list[str],
    table: str,
    states: dict[str, str],
    samples: int,
    confidence: float,
    seed: int,
) -> None:
    """Write the CSV file `table` from the scores and losses of experiments.

    `scores` and `losses`: parquet files, any number per experiment. `states`: the model state of
    each experiment. Of the draws of a kind of control there are the mean, the least and the
    greatest; the mean of perplexities is the geometric one. `advantage` is the effect share of the
    intervention minus the mean one of its draws, bootstrapped over the prompts that all of them
    have a score for. A study without controls gets the header alone. Raises ValueError for a
    control whose intervention is not in the experiment.
    """
    scored = read_experiments(scores, states)
    fluency = {
        name: measure_fluency(scored[name], table, name)
        for name, table in read_experiments(losses, states).items()
    }
    effects = Effects.pair(scored, states=states, samples=samples, confidence=confidence, seed=seed)
    estimates = effects.estimate_all()
    rows = []
    for (experiment, intervention, kind), draws in find_controls(effects.toxicity.columns).items():
        measures = fluency[experiment].join(estimates.loc[experiment])
        edited, drawn = measures.loc[intervention], measures.loc[draws]
        advantage = effects.advantage(experiment, intervention, draws)
        rows.append(
            {
                "experiment": experiment,
                "intervention": intervention,
                "state": states[experiment],
                "control": kind,
                "draws": len(draws),
                **edited[["toxicity", "perplexity", "repetition", "effect_share"]],
                **_spread(drawn, "toxicity"),
                **_spread(drawn, "perplexity"),
                "draws_perplexity": np.exp(np.log(drawn["perplexity"]).mean()),
                "draws_repetition": drawn["repetition"].mean(),
                **_spread(drawn, "effect_share"),
                "advantage": advantage.value,
                "advantage_low": advantage.low,
                "advantage_high": advantage.high,
            }
        )
    with replacing(table) as temporary:
        pd.DataFrame(rows, columns=COLUMNS.split()).to_csv(temporary, index=False)


def find_controls(columns: list[tuple[str, str]]) -> dict[tuple[str, str, str], list[str]]:
    """Return the names of the draws by (experiment, controlled intervention, kind of control)."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for experiment, name in columns:
        control = parse_control(name)
        if control is None:
            continue
        if (experiment, control.of) not in columns:
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
        losses=snakemake.input.losses,
        table=snakemake.output.table,
        states=snakemake.params.states,
        **snakemake.params.statistics,
    )
