"""How much disk a study takes up, from its configuration alone."""

from __future__ import annotations

import math
from itertools import pairwise

from neurondynamics.capacity import is_gguf, model_of

NEURON_ROW = 120  # bytes of a neuron in the table's file
# what other modules, which import much more, do
ROWS_PER_CHUNK = 16  # of a store; a chunk that is not full takes as much
GROUPS = 9  # of neurons, with those that nothing moved


def store_bytes(config: dict) -> int:
    """Return the size of one state's store, of all its shards.

    A row is layers x neurons means, the new tokens, the prompt's number and length, 4 bytes each.
    """
    model, new = config["model"], config["generation"]["new_tokens"]
    row = 4 * (model["layers"] * model["neurons"] + new + 2)
    return row * sum(map(_rows_in_chunks, _rows_of_shards(config)))


def disk(config: dict) -> dict[str, tuple[int, int]]:
    """Return what takes up the disk, by name: how many of a kind, and the bytes of each.

    The configuration holds its replicas. Models that are brought are taken to be stored as they
    run, those from a GGUF file and those tuned here are stored in float32.
    """
    versions = config["tuned"].values()
    originals = sum("replica_of" not in version for version in versions)
    model, number = config["model"], config["prompts"]["analysis"]["number"]
    neurons = model["layers"] * model["neurons"]
    further = len(config["attribution"]["directions"]) - 1  # which replicas have not
    attributions = len(versions) + further * originals
    tuned = sum("source" not in version for version in versions)
    float32, stored = model_of(config, "float32").weights, model_of(config).weights
    return {
        "base model": (1, float32 if is_gguf(model) else stored),
        "tuned models": (tuned, float32),
        "fetched tuned models": (len(versions) - tuned, stored),
        "stores of activations": (1 + 2 * len(versions) + originals, store_bytes(config)),
        "tables of neurons": (attributions, NEURON_ROW * neurons),
        "reductions by prompt": (attributions, 3 * 8 * number * model["layers"] * GROUPS),
    }


def _rows_of_shards(config: dict) -> list[int]:
    """Return how many analysis prompts each shard holds: runs of whole batches."""
    number, size = config["prompts"]["analysis"]["number"], config["generation"]["batch_size"]
    batches, shards = math.ceil(number / size), config["shards"]
    ends = [min(number, size * (batches * shard // shards)) for shard in range(shards + 1)]
    return [end - start for start, end in pairwise(ends)]


def _rows_in_chunks(rows: int) -> int:
    chunk = min(ROWS_PER_CHUNK, rows)
    return chunk * math.ceil(rows / chunk)
