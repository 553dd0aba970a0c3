"""What a paper published beside what this study measured: interventions, and groups of neurons.

A published score is set beside that of every scorer of the study; whether the two are the same
scorer is for the reader to judge, so both are named.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

from collections.abc import Iterator

import pandas as pd
from neurondynamics.data.tables import read_csv, write_csv
from neurondynamics.study.behaviour import Behaviour

COLUMNS = """section item measure published_scorer scorer
    published measured measured_low measured_high difference"""


def tabulate_published(
    interventions: str, groups: str, table: str, published: dict, behaviour: Behaviour
) -> None:
    """Write one row per published number, and per scorer where it is a score, to a CSV file.

    `interventions`, `groups`: the study's tables. `published`: the configuration's key, with
    `interventions` (by experiment and intervention: score, perplexity, f1), `groups` (by name:
    neurons, reduction, share) and the `scorer` of the scores. `difference` is measured minus
    published. Raises ValueError for a row that the study's tables lack.
    """
    rows = [
        *_of_interventions(read_csv(interventions), published, behaviour.column),
        *_of_groups(read_csv(groups), published.get("groups", {})),
    ]
    written = pd.DataFrame(rows, columns=COLUMNS.split())
    written["difference"] = written["measured"] - written["published"]
    write_csv(table, written)


def _of_interventions(measured: pd.DataFrame, published: dict, score: str) -> Iterator[dict]:
    for experiment, items in published.get("interventions", {}).items():
        for item, values in items.items():
            rows = measured.query("experiment == @experiment and intervention == @item")
            if rows.empty:
                raise ValueError(
                    f"published.interventions.{experiment}.{item}: the table of interventions has "
                    "no such row"
                )
            for measure, value in values.items():
                place = {"section": experiment, "item": item, "published": value}
                if measure == "score":
                    place |= {"measure": score, "published_scorer": published.get("scorer", "")}
                    for _, row in rows.iterrows():
                        yield place | {"scorer": row["scorer"]} | _measured(row, score)
                else:  # fluency is the same whatever the scorer
                    yield place | {"measure": measure} | _measured(rows.iloc[0], measure)


def _of_groups(measured: pd.DataFrame, published: dict) -> Iterator[dict]:
    columns = {"neurons": "neurons", "reduction": "reduction", "share": "share_gross"}
    by_group = measured.set_index("group")
    for item, values in published.items():
        for measure, value in values.items():
            place = {"section": "groups", "item": item, "measure": measure, "published": value}
            yield place | _measured(by_group.loc[item], columns[measure])


def _measured(row: pd.Series, column: str) -> dict[str, float]:
    """Return a measured value and its interval, if the table has one."""
    suffixes = {"measured": "", "measured_low": "_low", "measured_high": "_high"}
    return {
        name: row[column + suffix]
        for name, suffix in suffixes.items()
        if column + suffix in row.index
    }


if __name__ == "__main__":
    tabulate_published(
        interventions=snakemake.input.interventions,
        groups=snakemake.input.groups,
        table=snakemake.output.table,
        published=snakemake.params.published,
        behaviour=Behaviour(**snakemake.params.behaviour),
    )
