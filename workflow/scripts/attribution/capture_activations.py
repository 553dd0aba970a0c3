"""Store the mean activation of every neuron and head over the new tokens of each prompt, for one
model state.

The model generates while its activations are read, or reads the continuations that another store
holds. Neurons may be ablated on the way. The rows of a store stand in the order of the batches, the
longest prompt first.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import torch
from neurondynamics.data.prompts import read_prompts
from neurondynamics.data.store import ActivationStore, create_store
from neurondynamics.data.tables import read_parquet
from neurondynamics.interventions.edits import applied
from neurondynamics.interventions.parts import Edit
from neurondynamics.interventions.selection import select
from neurondynamics.interventions.units import Units
from neurondynamics.lm.anatomy import Anatomy, dissect
from neurondynamics.lm.encoding import encode_prompts
from neurondynamics.lm.families import MODULES
from neurondynamics.lm.generation import (
    Continuations,
    NonFiniteError,
    decode,
    prefill,
    read_continuations,
    shard_batches,
)
from neurondynamics.lm.hooks import PositionMeans, head_sites, hooked, neuron_sites
from neurondynamics.lm.loading import (
    Reading,
    load_tokenizer,
    tokenizer_digest,
    weight_digest,
)
from neurondynamics.lm.memory import halving
from neurondynamics.runtime import file_digest, progress


def capture_activations(
    model: str,
    prompts: str,
    output: str,
    *,
    reading: Reading,
    texts: list[str],
    neurons: str | None,
    state: str,
    shard: str,
    ablated: int,
    origin: dict,
    new_tokens: int,
) -> None:
    """Write the store of one shard of the prompts.

    `texts` are the stores whose continuations are read; empty to generate. `neurons` is the
    neuron table whose `ablated` most toxic neurons are set to zero; None for no intervention.
    `origin` (model, revision, seed) is recorded. Raises ValueError, naming the prompt, where
    activations or logits are not finite, for texts of other prompts or decoding, and where both
    texts and neurons are given: neurons are ablated while generating only.
    """
    if texts and neurons is not None:
        raise ValueError(f"{state}: neurons are ablated while generating, not in given texts")
    tokenizer = load_tokenizer(model)
    lm = reading.load(model)
    anatomy = dissect(lm)
    records = read_prompts(prompts)
    encoded = encode_prompts(tokenizer, [record["text"] for record in records], reading.max_tokens)
    batches = shard_batches([len(ids) for ids in encoded], reading.batch_size, shard)
    read = {"prompt_set_digest": file_digest(prompts), "max_prompt_tokens": reading.max_tokens}
    greedy = {"method": "greedy", "new_tokens": new_tokens}
    given = stored_continuations(texts, read | {"decoding": greedy, "shard": shard})
    edits = [] if neurons is None else [ablation(neurons, ablated, weight_digest(model))]
    decoding = greedy if given is None else greedy | {"method": "given"}
    made = {**origin, "state": state, "shard": shard}
    made |= conditions(model, prompts, reading, decoding)
    own = [records[i]["text"].encode() for batch in batches for i in batch]
    sizes = {"prompts": len(own), "new_tokens": new_tokens, "text_bytes": sum(map(len, own))}

    def capture(rows: np.ndarray) -> tuple[Continuations, np.ndarray]:
        some = [records[i] for i in rows]
        told = None if given is None else [given[record["prompt_id"]] for record in some]
        try:
            return capture_batch(lm, anatomy, [encoded[i] for i in rows], told, new_tokens, edits)
        except NonFiniteError as error:
            culprit = some[error.rows[0]]
            raise ValueError(
                f"{error}; prompt {culprit['prompt_id']}: {culprit['text']!r}"
            ) from error

    with create_store(output, attributes=made, **sizes, **shape_of(anatomy)) as store:
        doing = f"capturing {state} in batches of {reading.batch_size} prompts"
        for batch in progress(batches, doing):
            for rows, (new, means) in halving(batch, capture):
                numbers = [records[i]["prompt_id"] for i in rows]
                store.append(
                    numbers, [records[i]["text"] for i in rows], new.tokens, new.lengths, means
                )


def shape_of(anatomy: Anatomy) -> dict:
    """Return what a store is told of a model's shape."""
    widths = {module: len(anatomy.layers[0].vectors(module)) for module in MODULES}
    return {"layers": len(anatomy.layers), "widths": widths}


def conditions(model: str, prompts: str, reading: Reading, decoding: dict) -> dict:
    """Return what a store records of how it was made."""
    return {
        "weight_digest": weight_digest(model),
        "tokenizer_digest": tokenizer_digest(model),
        "prompt_set_digest": file_digest(prompts),
        "dtype": reading.dtype,
        "decoding": decoding,
        "max_prompt_tokens": reading.max_tokens,
        "batch_size": reading.batch_size,
    }


def capture_batch(lm, anatomy, prompts, given, new_tokens, edits):
    """Return the continuations of a batch of prompts and, of each module, the means of what its
    projections read, (layers, b, inputs).

    `given` are the continuations that are read; None to generate, with the edits in force at the
    new-token positions, where activations are read.
    """
    recorder = PositionMeans([*neuron_sites(anatomy), *head_sites(anatomy)])
    if given is None:
        prefix = prefill(lm, prompts)
        with applied(anatomy, edits), hooked(recorder.hooks):
            new = decode(lm, prefix, new_tokens, recorder=recorder)
    else:
        new = Continuations.from_lists(given, new_tokens)
        with hooked(recorder.hooks):
            read_continuations(lm, prompts, new.lists(), recorder)
    layers = len(anatomy.layers)
    neurons, heads = (
        recorder.means(torch.float32, sites).numpy()
        for sites in (slice(layers), slice(layers, None))
    )
    return new, {"mlp": neurons, "attention": heads}


def stored_continuations(stores: list[str], made: dict) -> dict[int, list[int]] | None:
    """Return the continuations that stores hold by prompt_id; None if there are no stores.

    `made` is what the stores should record.
    """
    if not stores:
        return None
    with ActivationStore(stores, made, whole=False) as store:
        return dict(zip(store.prompt_ids.tolist(), store.continuations(), strict=True))


def ablation(neurons: str, number: int, weights: str) -> Edit:
    """Return the edit that sets the most toxic neurons of a table to zero.

    `weights` is the digest of the model; ValueError for a table about another one.
    """
    chosen = select(Units(read_parquet(neurons, weights=weights)), {"top": number}).neurons
    return Edit("zero", chosen.layer.to_numpy(), chosen.neuron.to_numpy())


if __name__ == "__main__":
    capture_activations(
        model=snakemake.input.model,
        prompts=snakemake.input.prompts,
        texts=snakemake.input.get("texts", []),
        neurons=snakemake.input.get("neurons"),
        output=snakemake.output[0],
        shard=snakemake.wildcards.shard,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )
