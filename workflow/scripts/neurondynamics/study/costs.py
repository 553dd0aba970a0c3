"""What a model and its work cost: sizes of its parts, and the time of tokens that run through it.

The formulas count what grows with the model and its batches: weights, key-value caches, logits,
recorded activations. They are for a model in the machine's own memory; of a model on a GPU most of
it is the GPU's. Only light modules are imported: the Snakefile imports this one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from neurondynamics.limits import ROWS_PER_CHUNK

SHAPE = ("layers", "neurons", "width", "key_value_width", "vocabulary", "parameters")
HEADS = ("heads", "head_width")  # need not be stated with it
ITEM_BYTES = {"float32": 4, "bfloat16": 2}
HEAD_ROOM = 1.5  # what a rule is given over what it should need
# measured on the default study, in float32 on two CPU cores
PROCESS = 400e6  # the interpreter with torch and transformers
LIGHT_PROCESS = 500e6  # twice that of pandas with matplotlib: room for tables
NEURON_BYTES = 500  # of a row of the neuron table, with the copies that a program makes of it
START = 4.0  # seconds until a job has imported its libraries
LOADED = 5e8  # bytes of weights or activations that are read in a second
READING, DECODING, TRAINING = 0.75, 0.52, 0.47  # of a matrix product's speed, what models reach


@dataclass(frozen=True)
class Model:
    """A model's shape in a precision of `itemsize` bytes; its methods return bytes."""

    layers: int
    neurons: int  # per layer, d_mlp
    width: int  # d_model
    key_value_width: int  # heads of keys x their size
    vocabulary: int
    parameters: int
    itemsize: int
    attention_width: int  # inputs of the output projection: heads x head_width

    @property
    def weights(self) -> float:
        """parameters x itemsize."""
        return self.parameters * self.itemsize

    def cache(self, rows: int, positions: int) -> float:
        """Keys and values: 2 x layers x key_value_width for each of rows x positions tokens."""
        return 2 * self.layers * self.key_value_width * self.itemsize * rows * positions

    def logits(self, tokens: int) -> float:
        """Logits of some tokens, with the float32 and float64 copies that a softmax makes."""
        return tokens * self.vocabulary * (self.itemsize + 4 + 8)

    @property
    def inputs(self) -> int:
        """What a layer's down and output projections read of a token."""
        return self.neurons + self.attention_width

    def means(self, rows: int) -> float:
        """Recorded means of every neuron and head: float64 sums, and their means in float32."""
        return self.layers * self.inputs * rows * (8 + 4)

    def reading(self, tokens: int) -> float:
        """One layer's activations while texts are read: MLP, attention, residual stream; and a
        recorder's copies, one in float64."""
        per_token = (4 * self.neurons + 6 * self.width) * self.itemsize + 8 * self.neurons
        return tokens * per_token

    def caches(self, rows: int, prompt: int, new: int) -> float:
        """The cache of prompts, and its copy with room for new tokens."""
        return self.cache(rows, prompt) + self.cache(rows, prompt + new)

    def training(self, tokens: int, checkpointed: bool = False) -> float:
        """What a backward pass needs of a batch: every layer's activations, or one layer's and the
        others' inputs; and the logits with their gradients."""
        layer = 4 * self.neurons + 8 * self.width
        kept = self.layers * self.width + layer if checkpointed else self.layers * layer
        return tokens * (kept + 4 * self.vocabulary) * self.itemsize

    def adapters(self, rank: int) -> float:
        """Two matrices of a rank for each linear layer of attention and a gated MLP."""
        return self.layers * rank * (11 * self.width + 3 * self.neurons) * self.itemsize


def model_of(config: dict, dtype: str | None = None) -> Model:
    """Return a configuration's model, in its own precision or another.

    Where the heads are neither stated nor read, they are taken to be as wide as the residual
    stream, as those of most models are.
    """
    stated = config["model"]
    shape = {key: stated[key] for key in SHAPE}
    heads = math.prod(stated[key] for key in HEADS) if set(HEADS) <= set(stated) else None
    itemsize = ITEM_BYTES[dtype or stated["dtype"]]
    return Model(**shape, itemsize=itemsize, attention_width=heads or stated["width"])


def loading(config: dict, **_) -> float:
    """Return the memory of a process with the model and the table of neurons."""
    model = model_of(config)
    return PROCESS + model.weights + NEURON_BYTES * model.layers * model.neurons


def lengths(config: dict) -> tuple[int, int]:
    """Return how many tokens prompts and continuations have, at most."""
    return config["prompts"]["max_tokens"], config["generation"]["new_tokens"]


def analysed_rows(config: dict) -> int:
    """Return how many analysis prompts are in a batch."""
    return min(config["prompts"]["analysis"]["number"], config["generation"]["batch_size"])


@dataclass(frozen=True)
class Work:
    """The jobs of a rule that differ in their shard alone, and what they do in all.

    `read`, `decoded` and `trained` count tokens that run through a model: many at once; one of
    each text at a time; forward and backward. `models` and `stores` are how many models a job
    loads and how many states' activations it reads.
    """

    rule: str
    wildcards: dict[str, str] = field(default_factory=dict)
    jobs: int = 1
    read: int = 0
    decoded: int = 0
    trained: int = 0
    models: int = 1
    stores: int = 0

    def time(self, config: dict) -> dict[str, float]:
        """Return how long the jobs take one after another: `seconds` that they start and load, and
        FLOP, at the speed of a matrix product of the model's size, with `many` rows and with
        `few`, as many as a batch has texts.

        A token is 2 x parameters FLOP (Kaplan et al., arXiv 2001.08361), and three times as many
        where it is trained on; models reach a part of a product's speed.
        """
        model = model_of(config)
        loaded = self.models * model.weights + self.stores * store_bytes(config)
        per_token = 2 * model.parameters
        return {
            "seconds": self.jobs * (START + loaded / LOADED),
            "many": per_token * (self.read / READING + 3 * self.trained / TRAINING),
            "few": per_token * self.decoded / DECODING,
        }


def store_bytes(config: dict) -> int:
    """Return the size of one state's store, of all its shards.

    A row is the means of all layers, the new tokens, the prompt's number and length, 4 bytes each.
    """
    model, new = model_of(config), config["generation"]["new_tokens"]
    row = 4 * (model.layers * model.inputs + new + 2)
    return row * sum(map(_rows_in_chunks, _rows_of_shards(config)))


def _rows_of_shards(config: dict) -> list[int]:
    """Return how many analysis prompts each shard holds: runs of whole batches."""
    number, size = config["prompts"]["analysis"]["number"], config["generation"]["batch_size"]
    batches, shards = math.ceil(number / size), config["shards"]
    ends = [min(number, size * (batches * shard // shards)) for shard in range(shards + 1)]
    return [end - start for start, end in pairwise(ends)]


def _rows_in_chunks(rows: int) -> int:
    chunk = min(ROWS_PER_CHUNK, rows)
    return chunk * math.ceil(rows / chunk)
