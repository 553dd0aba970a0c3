"""Let a model continue some of the evaluation prompts greedily, for the other model to read."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from neurondynamics.data.draws import drawn
from neurondynamics.data.prompts import read_prompts
from neurondynamics.data.tables import write_parquet
from neurondynamics.limits import FOLLOWED_TEXTS
from neurondynamics.lm.encoding import decode_continuations, encode_prompts
from neurondynamics.lm.fidelity import rounding
from neurondynamics.lm.generation import decode, prefill, sorted_batches
from neurondynamics.lm.loading import Reading, load_tokenizer, tokenizer_digest, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.runtime import file_digest, progress


def continue_prompts(
    model: str,
    prompts: str,
    texts: str,
    *,
    reading: Reading,
    number: int,
    new_tokens: int,
    seed: int,
) -> None:
    """Write a row per prompt, in the order of their numbers: what was read, what comes of it, and
    `kl_noise`, what rounding alone makes of a divergence along it.

    `number` of the prompts are drawn with `seed`, or all are taken where there are not as many.
    """
    tokenizer = load_tokenizer(model)
    lm = reading.load(model)
    records = read_prompts(prompts)
    records = [records[i] for i in drawn(len(records), number, seed)]
    encoded = encode_prompts(tokenizer, [record["text"] for record in records], reading.max_tokens)
    batches = list(sorted_batches([len(ids) for ids in encoded], reading.batch_size))

    def extend(rows: np.ndarray) -> list[list[int]]:
        return decode(lm, prefill(lm, [encoded[i] for i in rows]), new_tokens).lists()

    continued: dict[int, list[int]] = {}
    for batch in progress(batches, f"continuing {len(records)} prompts"):
        for rows, new in halving(batch, extend):
            continued |= dict(zip(rows.tolist(), new, strict=True))
    new = [continued[row] for row in range(len(records))]
    noise = np.empty(len(records))

    def read_again(rows: np.ndarray) -> np.ndarray:
        return rounding(lm, *([texts[i] for i in rows] for texts in (encoded, new)))

    batches = list(sorted_batches([len(ids) for ids in encoded], FOLLOWED_TEXTS))
    for batch in progress(batches, "reading in another batch size"):
        for rows, kl in halving(batch, read_again):
            noise[rows] = kl
    table = pd.DataFrame(
        {
            "prompt_id": [record["prompt_id"] for record in records],
            "prompt": [record["text"] for record in records],
            "prompt_tokens": encoded,
            "text": decode_continuations(tokenizer, encoded, new),
            "tokens": new,
            "kl_noise": noise,
        }
    )
    made = {"weight_digest": weight_digest(model), "prompt_set_digest": file_digest(prompts)}
    made["tokenizer_digest"] = tokenizer_digest(model)
    write_parquet(texts, table, made)


if __name__ == "__main__":
    continue_prompts(
        model=snakemake.input.model,
        prompts=snakemake.input.prompts,
        texts=snakemake.output.texts,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )
