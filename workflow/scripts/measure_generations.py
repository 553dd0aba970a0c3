"""Measure what the model wrote in an experiment: repetition on prompts, F1 on articles.

A measure is NaN in the rows of the corpus that it does not apply to.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import numpy as np
from neurondynamics.data.tables import read_parquet, write_parquet
from neurondynamics.evaluation.metrics import repetition, token_f1

CORPORA = {"prompts", "articles"}


def measure_generations(generations: str, measures: str) -> None:
    """Write a row of measures per row of `generations`, both parquet files.

    Raises ValueError for a corpus that has no measures, and for an article without reference.
    """
    table = read_parquet(generations)
    unknown = set(table["corpus"]) - CORPORA
    if unknown:
        raise ValueError(f"{generations}: unknown corpus {', '.join(sorted(unknown))}")
    prompts = table["corpus"] == "prompts"
    measured = table[["experiment", "intervention", "corpus", "prompt_id"]].assign(
        repetition=np.nan, f1=np.nan
    )
    measured.loc[prompts, "repetition"] = [repetition(text) for text in table.loc[prompts, "text"]]
    articles = table[~prompts]
    empty = articles.loc[articles["reference_tokens"].str.len() == 0, "prompt_id"]
    if len(empty):
        raise ValueError(
            f"{generations}: article {empty.iloc[0]} has no reference tokens to compare with"
        )
    measured.loc[~prompts, "f1"] = [
        token_f1(tokens, reference)
        for tokens, reference in zip(articles["tokens"], articles["reference_tokens"], strict=True)
    ]
    write_parquet(measures, measured)


if __name__ == "__main__":
    measure_generations(generations=snakemake.input.generations, measures=snakemake.output.measures)
