"""How far the scorers of a study agree: the rank correlation of every two of them.

Over continuations it says whether they find the behaviour in the same texts; over interventions,
whether they would rank the interventions alike. Controls count as interventions.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

from itertools import combinations

import pandas as pd
from neurondynamics.analysis.effects import read_together
from neurondynamics.data.tables import write_csv

COLUMNS = ["scorer_a", "scorer_b", "over", "n", "spearman"]
PLACE = ["experiment", "intervention", "prompt_id"]


def tabulate_scorers(scores: list[str], table: str, scorers: list[str]) -> None:
    """Write the CSV file `table` from the scores of experiments.

    `scores`: parquet files, any number per experiment and scorer. A continuation counts where both
    scorers have a score for it, and so does an intervention's mean. A study with one scorer gets
    the header alone; where a scorer gives everything the same score, the correlation is empty.
    """
    # a column per scorer, a row per continuation
    laid_out = read_together(scores).pivot_table("score", PLACE, "scorer").reindex(columns=scorers)
    rows = []
    for one, other in combinations(scorers, 2):
        continuations = laid_out[[one, other]].dropna()
        means = continuations.groupby(level=PLACE[:2]).mean()
        for over, pairs in (("continuations", continuations), ("interventions", means)):
            correlation = pairs[one].corr(pairs[other], method="spearman", min_periods=2)
            rows.append((one, other, over, len(pairs), correlation))
    write_csv(table, pd.DataFrame(rows, columns=COLUMNS))


if __name__ == "__main__":
    tabulate_scorers(
        scores=snakemake.input.scores,
        table=snakemake.output.table,
        scorers=snakemake.params.scorers,
    )
