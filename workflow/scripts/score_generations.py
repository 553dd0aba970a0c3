"""Score an experiment's generations: toxicity and repetition on prompts, F1 on articles.

Equal texts are scored once, also across interventions. A continuation that cannot be scored gets
NaN, and so does every measure in the rows of the corpus that it does not apply to.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import numpy as np
from neurondynamics.data.tables import read_parquet, write_parquet
from neurondynamics.evaluation.metrics import repetition, token_f1
from neurondynamics.evaluation.scorers import make_scorer

CORPORA = {"prompts", "articles"}


def score_generations(generations: str, scores: str, scorer: dict) -> None:
    """Write a row of scores per row of `generations`, both parquet files.

    `scorer`: the kind of scorer and its options, as `make_scorer` takes them. Raises ValueError for
    a corpus that has no measures.
    """
    table = read_parquet(generations)
    unknown = set(table["corpus"]) - CORPORA
    if unknown:
        raise ValueError(f"{generations}: unknown corpus {', '.join(sorted(unknown))}")
    prompts = table["corpus"] == "prompts"
    scored = table[["experiment", "intervention", "corpus", "prompt_id"]].assign(
        toxicity=np.nan, repetition=np.nan, f1=np.nan
    )
    texts = table.loc[prompts, "text"].tolist()
    scored.loc[prompts, "toxicity"] = make_scorer(**scorer)(texts)
    scored.loc[prompts, "repetition"] = [repetition(text) for text in texts]
    articles = table[~prompts]
    empty = articles.loc[articles["reference_tokens"].str.len() == 0, "prompt_id"]
    if len(empty):
        raise ValueError(
            f"{generations}: article {empty.iloc[0]} has no reference tokens to compare with"
        )
    scored.loc[~prompts, "f1"] = [
        token_f1(tokens, reference)
        for tokens, reference in zip(articles["tokens"], articles["reference_tokens"], strict=True)
    ]
    write_parquet(scores, scored)


if __name__ == "__main__":
    score_generations(
        generations=snakemake.input.generations,
        scores=snakemake.output.scores,
        scorer=snakemake.params.scorer,
    )
