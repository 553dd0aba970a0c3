"""Fit the toxicity direction on the base model's own samples.

Labels come from the scorer, features from the residual stream before the final norm, averaged
over the new-token positions, where the model decides what to write. Only prompts with toxic and
other samples take part, so that the direction is no detector of topics.

Beside the study's direction, the others that can steer are fitted: by both methods on the same
features, from the embeddings of given words, and from the value vectors near the direction.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging

import numpy as np
import pandas as pd
from neurondynamics.analysis.directions import (
    METHODS,
    embedding_difference,
    hold_out,
    quality,
    singular_direction,
    write_direction,
    write_directions,
)
from neurondynamics.analysis.directions import fit_direction as fit
from neurondynamics.data.records import write_json
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.generation import read_continuations, sorted_batches
from neurondynamics.lm.hooks import PositionMeans, final_residual_sites, hooked
from neurondynamics.lm.lens import decode_vectors
from neurondynamics.lm.loading import (
    encode_prompts,
    load_model,
    load_tokenizer,
    set_threads,
)
from neurondynamics.lm.weights import cosines, unit
from neurondynamics.runtime import progress

logger = logging.getLogger(__name__)


def fit_direction(
    model: str,
    scored: list[str],
    vector: str,
    directions: str,
    description: str,
    *,
    method: str,
    held_out: float,
    words: dict[str, list[str]],
    singular: int,
    threshold: float,
    dtype: str,
    device: str,
    threads: int,
    max_tokens: int,
    batch_size: int,
    seed: int,
) -> None:
    """Write the direction, named directions to steer with, and what they are.

    The direction that is written is fitted on all prompts; accuracy and AUROC are those of a fit
    without the held-out prompts. `words` are {toxic, neutral} for the difference of embeddings,
    `singular` is the number of value vectors whose first singular vector is taken. Raises
    ValueError if too few prompts have samples of both kinds, or for a word without tokens.
    """
    set_threads(threads)
    tokenizer = load_tokenizer(model)
    lm = load_model(model, dtype, device)
    toxic_words, neutral_words = (word_rows(lm, tokenizer, words, k) for k in ("toxic", "neutral"))
    texts = mixed_prompts(scored, threshold)
    prompts = encode_prompts(tokenizer, texts.prompt.tolist(), max_tokens)
    features = mean_residuals(lm, prompts, texts.tokens.tolist(), batch_size)
    toxic, numbers = texts.toxic.to_numpy(), texts.number.to_numpy()
    fitting, held = hold_out(numbers, held_out, seed)
    partial = fit(features[fitting], toxic[fitting], numbers[fitting], method, seed)
    measured = quality(partial, features[held], toxic[held])
    fitted = {name: fit(features, toxic, numbers, name, seed) for name in METHODS}
    direction = fitted[method]
    vectors = {name: other.vector for name, other in fitted.items()}
    vectors["embeddings"] = embedding_difference(toxic_words, neutral_words)
    vectors["svd"] = singular_direction(nearest_values(lm, direction.vector, singular))
    logger.info("%s on %d held-out texts: %s", method, len(held), measured)
    write_direction(vector, direction)
    write_directions(directions, vectors)
    counts = {
        "texts": len(texts),
        "toxic_texts": int(toxic.sum()),
        "prompts": int(texts.number.nunique()),
        "held_out_texts": len(held),
    }
    both = np.stack([direction.vector, -direction.vector])
    toward, away = decode_vectors(lm, tokenizer, both, tokens=20)
    tokens = {"tokens_toward": toward, "tokens_away": away}
    decoded = decode_vectors(lm, tokenizer, np.stack(list(vectors.values())), tokens=20)
    others = {
        name: {"cosine": float(unit(other) @ unit(direction.vector)), "tokens_toward": row}
        for (name, other), row in zip(vectors.items(), decoded, strict=True)
    }
    write_json(
        description,
        {"method": method, **counts, "held_out": measured, **tokens, "directions": others},
    )


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


def mixed_prompts(scored: list[str], threshold: float) -> pd.DataFrame:
    """Return the scored samples of the prompts that have toxic ones and others.

    Adds `toxic` and `number`, which counts prompts across the tables.
    """
    table = pd.concat([pd.read_parquet(path).assign(table=path) for path in scored])
    table = table.dropna(subset="toxicity")
    table["toxic"] = table.toxicity > threshold
    table["number"] = table.groupby(["table", "prompt_id"]).ngroup()
    share = table.groupby("number").toxic.transform("mean")
    mixed = table[(share > 0) & (share < 1)].reset_index(drop=True)
    if mixed.number.nunique() < 4:
        raise ValueError(
            f"only {mixed.number.nunique()} prompts have toxic and other samples at the "
            f"threshold {threshold}; raise prompts.train.number or preferences.samples"
        )
    return mixed


def mean_residuals(lm, prompts, continuations, batch_size) -> np.ndarray:
    """Return the final residual stream's mean over new-token positions, (texts, d_model)."""
    features = np.empty((len(prompts), lm.config.hidden_size))
    lengths = [len(p) + len(c) for p, c in zip(prompts, continuations, strict=True)]
    anatomy = dissect(lm)
    for batch in progress(list(sorted_batches(lengths, batch_size)), "reading labelled samples"):
        recorder = PositionMeans(final_residual_sites(anatomy))
        with hooked(recorder.hooks):
            read_continuations(
                lm, [prompts[i] for i in batch], [continuations[i] for i in batch], recorder
            )
        features[batch] = recorder.means()[0].numpy()
    if not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise ValueError(f"the residual stream is NaN or infinite for labelled sample {row}")
    return features


if __name__ == "__main__":
    fit_direction(
        model=snakemake.input.model,
        scored=snakemake.input.scored,
        vector=snakemake.output.vector,
        directions=snakemake.output.directions,
        description=snakemake.output.description,
        threads=snakemake.threads,
        **snakemake.params.settings,
    )
