"""Shares of the groups in the reduction by category of prompt, beside the same along random
directions and beside all other prompts.

Groups are those of all prompts. A category says something of its own only where its share differs
from that of the others.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

from collections.abc import Callable

import numpy as np
import pandas as pd
from neurondynamics.analysis.attribution import REDUCING
from neurondynamics.analysis.group_claims import against
from neurondynamics.analysis.nulls import read_nulls
from neurondynamics.analysis.reductions import read_reductions
from neurondynamics.analysis.statistics import Estimate, Statistics, share
from neurondynamics.data.prompts import UNCATEGORISED, read_prompts
from neurondynamics.data.tables import write_csv

RANDOM = "random_direction"
OF_NULL = ("null_value", "null_low", "null_high")
DIFFERENCE = ("difference", "difference_low", "difference_high")
COLUMNS = ["category", "n", "group", "share_gross", "share_gross_low", "share_gross_high"]
COLUMNS += [*OF_NULL, *DIFFERENCE, *(f"others_{name}" for name in DIFFERENCE)]


def tabulate_group_categories(
    reductions: str, nulls: str, prompts: str, table: str, *, statistics: Statistics
) -> None:
    """Write the CSV file `table`, a row per category and reducing group.

    `prompts`: the JSON lines that the reductions are of, with `category`. `difference` is that of
    the gross share from the same along random directions, whose mean, least and greatest are
    `null_value` and so on; `others_difference` that from the other prompts. Both have intervals
    over prompts, and none where a category has a single prompt, or all. Raises ValueError where the
    files are of other prompts.
    """
    own_text = read_reductions(reductions).own_text  # (prompts, layers, groups)
    draws = read_nulls(nulls)[RANDOM].reductions  # (draws, prompts, layers, groups)
    categories = np.array([one["category"] or UNCATEGORISED for one in read_prompts(prompts)])
    if not len(categories) == len(own_text) == draws.shape[1]:
        raise ValueError(
            f"{reductions} has {len(own_text)} prompts, {nulls} {draws.shape[1]} and {prompts} "
            f"{len(categories)}; attribute the neurons again"
        )
    rows = []
    for category in sorted(set(categories)):
        here = categories == category
        for place, group in enumerate(REDUCING):
            statistic = share_of(place)
            estimate = statistics.estimate(statistic, [own_text[here]])
            null = against(RANDOM, draws[:, here], own_text[here], statistic, "> 0", statistics)
            others = from_others(own_text, here, statistic, statistics)
            rows.append(
                {
                    "category": category,
                    "n": int(here.sum()),
                    "group": group,
                    **estimate.columns("share_gross"),
                    **{name: null[name] for name in (*OF_NULL, *DIFFERENCE)},
                    **others.columns("others_difference"),
                }
            )
    write_csv(table, pd.DataFrame(rows, columns=COLUMNS))


def share_of(place: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the gross share of a reducing group, of means (resamples, layers, groups)."""

    def of_means(means: np.ndarray) -> np.ndarray:
        reducing = means[..., : len(REDUCING)].sum(axis=-2)
        return share(reducing[..., place], reducing.sum(axis=-1))

    return of_means


def from_others(
    array: np.ndarray,
    here: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    statistics: Statistics,
) -> Estimate:
    """Estimate by how much a statistic of some prompts is above that of the others.

    Every resample draws from all prompts, so that the parts' sizes vary too.
    """
    if here.all() or here.sum() < 2:
        return Estimate(np.nan, np.nan, np.nan)
    parts = [np.where(some[:, None, None], array, 0.0) for some in (here, ~here)]
    return statistics.estimate(lambda one, other: statistic(one) - statistic(other), parts)


if __name__ == "__main__":
    tabulate_group_categories(
        reductions=snakemake.input.reductions,
        nulls=snakemake.input.nulls,
        prompts=snakemake.input.prompts,
        table=snakemake.output.table,
        statistics=Statistics(**snakemake.params.statistics),
    )
