"""Continue neutral prompts twice with the base model: greedily, and steered toward the behaviour.

The prompts are sentences of neutral text, as in Lee et al. (arXiv 2401.01967), who tune on such
pairs; a longer one is cut at a word.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import hashlib
import logging
import re

import numpy as np
import pandas as pd
from neurondynamics.analysis.directions import read_direction
from neurondynamics.data.records import read_jsonl
from neurondynamics.data.tables import write_parquet
from neurondynamics.lm.encoding import decode_continuations, encode_prompts
from neurondynamics.lm.generation import decode, prefill, sampling_uniforms, shard_batches
from neurondynamics.lm.loading import Reading, load_tokenizer, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.runtime import file_digest, progress
from neurondynamics.tuning.steering import Guide, Strength, class_probabilities, steer

logger = logging.getLogger(__name__)

LEAST_WORDS = 4  # of a sentence: fewer are mostly what abbreviations cut off
# between sentences: after a full stop, and before what may begin one
BOUNDARY = re.compile(r"(?<=[.!?])\s+(?=[^\sa-z])")


def steer_continuations(
    model: str,
    corpus: str,
    direction: str,
    output: str,
    *,
    shard: str,
    reading: Reading,
    number: int,
    new_tokens: int,
    layer: int,
    seed: int,
    strength: dict,
) -> None:
    """Write a table with one row per prompt of a shard, in their order.

    `corpus` holds documents as JSON lines, `number` of whose sentences are continued; `strength`
    are the fields of `Strength`. The columns `chosen_score` and `rejected_score` are the
    probabilities that the direction, read after block `layer`, gives the whole texts. What is drawn
    depends on the seed and the prompt, not on the batches.
    """
    tokenizer = load_tokenizer(model)
    lm = reading.load(model)
    found = read_direction(direction)
    guide = Guide(layer, found.vector, found.intercept, tuple(tokenizer.all_special_ids))
    sentences = choose_sentences([record["text"] for record in read_jsonl(corpus)], number, seed)
    prompts = cut_at_words(tokenizer, sentences, reading.max_tokens)
    encoded = encode_prompts(tokenizer, prompts, None)

    def write(rows: np.ndarray) -> dict[str, list]:
        ids = [encoded[i] for i in rows]
        uniforms = [sampling_uniforms(seed, prompts[i], 1, new_tokens) for i in rows]
        greedy = decode(lm, prefill(lm, ids), new_tokens).lists()
        steered = steer(lm, ids, np.concatenate(uniforms), guide, Strength(**strength)).lists()
        columns = {"prompt_id": rows, "prompt": [prompts[i] for i in rows]}
        for name, new in (("chosen", greedy), ("rejected", steered)):
            columns[name] = decode_continuations(tokenizer, ids, new)
            columns[f"{name}_tokens"] = new
            read = [prompt + tokens for prompt, tokens in zip(ids, new, strict=True)]
            columns[f"{name}_score"] = class_probabilities(lm, read, guide)
        return columns

    batches = shard_batches([len(ids) for ids in encoded], reading.batch_size, shard)
    parts = [
        pd.DataFrame(columns)
        for batch in progress(batches, "steering batches of prompts")
        for _, columns in halving(batch, write)
    ]
    table = pd.concat(parts).sort_values("prompt_id")
    logger.info(
        "probability of the direction's class: %.3f greedily, %.3f steered; higher in %.1f %%",
        table["chosen_score"].mean(),
        table["rejected_score"].mean(),
        100 * (table["rejected_score"] > table["chosen_score"]).mean(),
    )
    made = {"weight_digest": weight_digest(model), "corpus": file_digest(corpus)}
    write_parquet(output, table, made | {"shard": shard, "direction": file_digest(direction)})


def choose_sentences(texts: list[str], number: int, seed: int) -> list[str]:
    """Return distinct sentences of texts in the order of a hash of seed and sentence.

    Raises ValueError where there are not as many.
    """
    pieces = (piece for text in texts for line in text.splitlines() for piece in split(line))
    distinct = {piece for piece in pieces if len(piece.split()) >= LEAST_WORDS}
    if len(distinct) < number:
        raise ValueError(
            f"preferences.number: {number} prompts were asked for, but the texts hold "
            f"{len(distinct)} distinct sentences of {LEAST_WORDS} words or more"
        )
    logger.info("%d of %d distinct sentences are continued", number, len(distinct))

    def shuffled(piece: str) -> str:
        return hashlib.sha256(f"{seed}\n{piece}".encode()).hexdigest()

    return sorted(distinct, key=shuffled)[:number]


def split(line: str) -> list[str]:
    """Return the sentences of a line."""
    return [piece.strip() for piece in BOUNDARY.split(line)]


def cut_at_words(tokenizer, texts: list[str], number: int) -> list[str]:
    """Cut texts behind the last word that ends within their first `number` tokens."""
    cut = []
    offsets = tokenizer(texts, return_offsets_mapping=True).offset_mapping
    for text, places in zip(texts, offsets, strict=True):
        if len(places) > number:
            end = places[number - 1][1]
            words = [match.end() for match in re.finditer(r"\S+", text) if match.end() <= end]
            text = text[: words[-1] if words else end]
        cut.append(text)
    return cut


if __name__ == "__main__":
    steer_continuations(
        model=snakemake.input.model,
        corpus=snakemake.input.corpus,
        direction=snakemake.input.direction,
        output=snakemake.output[0],
        shard=snakemake.wildcards.shard,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )
