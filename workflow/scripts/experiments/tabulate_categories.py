"""Score and effect share of every intervention by category of prompt and by scorer.

Prompts of one kind may react to an intervention as those of another do not. Controls are left out.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import pandas as pd
from neurondynamics.analysis.effects import parse_control, read_effects
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.prompts import UNCATEGORISED, read_prompts
from neurondynamics.data.tables import write_csv
from neurondynamics.study.behaviour import Behaviour

COLUMNS = """category n missing n_paired experiment intervention scorer state
    score score_low score_high effect_share effect_share_low effect_share_high"""


def tabulate_categories(
    scores: list[str],
    prompts: str,
    table: str,
    *,
    states: dict[str, str],
    scorers: list[str],
    behaviour: Behaviour,
    statistics: Statistics,
) -> None:
    """Write the CSV file `table` from the scores of experiments.

    `prompts`: the JSON lines that the experiments ran on, with `prompt_id` and `category`;
    `states`: the model state of each experiment. `n` counts the prompts of the category that the
    intervention has a score for and `n_paired` those that both unedited models have one for too.
    Columns are named after the behaviour. Raises ValueError for a
    score of a prompt that is not in `prompts`.
    """
    categories = pd.Series(
        {record["prompt_id"]: record["category"] for record in read_prompts(prompts)}
    )
    parts = []
    for scorer, effects in read_effects(scores, scorers, states, statistics).items():
        strangers = effects.scores.index.difference(categories.index)
        if len(strangers):
            raise ValueError(
                f"{prompts}: prompt {strangers[0]} was scored, but is not in the file; run the "
                "experiments again"
            )
        for category, members in categories.groupby(categories):
            among = effects.among(members.index)
            rows = among.estimate_all().reset_index()
            rows["n"] = among.scores.notna().sum().to_numpy()
            rows["missing"] = len(members) - rows["n"]
            parts.append(rows.assign(category=category or UNCATEGORISED, scorer=scorer))
    rows = pd.concat(parts)
    # scorers side by side: `rows` has every scorer's interventions in the same order
    rows = rows.sort_index(kind="stable").sort_values("category", kind="stable")
    rows["state"] = rows["experiment"].map(states)
    rows = rows[rows["intervention"].map(parse_control).isna()]
    write_csv(table, rows[COLUMNS.split()].rename(columns=behaviour.columns))


if __name__ == "__main__":
    tabulate_categories(
        scores=snakemake.input.scores,
        prompts=snakemake.input.prompts,
        table=snakemake.output.table,
        states=snakemake.params.states,
        scorers=snakemake.params.scorers,
        behaviour=Behaviour(**snakemake.params.behaviour),
        statistics=Statistics(**snakemake.params.statistics),
    )
