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
    hold_out,
    quality,
    write_direction,
    write_directions,
)
from neurondynamics.analysis.directions import fit_direction as fit
from neurondynamics.data.records import write_json
from neurondynamics.data.tables import read_parquet
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
from neurondynamics.lm.memory import halving
from neurondynamics.runtime import progress

logger = logging.getLogger(__name__)


def fit_direction(
    model: str,
    scored: list[str],
    vector: str,
    fitted: str,
    description: str,
    *,
    method: str,
    held_out: float,
    threshold: float,
    dtype: str,
    device: str,
    threads: int,
    max_tokens: int,
    batch_size: int,
    seed: int,
) -> None:
    """Write the direction, those of all methods by name, and what the direction is worth.

    The directions that are written are fitted on all prompts; accuracy and AUROC are those of a
    fit without the held-out prompts. Raises ValueError if too few prompts have samples of both
    kinds.
    """
    set_threads(threads)
    tokenizer = load_tokenizer(model)
    lm = load_model(model, dtype, device)
    texts = mixed_prompts(scored, threshold)
    prompts = encode_prompts(tokenizer, texts.prompt.tolist(), max_tokens)
    features = mean_residuals(lm, prompts, texts.tokens.tolist(), batch_size)
    toxic, numbers = texts.toxic.to_numpy(), texts.number.to_numpy()
    fitting, held = hold_out(numbers, held_out, seed)
    partial = fit(features[fitting], toxic[fitting], numbers[fitting], method, seed)
    measured = quality(partial, features[held], toxic[held])
    every = {name: fit(features, toxic, numbers, name, seed) for name in METHODS}
    direction = every[method]
    logger.info("%s on %d held-out texts: %s", method, len(held), measured)
    write_direction(vector, direction)
    write_directions(fitted, {name: other.vector for name, other in every.items()})
    counts = {
        "texts": len(texts),
        "toxic_texts": int(toxic.sum()),
        "prompts": int(texts.number.nunique()),
        "held_out_texts": len(held),
    }
    both = np.stack([direction.vector, -direction.vector])
    toward, away = decode_vectors(lm, tokenizer, both, tokens=20)
    tokens = {"tokens_toward": toward, "tokens_away": away}
    write_json(description, {"method": method, **counts, "held_out": measured, **tokens})


def mixed_prompts(scored: list[str], threshold: float) -> pd.DataFrame:
    """Return the scored samples of the prompts that have toxic ones and others.

    Adds `toxic` and `number`, which counts prompts: no prompt stands in two splits.
    """
    table = pd.concat(map(read_parquet, scored)).dropna(subset="toxicity")
    table = table.sort_values(["prompt", "sample"])  # whatever the files, one order
    table["toxic"] = table.toxicity > threshold
    table["number"] = table.groupby("prompt").ngroup()
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
    sites = final_residual_sites(dissect(lm))

    def read(rows: np.ndarray) -> np.ndarray:
        recorder = PositionMeans(sites)
        with hooked(recorder.hooks):
            read_continuations(
                lm, [prompts[i] for i in rows], [continuations[i] for i in rows], recorder
            )
        return recorder.means()[0].numpy()

    for batch in progress(list(sorted_batches(lengths, batch_size)), "reading labelled samples"):
        for rows, means in halving(batch, read):
            features[rows] = means
    if not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise ValueError(f"the residual stream is NaN or infinite for labelled sample {row}")
    return features


if __name__ == "__main__":
    fit_direction(
        model=snakemake.input.model,
        scored=snakemake.input.scored,
        vector=snakemake.output.vector,
        fitted=snakemake.output.fitted,
        description=snakemake.output.description,
        threads=snakemake.threads,
        **snakemake.params.settings,
    )
