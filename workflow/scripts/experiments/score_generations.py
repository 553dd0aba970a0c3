"""Score what the model wrote on an experiment's prompts, with one scorer.

Equal texts are scored once, also across interventions. A continuation that cannot be scored gets
NaN.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

from neurondynamics.data.tables import read_parquet, write_parquet
from neurondynamics.evaluation.scorers import make_scorer


def score_generations(generations: str, scores: str, name: str, scorer: dict) -> None:
    """Write a row of `scores` per continuation of a prompt in `generations`, both parquet files.

    `name`: how the scores are called; `scorer`: the kind of scorer and its options, as
    `make_scorer` takes them.
    """
    table = read_parquet(generations)
    table = table[table["corpus"] == "prompts"]
    scored = table[["experiment", "intervention", "prompt_id"]].assign(
        scorer=name, score=make_scorer(**scorer)(table["text"].tolist())
    )
    write_parquet(scores, scored, {"scorer": name})


if __name__ == "__main__":
    score_generations(
        generations=snakemake.input.generations,
        scores=snakemake.output.scores,
        name=snakemake.wildcards.scorer,
        scorer=snakemake.params.scorer,
    )
