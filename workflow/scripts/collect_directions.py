"""Collect the directions to steer with, by name: the fitted ones, and two that need no samples.

`embeddings` is the difference between the unembeddings of toxic and neutral words; `svd` is the
first singular vector of the value vectors nearest to the study's direction.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
from neurondynamics.analysis.directions import (
    embedding_difference,
    read_direction,
    read_directions,
    singular_direction,
    write_directions,
)
from neurondynamics.data.records import write_json
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.lens import decode_vectors
from neurondynamics.lm.loading import load_model, load_tokenizer
from neurondynamics.lm.weights import cosines, unit


def collect_directions(
    model: str,
    direction: str,
    fitted: str,
    directions: str,
    description: str,
    *,
    words: dict[str, list[str]],
    singular: int,
    dtype: str,
) -> None:
    """Write the named directions, and of each the tokens and the cosine with the study's.

    `words` are {toxic, neutral} for the difference of embeddings, `singular` is the number of
    value vectors whose first singular vector is taken. Raises ValueError for a word without
    tokens and for more value vectors than there are.
    """
    tokenizer = load_tokenizer(model)
    lm = load_model(model, dtype, "cpu")
    along = read_direction(direction).vector
    toxic, neutral = (word_rows(lm, tokenizer, words, kind) for kind in ("toxic", "neutral"))
    vectors = {
        **read_directions(fitted),
        "embeddings": embedding_difference(toxic, neutral),
        "svd": singular_direction(nearest_values(lm, along, singular)),
    }
    decoded = decode_vectors(lm, tokenizer, np.stack(list(vectors.values())), tokens=20)
    write_directions(directions, vectors)
    described = {
        name: {"cosine": float(unit(vector) @ unit(along)), "tokens_toward": tokens}
        for (name, vector), tokens in zip(vectors.items(), decoded, strict=True)
    }
    write_json(description, described)


def word_rows(lm, tokenizer, words: dict[str, list[str]], kind: str) -> list[np.ndarray]:
    """Return the unembedding rows of each word's tokens, (tokens, d_model) in float64.

    Raises ValueError naming a word that has no tokens or that the tokenizer does not know.
    """
    weight = dissect(lm).unembedding.weight
    rows = []
    for word in words[kind]:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        if not word.strip() or not ids or tokenizer.unk_token_id in ids:
            raise ValueError(
                f"the word {word!r} of direction.words.{kind} is empty or unknown to the "
                "tokenizer; take another"
            )
        rows.append(weight[ids].double().cpu().numpy())
    return rows


def nearest_values(lm, direction: np.ndarray, number: int) -> np.ndarray:
    """Return the value vectors of highest cosine with a direction, (number, d_model) in float64.

    Raises ValueError if the model has fewer.
    """
    layers = [layer.value_vectors() for layer in dissect(lm).layers]
    along = np.concatenate([cosines(v.double().cpu().numpy(), direction)[0] for v in layers])
    if number > len(along):
        raise ValueError(f"direction.singular is {number}; the model has {len(along)} neurons")
    best = np.argsort(-along, kind="stable")[:number]
    starts = np.cumsum([0, *(len(v) for v in layers)])
    owners = np.searchsorted(starts, best, side="right") - 1
    rows = [layers[i][j - starts[i]] for i, j in zip(owners, best, strict=True)]
    return np.stack([row.double().cpu().numpy() for row in rows])


if __name__ == "__main__":
    collect_directions(
        model=snakemake.input.model,
        direction=snakemake.input.direction,
        fitted=snakemake.input.fitted,
        directions=snakemake.output.directions,
        description=snakemake.output.description,
        **snakemake.params.settings,
    )
