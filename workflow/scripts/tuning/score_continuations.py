"""Score sampled continuations: the same table with a column `score`.

A continuation that cannot be scored (empty, or nothing but white space) keeps its row, with NaN.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

from neurondynamics.data.tables import read_parquet, write_parquet
from neurondynamics.evaluation.scorers import make_scorer


def score_continuations(continuations: str, scored: str, scorer: dict) -> None:
    """Write `continuations` with the scores of their texts to `scored`, both parquet files.

    `scorer`: the kind of scorer and its options, as `make_scorer` takes them.
    """
    table = read_parquet(continuations)
    table["score"] = make_scorer(**scorer)(table["text"].tolist())
    write_parquet(scored, table)


if __name__ == "__main__":
    score_continuations(
        continuations=snakemake.input.continuations,
        scored=snakemake.output.scored,
        scorer=snakemake.params.scorer,
    )
