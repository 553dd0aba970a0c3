"""Store every neuron's mean activation over the new tokens of each prompt, for one model state.

The model generates while its activations are read, or reads the continuations that another store
holds (the state `tuned-on-base-text`). Neurons may be ablated on the way (`base-ablated`).
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from neurondynamics.analysis.selection import select
from neurondynamics.data.records import read_jsonl
from neurondynamics.data.store import ActivationStore, create_store, rows_of_shard
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.generation import (
    Continuations,
    NonFiniteError,
    decode,
    prefill,
    read_continuations,
    sorted_batches,
)
from neurondynamics.lm.hooks import PositionMeans, hooked, neuron_sites
from neurondynamics.lm.interventions import Edit, applied
from neurondynamics.lm.loading import (
    encode_prompts,
    load_model,
    load_tokenizer,
    set_threads,
    tokenizer_digest,
    weight_digest,
)
from neurondynamics.runtime import file_digest, progress

BATCHES_PER_BLOCK = 4  # prompts are sorted by length within a block, and a block is held in memory


def capture_activations(
    model: str,
    prompts: str,
    output: str,
    *,
    texts: list[str],
    neurons: str | None,
    state: str,
    shard: str,
    ablated: int,
    origin: dict,
    dtype: str,
    device: str,
    threads: int,
    max_tokens: int,
    new_tokens: int,
    batch_size: int,
) -> None:
    """Write the store of one shard of the prompts.

    `texts` are the stores whose continuations are read; empty to generate. `neurons` is the
    neuron table whose `ablated` most toxic neurons are set to zero; None for no intervention.
    `origin` (model, revision, seed) is recorded in the store.
    Raises ValueError, naming the prompt, where activations or logits are not finite, and where
    both texts and neurons are given: neurons are ablated while generating only.
    """
    if texts and neurons is not None:
        raise ValueError(f"{state}: neurons are ablated while generating, not in given texts")
    set_threads(threads)
    tokenizer = load_tokenizer(model)
    lm = load_model(model, dtype, device)
    anatomy = dissect(lm)
    records = read_jsonl(prompts)
    records = records[rows_of_shard(len(records), shard)]
    given = stored_continuations(texts, [record["prompt_id"] for record in records])
    edits = [] if neurons is None else [ablation(neurons, ablated)]
    encoded = encode_prompts(tokenizer, [record["text"] for record in records], max_tokens)
    attributes = {
        **origin,
        "state": state,
        "shard": shard,
        "weight_digest": weight_digest(model),
        "tokenizer_digest": tokenizer_digest(model),
        "prompt_set_digest": file_digest(prompts),
        "dtype": dtype,
        "decoding": {"method": "greedy" if given is None else "given", "new_tokens": new_tokens},
        "max_prompt_tokens": max_tokens,
    }
    sizes = {"layers": len(anatomy.layers), "neurons": anatomy.layers[0].n_neurons}
    block = BATCHES_PER_BLOCK * batch_size
    starts = range(0, len(records), block)
    sizes |= {"prompts": len(records), "new_tokens": new_tokens}
    with create_store(output, attributes=attributes, **sizes) as store:
        for start in progress(starts, f"capturing {state} in blocks of {block} prompts"):
            rows = slice(start, start + block)
            told = None if given is None else given[rows]
            tokens, lengths, means = capture_block(
                lm, anatomy, encoded[rows], told, new_tokens, batch_size, records[rows], edits
            )
            numbers = [record["prompt_id"] for record in records[rows]]
            store.append(numbers, [r["text"] for r in records[rows]], tokens, lengths, means)


def capture_block(lm, anatomy, prompts, given, new_tokens, batch_size, records, edits):
    """Return tokens (b, T), lengths (b,) and means (layers, b, d_mlp) of a block of prompts.

    The edits are in force at the new-token positions, where activations are read.
    """
    lengths = [len(ids) for ids in prompts]
    parts, order = [], []
    for batch in sorted_batches(lengths, batch_size):
        recorder = PositionMeans(neuron_sites(anatomy))
        ids = [prompts[i] for i in batch]
        try:
            if given is None:
                prefix = prefill(lm, ids)
                with applied(anatomy, edits), hooked(recorder.hooks):
                    new = decode(lm, prefix, new_tokens, recorder=recorder)
            else:
                new = Continuations.from_lists([given[i] for i in batch], new_tokens)
                with hooked(recorder.hooks):
                    read_continuations(lm, ids, new.lists(), recorder)
        except NonFiniteError as error:
            culprit = records[batch[error.rows[0]]]
            raise ValueError(
                f"{error}; prompt {culprit['prompt_id']}: {culprit['text']!r}"
            ) from error
        parts.append((new.tokens, new.lengths, recorder.means().numpy()))
        order.extend(batch)
    back = np.argsort(order)
    tokens, counts, means = zip(*parts, strict=True)
    return (
        np.concatenate(tokens)[back],
        np.concatenate(counts)[back],
        np.concatenate(means, axis=1)[:, back],
    )


def stored_continuations(stores: list[str], prompt_ids: list[int]) -> list[list[int]] | None:
    """Return the continuations that stores hold for some prompts; None if there are no stores."""
    if not stores:
        return None
    with ActivationStore(stores) as store:
        known = dict(zip(store.prompt_ids.tolist(), store.continuations(), strict=True))
    return [known[number] for number in prompt_ids]


def ablation(neurons: str, number: int) -> Edit:
    """Return the edit that sets the most toxic neurons of a table to zero."""
    chosen = select(pd.read_parquet(neurons), {"top": number})
    return Edit("zero", chosen.layer.to_numpy(), chosen.neuron.to_numpy())


if __name__ == "__main__":
    capture_activations(
        model=snakemake.input.model,
        prompts=snakemake.input.prompts,
        texts=snakemake.input.get("texts", []),
        neurons=snakemake.input.get("neurons"),
        output=snakemake.output[0],
        shard=snakemake.wildcards.shard,
        threads=snakemake.threads,
        **snakemake.params.settings,
    )
