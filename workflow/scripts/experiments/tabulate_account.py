"""Tabulate what each part of the model carries of what tuning changed.

`direct` is its share of the shift of the final residual stream along the direction. The others are
`kl_share`: how near to the tuned model the base model comes with that part of it `alone`, and with
all of it `without` that part. By activations (`causal`) a part is what its units do on the same
text, whatever made them; by `weights` it is its parameters. Neither says what the other does.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging

import pandas as pd
from neurondynamics.analysis.account import ALONE, MEASURES, WHOLE, direct_shares, estimate_account
from neurondynamics.analysis.statistics import ENDS, Statistics
from neurondynamics.data.tables import read_csv, read_parquet, write_csv

logger = logging.getLogger("tabulate_account")

ROUNDED = 1e-5  # of the whole, what rounding may take


def tabulate_account(account: str, shifts: str, table: str, *, statistics: Statistics) -> None:
    """Write the CSV file `table`, a row per part and layer; `layer` is empty where a row is of all
    layers, or of what lies in none. What a part has not is empty."""
    causal = estimate_account(read_parquet(account), statistics)
    direct = direct_shares(read_csv(shifts))
    joined = causal.join(direct, how="outer", sort=False)
    order = list(dict.fromkeys([*causal.index, *direct.index]))
    joined = joined.loc[order].reset_index()
    joined["layer"] = joined["layer"].astype("Int64").mask(joined["layer"] < 0)
    joined["n"] = int(causal["n"].iloc[0])
    whole = joined[joined["part"] == WHOLE].iloc[0]
    for measure in ALONE:
        logger.info("the whole of the tuned model, %s: kl_share %r", measure, whole[measure])
    if whole["weights_alone"] < 1 - ROUNDED:
        logger.warning(
            "all weights of the tuned model in the base model bring it only %.3g of the way: their "
            "config.json differ, and what is said of weights is said of the base model's",
            whole["weights_alone"],
        )
    columns = [name + end for name in ("direct", *MEASURES) for end in ENDS]
    write_csv(table, pd.DataFrame(joined, columns=["part", "layer", "n", *columns]))


if __name__ == "__main__":
    tabulate_account(
        account=snakemake.input.account,
        shifts=snakemake.input.shifts,
        table=snakemake.output.table,
        statistics=Statistics(**snakemake.params.statistics),
    )
