"""Sum the reduction over the groups of neurons, with bootstrap intervals over prompts.

The groups are those of all prompts and stay fixed; a resample of the prompts recomputes every sum
and both shares: of the four reducing groups together (gross, the paper's) and of all neurons (net).
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import numpy as np
import pandas as pd
from neurondynamics.analysis.attribution import GROUPS, REDUCING
from neurondynamics.analysis.reductions import read_reductions
from neurondynamics.analysis.statistics import Statistics, share
from neurondynamics.data.tables import read_parquet, write_csv


def summarize_groups(reductions: str, neurons: str, table: str, statistics: Statistics) -> None:
    """Write one row per group to the CSV file `table`; `n` are the prompts.

    `reductions`: HDF5 with the reductions of prompts, layers and groups; `neurons`: parquet with
    one row per neuron. Raises ValueError where the two record other origins or disagree on the
    groups' sums, since one pass over the same activations makes both.
    """
    rows = read_parquet(neurons, columns=["group", "reduction"])
    read = read_reductions(reductions, rows.attrs)
    own_text, same_text = read.own_text.sum(axis=1), read.same_text.sum(axis=1)  # (prompts, groups)
    by_group = rows.groupby("group")
    counts = by_group.size().reindex(GROUPS, fill_value=0)
    sums = by_group["reduction"].sum().reindex(GROUPS, fill_value=0.0)
    total = own_text.mean(axis=0)  # (groups,)
    if not np.allclose(total, sums, rtol=0, atol=1e-3 * np.abs(total).sum()):
        raise ValueError(
            f"{reductions} and {neurons} disagree on the reduction of the groups: "
            f"{dict(zip(GROUPS, total, strict=True))} against {sums.to_dict()}; "
            "remove both and attribute the neurons again"
        )
    columns = {"group": list(GROUPS), "neurons": counts.to_numpy(), "n": len(own_text)}
    for suffix, values in (("", own_text), ("_same_text", same_text)):
        names = (name + suffix for name in ("reduction", "share_gross", "share_net"))
        columns |= statistics.estimate(_sums_and_shares, [values]).columns(*names)
    write_csv(table, pd.DataFrame(columns))


def _sums_and_shares(means: np.ndarray) -> np.ndarray:  # (resamples, groups) -> (…, 3, groups)
    gross = means[:, : len(REDUCING)].sum(axis=1, keepdims=True)  # the first ones reduce
    net = means.sum(axis=1, keepdims=True)
    return np.stack([means, share(means, gross), share(means, net)], axis=1)


if __name__ == "__main__":
    summarize_groups(
        reductions=snakemake.input.reductions,
        neurons=snakemake.input.neurons,
        table=snakemake.output.table,
        statistics=Statistics(**snakemake.params.statistics),
    )
