"""Say where the reduction comes from: of every group of neurons and of all of them together, how
much is due to changed activations, to changed value vectors and to changed text.

A resample of the prompts recomputes every sum and share; the groups stay fixed.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import numpy as np
import pandas as pd
from neurondynamics.analysis.attribution import GROUPS, INCREASING
from neurondynamics.analysis.reductions import Reductions, read_reductions
from neurondynamics.analysis.statistics import Statistics, share
from neurondynamics.data.tables import write_csv

PARTS = ("activation", "value", "context", "total")  # the last is the sum of the others
ROWS = (*GROUPS, "all")
# the sign that a row's total has by what its neurons are
SIGNS = np.array([-1.0 if group in INCREASING else 1.0 for group in ROWS])


def tabulate_sources(reductions: str, table: str, statistics: Statistics) -> None:
    """Write one row per group and part to the CSV file `table`.

    `reductions`: HDF5 with the reductions of prompts, layers and groups. Columns: `group`, `part`,
    `n` (prompts), and with the ends of their intervals `reduction`, `share_group` (of the group's
    own total; empty where that has not the group's sign) and `share_net` (of the total of all
    neurons).
    """
    parts = split_by_source(read_reductions(reductions))
    estimate = statistics.estimate(_sums_and_shares, [parts])
    columns = {"group": np.repeat(ROWS, len(PARTS)), "part": np.tile(PARTS, len(ROWS))}
    columns["n"] = len(parts)
    columns |= estimate.columns("reduction", "share_group", "share_net")
    write_csv(table, pd.DataFrame(columns))


def split_by_source(reductions: Reductions) -> np.ndarray:
    """Return the reduction of each prompt by group and source, (prompts, ROWS, PARTS)."""
    total, same_text, value = (part.sum(axis=1) for part in reductions)  # (prompts, groups)
    parts = np.stack([same_text - value, value, total - same_text, total], axis=-1)
    return np.concatenate([parts, parts.sum(axis=1, keepdims=True)], axis=1)


def _sums_and_shares(means: np.ndarray) -> np.ndarray:  # (…, ROWS, PARTS) -> (…, 3, ROWS * PARTS)
    signed = SIGNS[:, None] * means
    own = share(signed, signed[..., -1:])
    columns = np.stack([means, own, share(means, means[:, -1:, -1:])], axis=1)
    return columns.reshape(*columns.shape[:2], -1)


if __name__ == "__main__":
    tabulate_sources(
        reductions=snakemake.input.reductions,
        table=snakemake.output.table,
        statistics=Statistics(**snakemake.params.statistics),
    )
