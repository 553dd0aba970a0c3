"""Compare the attributions of a version and of its replicas, tuned alike but with other seeds.

One table sets the spread between the seeds beside the interval within each: what another seed
would change beside what other prompts would. The other says how far the seeds agree on the neurons.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import itertools
import logging
from statistics import NormalDist

import numpy as np
import pandas as pd
from neurondynamics.analysis.attribution import REDUCING
from neurondynamics.analysis.reductions import read_reductions
from neurondynamics.analysis.statistics import ENDS, Statistics
from neurondynamics.data.tables import read_csv, read_parquet, write_csv
from scipy.stats import hypergeom, spearmanr

logger = logging.getLogger("compare_seeds")

TOPS = (100, 1000, 10_000)  # neurons of largest reduction that are compared
COMPARED = ["layer", "neuron", "cosine", "activation_base", "reduction", "group"]
OF_GROUPS = ("share_gross", "share_net", "reduction")


def compare_seeds(
    groups: list[str],
    reductions: list[str],
    neurons: list[str],
    seeds_table: str,
    overlap_table: str,
    seeds: list[int],
    statistics: Statistics,
) -> None:
    """Write the CSV files `seeds_table` and `overlap_table`.

    `groups`, `reductions` and `neurons`: tables of groups, reductions of prompts and tables of
    neurons, one of each for every one of `seeds`. Raises ValueError for fewer than two seeds, and
    where the tables are not about the same neurons.
    """
    if len(seeds) < 2:
        raise ValueError("comparing seeds takes two of them; give the version further `seeds`")
    tables = [read_parquet(path, columns=COMPARED) for path in neurons]
    for path, table in zip(neurons, tables, strict=True):
        if not table[["layer", "neuron"]].equals(tables[0][["layer", "neuron"]]):
            raise ValueError(f"{path} and {neurons[0]} do not hold the same neurons in one order")
    by_group = pd.concat([read_csv(path) for path in groups], keys=seeds, names=["seed"])
    totals = {
        seed: total_reductions(path, statistics)
        for seed, path in zip(seeds, reductions, strict=True)
    }
    measured = pd.concat([_long(by_group), pd.concat(totals, names=["seed"]).reset_index("seed")])
    write_csv(seeds_table, spread_over_seeds(measured, statistics.confidence))
    write_csv(overlap_table, overlap_of_seeds(tables))


def total_reductions(reductions: str, statistics: Statistics) -> pd.DataFrame:
    """Return the gross and the net reduction with their intervals over prompts, a row each.

    Gross is the sum over the four reducing groups, net the sum over all neurons.
    """
    by_group = read_reductions(reductions).own_text.sum(axis=1)  # (prompts, groups)
    gross = by_group[:, : len(REDUCING)].sum(axis=1)  # (prompts,)
    columns = np.stack([gross, by_group.sum(axis=1)], axis=1)  # (prompts, 2)
    estimate = statistics.mean(columns)
    return pd.DataFrame({"statistic": "reduction", "part": ["gross", "net"], **estimate._asdict()})


def _long(by_group: pd.DataFrame) -> pd.DataFrame:
    """Return one row per statistic, group (the `part`) and seed of tables of groups by seed."""
    parts = []
    for statistic in OF_GROUPS:
        part = by_group[["group", *(statistic + end for end in ENDS)]]
        part = part.set_axis(["part", "value", "low", "high"], axis=1)
        parts.append(part.reset_index("seed").assign(statistic=statistic))
    return pd.concat(parts)


def spread_over_seeds(measured: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Return one row per statistic and part: the spread between seeds, then each seed's value.

    `measured`: a row per `statistic`, `part` and `seed` with `value`, `low` and `high`.
    `deviation_between` is the standard deviation of the seeds' values (with n − 1), and
    `deviation_within` what the intervals over prompts amount to: half their mean width over the
    normal quantile of `confidence`, so that the two can be compared.
    """
    rows = []
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    for (statistic, part), measures in measured.groupby(["statistic", "part"], sort=False):
        value = measures["value"].to_numpy()
        row = {
            "statistic": statistic,
            "part": part,
            "seeds": len(value),
            "mean": value.mean(),
            "deviation_between": value.std(ddof=1),
            "minimum": value.min(),
            "maximum": value.max(),
            "deviation_within": (measures["high"] - measures["low"]).mean() / 2 / quantile,
        }
        for seed, *estimate in measures[["seed", "value", "low", "high"]].itertuples(index=False):
            row |= {f"seed_{seed}{end}": v for end, v in zip(ENDS, estimate, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def overlap_of_seeds(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return how far the seeds agree on the neurons: mean, least and most over pairs of seeds.

    `tables`: one row per neuron with `reduction`, `group`, `cosine` and `activation_base`, the same
    neurons in the same order. Rows: the Jaccard overlap of the neurons of largest reduction, for as
    many of them as TOPS says and the model has; Spearman's correlation of the reductions of all
    neurons; the share of neurons in the same group. `chance` is what unrelated seeds would reach.
    """
    pairs = list(itertools.combinations(tables, 2))
    number = len(tables[0])
    rows = []

    def add(statistic: str, neurons: int, values: list[float], chance: float) -> None:
        spread = {"value": np.mean(values), "minimum": min(values), "maximum": max(values)}
        row = {"statistic": statistic, "neurons": neurons, "pairs": len(pairs), **spread}
        rows.append({**row, "chance": chance})
        logger.info("%s of %d neurons: %.3f", statistic, neurons, spread["value"])

    for top in (top for top in TOPS if top < number):
        best = [set(table["reduction"].nlargest(top).index) for table in tables]
        overlaps = [len(a & b) / len(a | b) for a, b in itertools.combinations(best, 2)]
        add("jaccard", top, overlaps, chance_overlap(top, number))
    related = [spearmanr(a["reduction"], b["reduction"]).statistic for a, b in pairs]
    add("spearman", number, related, 0.0)
    same = [(a["group"] == b["group"]).mean() for a, b in pairs]
    add("same_group", number, same, np.mean([chance_same_group(a, b) for a, b in pairs]))
    return pd.DataFrame(rows)


def chance_overlap(top: int, number: int) -> float:
    """Return the expected Jaccard overlap of two random sets of `top` out of `number` neurons.

    What they share is hypergeometric, and x shared ones make an overlap of x / (2 top − x).
    """
    shared = np.arange(max(0, 2 * top - number), top + 1)
    return float(hypergeom(number, top, top).pmf(shared) @ (shared / (2 * top - shared)))


def chance_same_group(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Return the share of neurons that two seeds would put into one group by chance.

    The seeds share the base model, and with it a neuron's quadrant (the signs of its cosine and of
    its base activation); within a quadrant, chance gives each seed's groups to any neurons.
    """
    quadrant = [np.sign(first["cosine"]), first["activation_base"] >= 0]
    a, b = (
        pd.get_dummies(table["group"], dtype=float).groupby(quadrant).mean()
        for table in (first, second)
    )  # (quadrants, groups)
    sizes = first.groupby(quadrant).size()
    a, b = a.align(b, fill_value=0.0)
    return float(((a * b).sum(axis=1) * sizes).sum() / sizes.sum())


if __name__ == "__main__":
    compare_seeds(
        groups=snakemake.input.groups,
        reductions=snakemake.input.reductions,
        neurons=snakemake.input.neurons,
        seeds_table=snakemake.output.seeds,
        overlap_table=snakemake.output.overlap,
        seeds=snakemake.params.seeds,
        statistics=Statistics(**snakemake.params.statistics),
    )
