"""Sample several continuations of each prompt from the base model, at a temperature."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

from pathlib import Path

import numpy as np
import pandas as pd
from neurondynamics.data.prompts import read_prompts
from neurondynamics.data.tables import write_parquet
from neurondynamics.lm.encoding import decode_continuations, encode_prompts
from neurondynamics.lm.generation import decode, prefill, sampling_uniforms, shard_batches
from neurondynamics.lm.loading import Reading, load_tokenizer, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.runtime import file_digest, progress


def sample_continuations(
    model: str,
    prompts: str,
    output: str,
    *,
    shard: str,
    reading: Reading,
    samples: int,
    temperature: float,
    new_tokens: int,
    seed: int,
) -> None:
    """Write a table with one row per prompt of a shard and sample, in their order.

    A sample depends on the seed, its prompt and its own number, not on the batches.
    """
    tokenizer = load_tokenizer(model)
    lm = reading.load(model)
    records = read_prompts(prompts)
    texts = [record["text"] for record in records]
    encoded = encode_prompts(tokenizer, texts, reading.max_tokens)
    lengths = [len(ids) for ids in encoded]
    batches = shard_batches(lengths, max(1, reading.batch_size // samples), shard)

    def sample(rows: np.ndarray) -> list[list[int]]:
        uniforms = [sampling_uniforms(seed, texts[i], samples, new_tokens) for i in rows]
        prefix = prefill(lm, [encoded[i] for i in rows]).repeat(samples)
        return decode(
            lm, prefix, new_tokens, uniforms=np.concatenate(uniforms), temperature=temperature
        ).lists()

    rows = []
    for batch in progress(batches, f"sampling {samples} continuations of each prompt"):
        for some, drawn in halving(batch, sample):
            read = [encoded[i] for i in some for _ in range(samples)]
            decoded = decode_continuations(tokenizer, read, drawn)
            for row, (tokens, text) in enumerate(zip(drawn, decoded, strict=True)):
                place, number = divmod(row, samples)
                record = records[some[place]]
                rows.append((record["prompt_id"], number, record["text"], text, tokens))
    table = pd.DataFrame(rows, columns=["prompt_id", "sample", "prompt", "text", "tokens"])
    made = {"weight_digest": weight_digest(model), "prompt_set_digest": file_digest(prompts)}
    made |= {"shard": shard, "samples": samples, "temperature": temperature}
    made["split"] = Path(prompts).stem
    write_parquet(output, table.sort_values(["prompt_id", "sample"]), made)


if __name__ == "__main__":
    sample_continuations(
        model=snakemake.input.model,
        prompts=snakemake.input.prompts,
        output=snakemake.output[0],
        shard=snakemake.wildcards.shard,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )
