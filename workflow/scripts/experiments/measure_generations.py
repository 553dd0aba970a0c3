"""Measure what the model wrote in an experiment, such as repetition on prompts, F1 on articles.

A measure is NaN in the rows of the corpus that it does not apply to.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import numpy as np
from neurondynamics.data.tables import read_parquet, write_parquet
from neurondynamics.evaluation.metrics import MEASURES


def measure_generations(generations: str, measures: str) -> None:
    """Write a row with all MEASURES per row of `generations`, both parquet files.

    Raises ValueError for a corpus that has no measures, and for what a measure refuses, such as an
    article without reference.
    """
    table = read_parquet(generations)
    unknown = set(table["corpus"]) - {measure.corpus for measure in MEASURES.values()}
    if unknown:
        raise ValueError(f"{generations}: unknown corpus {', '.join(sorted(unknown))}")
    measured = table[["experiment", "intervention", "corpus", "prompt_id"]].copy()
    for name, (corpus, function, columns) in MEASURES.items():
        rows = table[table["corpus"] == corpus]
        values = []
        for place, *arguments in zip(rows["prompt_id"], *map(rows.get, columns), strict=True):
            try:
                values.append(function(*arguments))
            except ValueError as error:
                raise ValueError(f"{generations}: number {place} of {corpus}: {error}") from error
        measured[name] = np.nan
        measured.loc[rows.index, name] = values
    write_parquet(measures, measured)


if __name__ == "__main__":
    measure_generations(generations=snakemake.input.generations, measures=snakemake.output.measures)
