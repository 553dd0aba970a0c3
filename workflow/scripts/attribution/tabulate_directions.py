"""Set the groups of neurons along several directions one below the other in a table."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import pandas as pd
from neurondynamics.data.tables import read_csv, write_csv


def tabulate_directions(groups: list[str], directions: list[str], table: str) -> None:
    """Write the tables of groups as one, with the name of each one's direction before its rows."""
    tables = [read_csv(path) for path in groups]
    for name, of_direction in zip(directions, tables, strict=True):
        of_direction.insert(0, "direction", name)
    write_csv(table, pd.concat(tables, ignore_index=True))


if __name__ == "__main__":
    tabulate_directions(
        groups=snakemake.input.groups,
        directions=snakemake.params.directions,
        table=snakemake.output.table,
    )
