"""Read texts with the base model and keep what directions are fitted on, one vector a text.

It is the residual stream after a block, before the final norm, in the mean over positions. Of the
base model's own samples these are the new-token positions, where the model decides what to write,
and only prompts with samples of both labels take part. Of a dataset they are the positions of the
text's own first tokens: neither padding nor the tokens that begin or end every text count.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging

import numpy as np
from neurondynamics.analysis.labelled import mixed_prompts, read_labelled, write_features
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.encoding import added_tokens, encode_prompts, encode_texts
from neurondynamics.lm.generation import read_continuations, sorted_batches
from neurondynamics.lm.hooks import PositionMeans, hooked
from neurondynamics.lm.loading import Reading, load_tokenizer
from neurondynamics.lm.memory import halving
from neurondynamics.runtime import human_size, progress

logger = logging.getLogger(__name__)


def extract_features(
    model: str,
    texts: list[str],
    features: str,
    *,
    reading: Reading,
    labelled: dict,
    layer: int,
) -> None:
    """Write the features of texts after block `layer`, and the numbers of the texts.

    `texts` are the files of scored samples, with `labelled` {threshold}, or the folder of a
    dataset, with `labelled` {format, text_field, where}. `reading.max_tokens` is how much is read
    of a sample's prompt, or of a dataset's text. Raises ValueError if a text's features are not
    finite, naming its number.
    """
    tokenizer = load_tokenizer(model)
    lm = reading.load(model)
    if "threshold" in labelled:
        table = mixed_prompts(texts, labelled["threshold"])
        rows, precision = np.arange(len(table)), np.float64
        prompts = encode_prompts(tokenizer, table.prompt.tolist(), reading.max_tokens)
        continuations = table.tokens.tolist()
    else:
        (folder,) = texts
        read, _ = read_labelled(folder, **labelled)
        prompts, continuations, rows = own_tokens(tokenizer, read, reading.max_tokens)
        precision = np.float32  # there may be hundreds of thousands of them
    found = mean_residuals(lm, prompts, continuations, layer, reading.batch_size, precision)
    logger.info("%d features of %s take %s", *found.shape, human_size(found.nbytes))
    write_features(features, found, rows)


def own_tokens(
    tokenizer, texts: list[str], number: int
) -> tuple[list[list[int]], list[list[int]], np.ndarray]:
    """Split texts' first tokens so that the own ones stand at the new-token positions.

    A prompt ends with its text's first own token, and as many new tokens follow as there are own
    ones: the last of them is never read. Texts without tokens of their own are left out; the third
    value, (n,), are the numbers of the others.
    """
    first = len(added_tokens(tokenizer)[0])
    prompts, continuations, rows = [], [], []
    for row, ids in enumerate(encode_texts(tokenizer, texts)):
        own = ids[first : first + number]
        if own:
            prompts.append(ids[: first + 1])
            continuations.append([*own[1:], own[0]])
            rows.append(row)
    logger.info("%d of %d texts have tokens of their own", len(rows), len(texts))
    return prompts, continuations, np.array(rows)


def mean_residuals(lm, prompts, continuations, layer, batch_size, precision) -> np.ndarray:
    """Return the residual stream's mean over new-token positions, (texts, d_model)."""
    features = np.empty((len(prompts), lm.config.hidden_size), precision)
    lengths = [len(p) + len(c) for p, c in zip(prompts, continuations, strict=True)]
    sites = [(dissect(lm).layers[layer].block, "output")]

    def read(rows: np.ndarray) -> np.ndarray:
        recorder = PositionMeans(sites)
        with hooked(recorder.hooks):
            read_continuations(
                lm, [prompts[i] for i in rows], [continuations[i] for i in rows], recorder
            )
        return recorder.means()[0].numpy()

    for batch in progress(list(sorted_batches(lengths, batch_size)), "reading labelled texts"):
        for rows, means in halving(batch, read):
            features[rows] = means
    if not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise ValueError(f"the residual stream is NaN or infinite for labelled text {row}")
    return features


if __name__ == "__main__":
    extract_features(
        model=snakemake.input.model,
        texts=snakemake.input.texts,
        features=snakemake.output.features,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )
