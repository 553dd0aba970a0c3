"""Per intervention and scorer: score, fluency, fidelity, and how much of the tuning it reproduces.

The score is the mean over the prompts that could be scored. The differences compare an intervention
with the unedited model of its own state and with the unedited tuned model, prompt by prompt, and
`effect_share` with the unedited base and tuned models, each on the prompts that all of them have a
score for, `n_paired` of them in the end. They are empty where the study lacks one of these, and
`effect_share` also where resamples show that tuning need not have lowered the score. A fraction has
Wilson's interval. `neutral_kl` is how far the edited model is from the unedited one on neutral
text, estimated over its windows. `kl`, `kl_share` and `agreement` say how near the edited model
comes to the other one, over the `n_read` prompts whose continuations it reads, and `margin_share`
over the `n_pairs` pairs whose texts it reads. What is not measured is empty.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging

import numpy as np
import pandas as pd
from neurondynamics.analysis.effects import parse_control, read_effects, read_experiments
from neurondynamics.analysis.fidelity import NAMES, estimate_fidelity, estimate_margins
from neurondynamics.analysis.statistics import Estimate, Statistics, wilson
from neurondynamics.data.tables import read_parquet, read_shards, write_csv
from neurondynamics.evaluation.fluency import FLUENCY, NEUTRAL, estimate_neutral, read_fluency
from neurondynamics.study.behaviour import Behaviour

logger = logging.getLogger("tabulate_interventions")

# these come first; further columns are those of `Effects.estimate_all`, `estimate_fidelity` and
# `estimate_margins`
COLUMNS = """experiment intervention scorer control_of control state neurons heads n missing
    score score_low score_high fraction fraction_low fraction_high"""

# numbers that are whole
WHOLE = ["neurons", "heads", "n", "missing", "n_paired", "n_read", "n_pairs"]


def tabulate_interventions(
    scores: list[str],
    measures: list[str],
    losses: list[str],
    fidelity: list[str],
    margins: list[str],
    table: str,
    *,
    states: dict[str, str],
    measured: dict[str, list[str]],
    thresholds: dict[str, float],
    behaviour: Behaviour,
    statistics: Statistics,
) -> None:
    """Write the CSV file `table` from the scores, measures, losses, fidelity and margins of
    experiments.

    `scores` to `margins`: parquet files of each, any number per experiment. `states`: the model
    state of each experiment; `measured`: by measure the experiments that have it. `thresholds`: by
    scorer, the score above which a continuation counts as showing the behaviour, after which
    columns are named. `control_of` and `control` are the intervention that a control is of and its
    kind. Raises ValueError where an experiment's files do not hold the same interventions.
    """
    of_behaviour = {name: states[name] for name in measured["behaviour"]}
    generated = [*of_behaviour, *(n for n in measured["damage"] if n not in of_behaviour)]
    fluency = _laid_out(read_fluency(measures, losses, generated))
    neutral = _laid_out(estimate_neutral(losses, generated, statistics))
    near = estimate_fidelity(read_experiments(fidelity, measured["fidelity"]), statistics)
    near = near.join(estimate_margins(read_margins(margins), statistics))
    judged = {}
    for scorer, effects in read_effects(scores, thresholds, of_behaviour, statistics).items():
        for lacking in effects.missing("base", []):
            logger.warning("no effect_share without %s", lacking)
        estimates = effects.estimate_all()
        counted = [
            _counts(continuations, thresholds[scorer], statistics.confidence)
            for _, continuations in effects.scores.items()
        ]
        estimates = estimates.join(pd.DataFrame(counted, index=estimates.index))
        judged[scorer] = estimates.join([fluency, neutral], how="outer", sort=False)
    every = dict.fromkeys(name for part in (near, *judged.values()) for name in part.index)
    rows = [
        {
            "experiment": experiment,
            "intervention": intervention,
            "scorer": scorer,
            **_control(intervention),
            "state": states[experiment],
            **_row(near, (experiment, intervention)),
            **_row(of_scorer, (experiment, intervention)),
        }
        for experiment, intervention in sorted(every, key=lambda name: [*states].index(name[0]))
        for scorer, of_scorer in judged.items()
    ]
    columns = [*COLUMNS.split(), *FLUENCY, *NEUTRAL, *next(iter(judged.values())), *near]
    written = pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))
    written = written.astype(dict.fromkeys(WHOLE, "Int64"))
    write_csv(table, written.rename(columns=behaviour.columns))


def read_margins(paths: list[str]) -> pd.DataFrame:
    """Read the margins of experiments; without pairs, the log says why there are none."""
    if not paths:
        return pd.DataFrame(columns=NAMES)
    none = read_parquet(paths[0]).attrs.get("none")
    if none:
        logger.warning("no margin_share, since no pair is there that nothing has seen: %s", none)
    return read_shards(paths)


def _laid_out(by_experiment: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return tables of experiments as one, a row per (experiment, intervention)."""
    if not by_experiment:
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []], names=NAMES))
    return pd.concat(by_experiment, names=NAMES)


def _row(table: pd.DataFrame, name: tuple[str, str]) -> dict:
    """Return what a table says of an intervention: nothing, where it was not measured."""
    return table.loc[name].dropna().to_dict() if name in table.index else {}


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
        fidelity=snakemake.input.fidelity,
        margins=snakemake.input.margins,
        table=snakemake.output.table,
        states=snakemake.params.states,
        measured=snakemake.params.measured,
        thresholds=snakemake.params.thresholds,
        behaviour=Behaviour(**snakemake.params.behaviour),
        statistics=Statistics(**snakemake.params.statistics),
    )
