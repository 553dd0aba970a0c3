"""Choose the intervention of a search: the one of lowest score that leaves the model fluent.

The search runs on prompts that are not evaluated, so the choice does not flatter the evaluation.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging
import math

import pandas as pd
from neurondynamics.analysis.effects import BASELINE, read_experiments, score_by_prompt
from neurondynamics.data.records import write_json
from neurondynamics.evaluation.fluency import measure_fluency

logger = logging.getLogger("choose_intervention")


def choose_intervention(
    scores: list[str],
    measures: list[str],
    losses: list[str],
    choice: str,
    experiment: str,
    perplexity: float,
) -> None:
    """Write the choice among the interventions of an experiment, and what it rests on, as JSON.

    `scores`, `measures` and `losses`: the parquet files of the experiment, one per shard. A
    candidate is within the limit if its perplexity is at most `perplexity` times that of the
    unedited model. Of those within it, the one of lowest mean score is chosen, over the prompts
    that they and the unedited model all have a score for, so that no wrecked candidate decides
    which prompts count. If none is within it, the one of lowest perplexity is chosen. The first of
    equals wins.

    Raises ValueError where the experiment lacks the unedited model or candidates, where the
    unedited model's perplexity is infinite, or where no prompt can be compared.
    """
    scored, written, read = (
        read_experiments(paths, [experiment])[experiment] for paths in (scores, measures, losses)
    )
    fluency = measure_fluency(written.query("corpus == 'prompts'"), read, experiment)
    names = [name for name in fluency.index if name != BASELINE]
    if BASELINE not in fluency.index or not names:
        raise ValueError(
            f"{experiment}: a search needs the intervention {BASELINE!r} and candidates beside it; "
            f"there are {', '.join(fluency.index) or 'no interventions'}"
        )
    limit = perplexity * fluency.loc[BASELINE, "perplexity"]
    if not math.isfinite(limit):
        raise ValueError(
            f"{experiment}: the perplexity of {BASELINE!r} is infinite; nothing compares"
        )
    within = [name for name in names if fluency.loc[name, "perplexity"] <= limit]
    compared = _complete(scored, [BASELINE, *within], experiment)
    means = compared.mean()
    if within:
        chosen = min(within, key=lambda name: means[name])
        logger.info("%s: score %.4g, without it %.4g", chosen, means[chosen], means[BASELINE])
    else:
        chosen = min(names, key=lambda name: fluency.loc[name, "perplexity"])
        logger.warning(
            "no candidate keeps perplexity within %.4g; %s has the lowest, %.4g",
            *(limit, chosen, fluency.loc[chosen, "perplexity"]),
        )
    described = {name: _describe(name, means[name], fluency.loc[name]) for name in fluency.index}
    content = {
        "intervention": chosen,
        "within_limit": bool(within),
        "limit": float(limit),
        "prompts": len(compared),
        "unedited": described[BASELINE],
        "candidates": [described[name] | {"within_limit": name in within} for name in names],
    }
    write_json(choice, content)


def _complete(scored: pd.DataFrame, names: list[str], experiment: str) -> pd.DataFrame:
    """Return the scores (prompts, interventions) of the prompts that all these have a score for."""
    compared = pd.DataFrame(score_by_prompt(scored, experiment)).dropna(subset=names)
    if compared.empty:
        raise ValueError(
            f"{experiment}: no prompt has a score under all of {', '.join(names)}; "
            "search on more prompts or leave out candidates that write nothing"
        )
    return compared


def _describe(name: str, score: float, fluency: pd.Series) -> dict:
    measures = {"score": score, **fluency[["perplexity", "repetition"]]}
    # JSON has no infinity.
    finite = {key: float(x) if math.isfinite(x) else None for key, x in measures.items()}
    return {"intervention": name, **finite}


if __name__ == "__main__":
    choose_intervention(
        scores=snakemake.input.scores,
        measures=snakemake.input.measures,
        losses=snakemake.input.losses,
        choice=snakemake.output.choice,
        experiment=snakemake.wildcards.experiment,
        perplexity=snakemake.params.perplexity,
    )
