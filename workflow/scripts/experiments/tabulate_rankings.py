"""Tabulate what moving ever more units does, the first ones of each ranking.

`kl_share` says how near the base model comes to the tuned one. A ranking is the better the sooner
its curve rises: `cpr` is the area under it, `cmd` that between it and the whole, on the axis of the
part of weights that is moved and on a logarithmic one.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import numpy as np
import pandas as pd
from neurondynamics.analysis.rankings import Ranked, areas_of, curve_of, in_wide, summary
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.tables import read_parquet, read_shards, write_csv
from neurondynamics.limits import MODULES_OF

OF = {"neurons": ["mlp"], "heads": ["attention"], "all": ["mlp", "attention"]}
OF |= {"blocks": list(MODULES_OF.values())}
NAMES = ["operation", "of", "by"]
WHOLE = ["units_50", "units_80", "units_greatest"]


def tabulate_rankings(
    fidelity: list[str],
    units: str,
    table: str,
    curves: str,
    *,
    ranked: dict[str, list],
    statistics: Statistics,
) -> None:
    """Write the CSV files `curves`, a row per ranking and size, and `table`, a row per ranking.

    `ranked` holds the `curves`, with `operation`, `of` and `by` of each, and the `sizes`, the
    smallest first. `weights` is the part of the weights of all units of the kind that is moved.
    Rankings are in the order of their `cpr_log`, those of the same kind and operation together.
    """
    measured, counted = read_shards(fidelity), read_parquet(units)
    first = measured[measured["intervention"] == measured["intervention"].iloc[0]]
    first = first.sort_values("prompt_id")
    rows, ranks = [], []
    for curve in ranked["curves"]:
        names = ["-".join([*(curve[name] for name in NAMES), size]) for size in ranked["sizes"]]
        number, parts = moved_units(measured, counted, names, OF[curve["of"]])
        unedited, noise = (first[name].to_numpy() for name in ("kl_unedited", "kl_noise"))
        one = Ranked(parts, in_wide(measured, names, "kl"), unedited, noise)
        shares = curve_of(one, statistics)
        sizes = {"size": ranked["sizes"], "units": number, "weights": parts, "n": len(unedited)}
        rows.append(pd.DataFrame({**curve, **sizes, **shares.columns("kl_share")}))
        areas = [area.columns(name) for name, area in areas_of(one, statistics).items()]
        found = {name: value for area in areas for name, value in area.items()}
        ranks.append({**curve, "n": len(unedited), **found, **summary(shares, parts, number)})
    write_csv(curves, pd.concat(rows))
    order = ["operation", "of", "cpr_log"]
    best = pd.DataFrame(ranks).sort_values(order, ascending=[False, True, False])
    write_csv(table, best.astype(dict.fromkeys(WHOLE, "Int64")))


def moved_units(
    measured: pd.DataFrame, counted: pd.DataFrame, names: list[str], modules: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many units interventions move, and the part of the weights of all units of some
    modules that these are, both (names,)."""
    edited = measured.drop_duplicates("intervention").set_index("intervention").loc[names]
    each = counted.groupby("module")["parameters"].agg(["first", "sum"])
    weights = sum(edited[kind] * each.loc[module, "first"] for kind, module in MODULES_OF.items())
    return edited[list(MODULES_OF)].sum(axis=1).to_numpy(), (
        weights / each.loc[modules, "sum"].sum()
    ).to_numpy()


if __name__ == "__main__":
    tabulate_rankings(
        fidelity=snakemake.input.fidelity,
        units=snakemake.input.units,
        table=snakemake.output.rankings,
        curves=snakemake.output.ranking_curves,
        ranked=snakemake.params.ranked,
        statistics=Statistics(**snakemake.params.statistics),
    )
