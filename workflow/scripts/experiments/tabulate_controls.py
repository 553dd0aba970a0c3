"""Controlled interventions against their controls: a row per intervention, control and scorer.

A control does the same to as many random units of each layer and size of movement (`random`), or
moves the same neurons as far with the direction of half of the moves flipped (`signs`). Only what
an intervention does beyond its controls says something about its units. What is not measured of it
is empty.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

from collections.abc import Collection

import numpy as np
import pandas as pd
from neurondynamics.analysis.effects import (
    Effects,
    parse_control,
    read_effects,
    read_experiments,
    read_together,
)
from neurondynamics.analysis.fidelity import against_draws
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.tables import write_csv
from neurondynamics.evaluation.fluency import read_fluency
from neurondynamics.limits import MOST_DRAWN_AGAIN
from neurondynamics.study.behaviour import Behaviour

COLUMNS = """experiment intervention scorer state control draws overlap
    score draws_score draws_score_min draws_score_max
    perplexity draws_perplexity draws_perplexity_min draws_perplexity_max
    repetition draws_repetition
    effect_share draws_effect_share draws_effect_share_min draws_effect_share_max
    n advantage advantage_low advantage_high
    n_read kl_share draws_kl_share draws_kl_share_min draws_kl_share_max
    kl_advantage kl_advantage_low kl_advantage_high"""


def tabulate_controls(
    scores: list[str],
    measures: list[str],
    losses: list[str],
    fidelity: list[str],
    table: str,
    *,
    states: dict[str, str],
    measured: dict[str, list[str]],
    scorers: list[str],
    behaviour: Behaviour,
    statistics: Statistics,
) -> None:
    """Write the CSV file `table` from the scores, measures, losses and fidelity of experiments.

    `scores` to `fidelity`: parquet files, any number per experiment. `states`: the model state of
    each experiment; `measured`: by measure the experiments that have it. Columns are named after
    the behaviour. Of the draws of a kind of control there are the mean, the least and the
    greatest; the mean of perplexities is the geometric one. `advantage` is the effect share of the
    intervention minus the mean one of its draws, bootstrapped over the `n` prompts that all of them
    have a score for, and `kl_advantage` the same of `kl_share` over the `n_read` texts; both are
    empty where the draws have more than MOST_DRAWN_AGAIN of its units, on average `overlap`. A
    study without controls gets the header alone. Raises ValueError for a control whose intervention
    is not in the experiment.
    """
    written = {name: states[name] for name in measured["behaviour"]}
    fluency = read_fluency(measures, losses, written)
    judged = {
        scorer: (effects, effects.estimate_all())
        for scorer, effects in read_effects(scores, scorers, written, statistics).items()
    }
    near = read_experiments(fidelity, measured["fidelity"])
    overlaps = read_overlaps([paths for paths in (losses, fidelity) if paths])
    reported = [(e, name) for e, one in near.items() for name in one["intervention"].unique()]
    reported += list(next(iter(judged.values()))[0].scores.columns)
    every = find_controls(dict.fromkeys(reported))
    in_order = sorted(every.items(), key=lambda one: [*states].index(one[0][0]))
    rows = [
        {
            "experiment": experiment,
            "intervention": intervention,
            "scorer": scorer,
            "state": states[experiment],
            "control": kind,
            "draws": len(draws),
            "overlap": overlaps.loc[[(experiment, draw) for draw in draws]].mean(),
            **_behaviour(effects, estimates, fluency, (experiment, intervention), draws),
            **against_draws(near.get(experiment), intervention, draws, statistics),
        }
        for (experiment, intervention, kind), draws in in_order
        for scorer, (effects, estimates) in judged.items()
    ]
    found = pd.DataFrame(rows, columns=COLUMNS.split()).astype({"n": "Int64", "n_read": "Int64"})
    none = found["overlap"] > MOST_DRAWN_AGAIN
    found.loc[none, [name for name in found if "advantage" in name]] = np.nan
    write_csv(table, found.rename(columns=behaviour.columns))


def read_overlaps(tables: list[list[str]]) -> pd.Series:
    """Return, by experiment and intervention, which part of what a control controls it has drawn
    again, from tables of losses and of fidelity."""
    names = ["experiment", "intervention"]
    read = [read_together(paths)[[*names, "overlap"]] for paths in tables]
    return pd.concat(read).groupby(names)["overlap"].first() if read else pd.Series()


def _behaviour(
    effects: Effects,
    estimates: pd.DataFrame,
    fluency: dict[str, pd.DataFrame],
    name: tuple[str, str],
    draws: list[str],
) -> dict[str, float]:
    """Return what a scorer and the text say of an (experiment, intervention) and its draws."""
    experiment, intervention = name
    if name not in estimates.index:
        return {}
    measures = fluency[experiment].join(estimates.loc[experiment])
    edited, drawn = measures.loc[intervention], measures.loc[draws]
    return {
        **edited[["score", "perplexity", "repetition", "effect_share"]],
        **_spread(drawn, "score"),
        **_spread(drawn, "perplexity"),
        "draws_perplexity": np.exp(np.log(drawn["perplexity"]).mean()),
        "draws_repetition": drawn["repetition"].mean(),
        **_spread(drawn, "effect_share"),
        **effects.advantage(experiment, intervention, draws).columns("advantage"),
        "n": effects.paired(experiment, [intervention, *draws]),
    }


def find_controls(
    interventions: Collection[tuple[str, str]],
) -> dict[tuple[str, str, str], list[str]]:
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
        fidelity=snakemake.input.fidelity,
        table=snakemake.output.table,
        states=snakemake.params.states,
        measured=snakemake.params.measured,
        scorers=snakemake.params.scorers,
        behaviour=Behaviour(**snakemake.params.behaviour),
        statistics=Statistics(**snakemake.params.statistics),
    )
