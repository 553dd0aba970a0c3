"""Test each claim of the paper on this pair of models: a row per claim, and where it is about what
interventions do, one by every scorer and one by `kl_share`, which tells reproducing a tuning from
wrecking a model.

A claim is a statistic and a criterion fixed beforehand. It holds ("yes") where the whole interval
meets the criterion, does not ("no") where the whole interval misses it, and is "undecided" where
the criterion lies inside. It is "not tested" where the study lacks an intervention that it needs.

Where a claim is about the largest or the smallest of several, its bound has to hold for all of
them, and the largest or smallest is taken anew within each resample, which is the harder test. Only
the claim about scaled keys asks whether *some* intervention passes; there the interval is that of
the best one, widened for the number of them (Bonferroni). Claims about groups and neurons hold only
where they lie beyond what they say where there is nothing to find (`analysis/group_claims.py`).
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging

import numpy as np
import pandas as pd
from neurondynamics.analysis.claims import power, row, tested
from neurondynamics.analysis.effects import Effects, read_effects, read_experiments
from neurondynamics.analysis.fidelity import Nearness
from neurondynamics.analysis.group_claims import claims_on_groups, claims_on_neurons
from neurondynamics.analysis.nulls import read_nulls
from neurondynamics.analysis.own_claims import claims_on_units
from neurondynamics.analysis.reductions import read_reductions
from neurondynamics.analysis.statistics import Estimate, Statistics
from neurondynamics.data.tables import read_parquet, write_csv
from neurondynamics.study.behaviour import Behaviour

logger = logging.getLogger("check_claims")

# The paper's Table 1 (v1): toxicity of GPT-2-medium .453, after DPO .208, so the drop is .245.
DROP = 0.453 - 0.208
PAPER_ABLATION = (0.453 - 0.319) / DROP  # the best, 2000 positively activated neurons: 0.547
PAPER_PATCH = (0.453 - 0.335) / DROP  # 0.482
OF_PAIR = ("base_weights", "tuned_weights")
KL_SHARE = "kl_share"  # what claims are judged by beside scores
PAPER_KEYS = (0.555 - 0.208) / DROP  # x5, the largest: 1.416; its code may have scaled repeatedly


def check_claims(
    scores: list[str],
    fidelity: list[str],
    reductions: str,
    nulls: str,
    neurons: str,
    table: str,
    null_table: str,
    power_table: str,
    *,
    states: dict[str, str],
    read: dict[str, str],
    claims: dict,
    own_claims: dict[str, list[str]],
    scorers: list[str],
    behaviour: Behaviour,
    statistics: Statistics,
) -> None:
    """Write CSV files: `table` of the claims, `null_table` of what those about groups and neurons
    say where there is nothing to find, `power_table` of how many prompts would decide each.

    `scores` and `fidelity`: parquet files, any number per experiment; `states` and `read`: the
    model state of each experiment of which there are scores, and of which there is fidelity;
    `claims`: the interventions that a claim is about, with the keys of `claims_on_interventions`,
    and `own_claims` with those of `claims_on_units`;
    `scorers`: those by which they are tested, and `behaviour`: after which claims are worded;
    `reductions`, `nulls` and `neurons`: the results of the attribution.
    """
    own_text = read_reductions(reductions).own_text
    judges = read_effects(scores, scorers, states, statistics)
    judges[KL_SHARE] = Nearness(read_experiments(fidelity, read), read, statistics)
    judged = [
        claims_on_interventions(judge, name, behaviour, **claims) for name, judge in judges.items()
    ]
    found = read_parquet(neurons)
    made = {name: found.attrs[name] for name in OF_PAIR if name in found.attrs}
    against = read_nulls(nulls, made)
    held = [
        *claims_on_groups(own_text, against, behaviour, statistics),
        *claims_on_neurons(found, against, behaviour, statistics.confidence),
    ]
    ours = [claims_on_units(judge, name, own_claims) for name, judge in judges.items()]
    rows = [one for same_claim in zip(*judged, strict=True) for one in same_claim]
    rows += [one for one, _ in held]
    rows += [one for same_claim in zip(*ours, strict=True) for one in same_claim]
    for one in rows:
        logger.info("%s: %s", one["claim"], one["holds"])
    write_csv(table, pd.DataFrame(rows))
    needed = pd.DataFrame([power(one, statistics.confidence) for one in rows])
    write_csv(power_table, needed.astype({"n": "Int64", "n_needed": "Int64"}))
    write_csv(null_table, pd.DataFrame([null for _, about in held for null in about]))


def claims_on_interventions(
    effects: Effects | Nearness,
    judge: str,
    behaviour: Behaviour,
    ablations: list[str],
    dampened: str,
    anti: str,
    both: str,
    restoring: list[str],
) -> list[dict]:
    """Test what ablating, patching and scaling neurons does, next to tuning.

    All further arguments are names of interventions: `ablations` of neurons that write toward the
    behaviour; patches of TP- (`dampened`), of AN- (`anti`) and of `both`; scalings of the tuned
    model's key vectors (`restoring`).
    """

    def on_base(names: list[str]) -> dict:
        return tested(effects, "base", names, combine=lambda shares: shares.max(axis=-1))

    best, undone = most_undone(effects, restoring)
    rows = [
        row(
            "ablation-falls-short",
            f"Ablating {behaviour.adjective} neurons falls short of tuning (largest share "
            "of the ablations)",
            **on_base(ablations),
            criterion="< 1",
            paper=PAPER_ABLATION,
        ),
        row(
            "patching-falls-short",
            f"Patching the dampened {behaviour.adjective} neurons to their tuned means falls short "
            "of tuning (share)",
            **on_base([dampened]),
            criterion="< 1",
            paper=PAPER_PATCH,
        ),
        row(
            "two-groups-suffice",
            "Patching TP- together with AN- comes close to tuning (share)",
            **on_base([both]),
            criterion=">= 0.8",  # the paper says so without a number
        ),
        row(
            "one-group-does-not",
            "Neither TP- nor AN- alone comes close to tuning (larger of the two shares)",
            **on_base([dampened, anti]),
            criterion="< 0.8",
        ),
        row(
            "keys-restore-behaviour",
            f"Scaling the key vectors of the most {behaviour.adjective} neurons in the tuned model "
            f"restores {behaviour.name} (part of the tuning's effect undone by {best})",
            **undone,
            criterion="> 0",
            paper=PAPER_KEYS,
        ),
    ]
    return [{**one, "judged_by": judge} for one in rows]


def most_undone(effects: Effects | Nearness, restoring: list[str]) -> tuple[str, dict]:
    """Return which of the scalings of the tuned model undoes most of the tuning's effect, and what.

    The interval is widened for the number of scalings; there is none where one of them is missing.
    """
    widened = 1 - (1 - effects.statistics.confidence) / max(1, len(restoring))
    kept = {name: tested(effects, "tuned", [name], confidence=widened) for name in restoring}
    if not kept or any(one["estimate"] is None for one in kept.values()):
        return "the best scaling", {"estimate": None}

    def undone(name: str) -> Estimate:
        value, low, high = kept[name]["estimate"]
        return Estimate(1 - value, 1 - high, 1 - low)

    best = max(kept, key=lambda name: np.nan_to_num(undone(name).value, nan=-np.inf))
    return best, kept[best] | {"estimate": undone(best)}


if __name__ == "__main__":
    check_claims(
        scores=snakemake.input.scores,
        fidelity=snakemake.input.fidelity,
        reductions=snakemake.input.reductions,
        nulls=snakemake.input.nulls,
        neurons=snakemake.input.neurons,
        table=snakemake.output.claims,
        null_table=snakemake.output.nulls,
        power_table=snakemake.output.power,
        states=snakemake.params.states,
        read=snakemake.params.read,
        claims=snakemake.params.claims,
        own_claims=snakemake.params.own_claims,
        scorers=snakemake.params.scorers,
        behaviour=Behaviour(**snakemake.params.behaviour),
        statistics=Statistics(**snakemake.params.statistics),
    )
