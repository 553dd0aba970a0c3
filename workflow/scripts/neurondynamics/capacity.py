"""How much memory and disk a study needs, from its configuration alone.

The formulas count what grows with the model and its batches: weights, key-value caches, logits,
recorded activations. They are for a model in the machine's own memory; of a model on a GPU most of
it is the GPU's. Only the standard library is imported: the Snakefile imports this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from neurondynamics.experiments import all_edits, is_search

SHAPE = ("layers", "neurons", "width", "key_value_width", "vocabulary", "parameters")
ITEM_BYTES = {"float32": 4, "bfloat16": 2}
HEAD_ROOM = 1.5  # what a rule is given over what it should need
# measured on the default study
PROCESS = 400e6  # the interpreter with torch and transformers
LIGHT_PROCESS = 500e6  # twice that of pandas with matplotlib: room for tables
PROFANITY = 300e6  # the interpreter with scikit-learn and the scorer, and texts
NEURON_BYTES = 500  # of a row of the neuron table, with the copies that a program makes of it
NEURON_ROW = 120  # bytes of a neuron in the table's file
CLASSIFIER = 3e9  # not measured: torch, a model of BERT's size and a batch of texts
# what other modules, which import much more, do
TOKENS_PER_PASS = 1024  # of the text read at once for token losses
ROWS_PER_CHUNK = 16  # of a store; a chunk that is not full takes as much
GROUPS = 9  # of neurons, with those that nothing moved


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

    def means(self, rows: int) -> float:
        """Recorded means of every neuron: float64 sums, stacked and divided, and in float32."""
        return self.layers * self.neurons * rows * (3 * 8 + 4)

    def reading(self, tokens: int) -> float:
        """One layer's activations while texts are read: MLP, attention, residual stream; and a
        recorder's copy in float64."""
        per_token = (3 * self.neurons + 6 * self.width) * self.itemsize + 2 * 8 * self.neurons
        return tokens * per_token

    def caches(self, rows: int, prompt: int, new: int) -> float:
        """The cache of prompts, and its copy with room for new tokens."""
        return self.cache(rows, prompt) + self.cache(rows, prompt + new)

    def training(self, tokens: int) -> float:
        """What a backward pass needs of a batch: every layer's activations, and the logits with
        their gradients."""
        per_layer = 4 * self.neurons + 8 * self.width
        return tokens * (self.layers * per_layer + 4 * self.vocabulary) * self.itemsize


def model_of(config: dict, dtype: str | None = None) -> Model:
    """Return a configuration's model, in its own precision or another."""
    shape = {key: config["model"][key] for key in SHAPE}
    return Model(**shape, itemsize=ITEM_BYTES[dtype or config["model"]["dtype"]])


def memory(rule: str, config: dict, **wildcards: str) -> float:
    """Return the peak memory that a rule should need, in bytes.

    `wildcards` are those of the job: `split`, `experiment`, `tuned` and `scorer` matter.
    """
    light = LIGHT_PROCESS + NEURON_BYTES * config["model"]["layers"] * config["model"]["neurons"]
    return _FORMULAS[rule](config, **wildcards) if rule in _FORMULAS else light


def given_mb(rule: str, config: dict, attempt: int, **wildcards: str) -> int:
    """Return the memory that a rule is given, in MB: with head room, and more at each attempt."""
    return round(HEAD_ROOM * attempt * memory(rule, config, **wildcards) / 1e6)


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
    tuned = sum("source" not in version for version in versions)
    float32, stored = model_of(config, "float32").weights, model_of(config).weights
    return {
        "base model": (1, float32 if _is_gguf(model) else stored),
        "tuned models": (tuned, float32),
        "fetched tuned models": (len(versions) - tuned, stored),
        "stores of activations": (1 + 2 * len(versions) + originals, store_bytes(config)),
        "tables of neurons": (len(versions), NEURON_ROW * neurons),
        "reductions by prompt": (len(versions), 3 * 8 * number * model["layers"] * GROUPS),
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


def _is_gguf(version: dict) -> bool:
    files = version.get("source", {}).get("files", [])
    return any(file["path"].endswith(".gguf") for file in files)


def _fetching(config: dict, **_) -> float:
    # a dequantised model and its plain copy; the weights of others are not loaded
    copies = 2 if any(map(_is_gguf, (config["model"], *config["tuned"].values()))) else 0
    return PROCESS + copies * model_of(config, "float32").weights


def _sampling(config: dict, split: str, **_) -> float:
    model, generation = model_of(config), config["generation"]
    samples = config["sampling"]["samples"]
    at_once = min(config["prompts"][split]["number"], max(1, generation["batch_size"] // samples))
    prompt, new = config["prompts"]["max_tokens"], generation["new_tokens"]
    # the prompts' own cache stays beside that which is repeated for each sample
    own = model.cache(at_once, prompt)
    rows = at_once * samples
    return PROCESS + model.weights + own + model.caches(rows, prompt, new) + model.logits(rows)


def _capturing(config: dict, **_) -> float:
    model, rows = model_of(config), _analysed_rows(config)
    prompt, new = config["prompts"]["max_tokens"], config["generation"]["new_tokens"]
    decoding = model.caches(rows, prompt, new) + model.logits(rows)
    work = max(decoding, model.reading(rows * (prompt + new)))
    return PROCESS + model.weights + work + model.means(rows)


def _fitting(config: dict, **_) -> float:
    model = model_of(config)
    texts = config["sampling"]["samples"] * sum(
        config["prompts"][split]["number"] for split in ("train", "analysis")
    )
    rows = min(texts, config["generation"]["batch_size"])
    return PROCESS + model.weights + model.reading(rows * _positions(config))


def _decomposing(config: dict, **_) -> float:
    """One model after the other in float32, and means at every site of the residual stream."""
    model, rows = model_of(config, "float32"), _analysed_rows(config)
    recorded = (2 * model.layers + 2) * model.width * rows * 3 * 8
    return PROCESS + model.weights + model.reading(rows * _positions(config)) + recorded


def _experimenting(config: dict, experiment: str, **_) -> float:
    model, generation, corpus = model_of(config), config["generation"], config["corpus"]
    experiments = config["experiments"]
    chosen = experiments[experiment]
    split = "analysis" if is_search(chosen) else "evaluation"
    texts = config["prompts"][split]["number"] + corpus["continuations"]
    rows = min(texts, generation["batch_size"])
    prompt = max(config["prompts"]["max_tokens"], corpus["passage_tokens"])
    width = corpus["window_tokens"]
    tokens = width * min(corpus["windows"], max(1, TOKENS_PER_PASS // width))
    paired = any(edit.get("mode") == "paired" for edit in all_edits(experiments, chosen))
    models = 2 if paired else 1
    caches = models * model.caches(rows, prompt, generation["new_tokens"])
    work = max(caches + model.logits(rows), model.logits(tokens))
    return PROCESS + models * model.weights + work


def _tuning(config: dict, tuned: str, **_) -> float:
    """Weights, gradients and the optimiser's moments, and a batch: two texts a pair, in float32."""
    model, version = model_of(config, "float32"), config["tuned"][tuned]
    copies = 3 if version["optimizer"] == "rmsprop" else 4
    tokens = 2 * version["batch_size"] * _positions(config)
    return PROCESS + copies * model.weights + model.training(tokens)


def _attributing(config: dict, **_) -> float:
    """One model at a time, the neuron table, and a layer of 256 prompts with float64 products."""
    return _loading(config) + 256 * (4 + 2 * 8) * config["model"]["neurons"]


def _loading(config: dict, **_) -> float:
    model = model_of(config)
    return PROCESS + model.weights + NEURON_BYTES * model.layers * model.neurons


def _exporting(config: dict, **_) -> float:
    """The model and its changed copy, in whatever precision it is stored: float32 at most."""
    return PROCESS + 2 * model_of(config, "float32").weights


def _measuring(config: dict, **_) -> float:
    """The matrices of a layer's size that a machine's speed is measured with, as made and cast."""
    model = model_of(config, "float32")
    return PROCESS + 2 * max(3e8, 2 * model.width * model.neurons * model.itemsize)


def _scoring(config: dict, scorer: str | None = None, **_) -> float:
    kind = config["scorers"][scorer or config["sampling"]["scorer"]]["kind"]
    return CLASSIFIER if kind in ("detoxify", "classifier") else PROFANITY


def _positions(config: dict) -> int:
    return config["prompts"]["max_tokens"] + config["generation"]["new_tokens"]


def _analysed_rows(config: dict) -> int:
    return min(config["prompts"]["analysis"]["number"], config["generation"]["batch_size"])


_FORMULAS: dict[str, Callable[..., float]] = {
    "fetch_model": _fetching,
    "sample_continuations": _sampling,
    "score_continuations": _scoring,
    "tune_model": _tuning,
    "fit_direction": _fitting,
    "collect_directions": _loading,
    "capture_base_activations": _capturing,
    "capture_activations": _capturing,
    "attribute_neurons": _attributing,
    "project_layers": _attributing,
    "decode_neurons": _loading,
    "decompose_shift": _decomposing,
    "run_experiment": _experimenting,
    "score_generations": _scoring,
    "export_model": _exporting,
    "estimate": _measuring,
}
