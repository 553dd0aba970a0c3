"""How much memory the jobs of a study need, from its configuration alone.

The formulas count what grows with the model and its batches: weights, key-value caches, logits,
recorded activations. They are for a model in the machine's own memory; of a model on a GPU most of
it is the GPU's. Only the standard library is imported: the Snakefile imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neurondynamics.experiments import all_edits, is_search
from neurondynamics.features import feature_sets, features_of
from neurondynamics.tunings import pair_tokens

SHAPE = ("layers", "neurons", "width", "key_value_width", "vocabulary", "parameters")
ITEM_BYTES = {"float32": 4, "bfloat16": 2}
HEAD_ROOM = 1.5  # what a rule is given over what it should need
# measured on the default study
PROCESS = 400e6  # the interpreter with torch and transformers
LIGHT_PROCESS = 500e6  # twice that of pandas with matplotlib: room for tables
PROFANITY = 300e6  # the interpreter with scikit-learn and the scorer, and texts
NEURON_BYTES = 500  # of a row of the neuron table, with the copies that a program makes of it
LABELLED = 200_000  # texts of a labelled dataset, known once it is fetched; Jigsaw has 159,571
CLASSIFIER = 3e9  # the largest of Detoxify's took 2.6e9 for 64 texts of 512 tokens
# what other modules, which import much more, do
TOKENS_PER_PASS = 1024  # of the text read at once for token losses


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
        """Recorded means of every neuron: float64 sums, and their means in float32."""
        return self.layers * self.neurons * rows * (8 + 4)

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
    """Return a configuration's model, in its own precision or another."""
    shape = {key: config["model"][key] for key in SHAPE}
    return Model(**shape, itemsize=ITEM_BYTES[dtype or config["model"]["dtype"]])


def memory(rule: str, config: dict, **wildcards: str) -> float:
    """Return the peak memory that a rule should need, in bytes.

    `wildcards` are those of the job: `split`, `features`, `direction`, `experiment`, `tuned` and
    `scorer` matter.
    """
    light = LIGHT_PROCESS + NEURON_BYTES * config["model"]["layers"] * config["model"]["neurons"]
    return _FORMULAS[rule](config, **wildcards) if rule in _FORMULAS else light


def given_mb(rule: str, config: dict, attempt: int, **wildcards: str) -> int:
    """Return the memory that a rule is given, in MB: with head room, and more at each attempt."""
    return round(HEAD_ROOM * attempt * memory(rule, config, **wildcards) / 1e6)


def is_gguf(version: dict) -> bool:
    """Return whether a version of a model comes as a GGUF file."""
    source = version.get("source", {})
    names = [file["path"] for file in source.get("files", [])]
    names += [source[key] for key in ("path", "url") if key in source]
    return any(name.endswith(".gguf") for name in names)


def _fetching(config: dict, fetched: str = "", **_) -> float:
    # a dequantised model and its plain copy
    copies = 2 if any(map(is_gguf, (config["model"], *config["tuned"].values()))) else 0
    # a tuned version may be an adapter, which is merged into the model; others are not loaded
    merged = model_of(config).weights if fetched in config["tuned"] else 0
    return PROCESS + max(merged, copies * model_of(config, "float32").weights)


def _sampling(config: dict, split: str, **_) -> float:
    model, generation = model_of(config), config["generation"]
    samples = config["sampling"]["samples"]
    at_once = min(config["prompts"][split]["number"], max(1, generation["batch_size"] // samples))
    prompt, new = config["prompts"]["max_tokens"], generation["new_tokens"]
    # the prompts' own cache stays beside that which is repeated for each sample
    own = model.cache(at_once, prompt)
    rows = at_once * samples
    return PROCESS + model.weights + own + model.caches(rows, prompt, new) + model.logits(rows)


def _steering(config: dict, **_) -> float:
    """Caches of every prompt: two, their offsets, leaves and gradients in float32, and what the
    backward pass keeps of them, with the copies that attention makes for each of its heads."""
    model, pairs = model_of(config), config["preferences"]
    rows = min(pairs["number"], config["generation"]["batch_size"])
    cache = model.cache(rows, pairs["prompt_tokens"] + pairs["new_tokens"])
    caches = cache * (5 + 3 * 4 / model.itemsize + 2 * model.width / model.key_value_width)
    embeddings = model.vocabulary * model.width * model.itemsize
    logits = model.logits(2 * rows * (1 + pairs["horizon"]))
    return PROCESS + model.weights + embeddings + caches + logits


def _capturing(config: dict, **_) -> float:
    model, rows = model_of(config), _analysed_rows(config)
    prompt, new = config["prompts"]["max_tokens"], config["generation"]["new_tokens"]
    decoding = model.caches(rows, prompt, new) + model.logits(rows)
    work = max(decoding, model.reading(rows * (prompt + new)))
    return PROCESS + model.weights + work + model.means(rows)


def labelled_texts(config: dict, features: dict) -> int:
    """Return how many texts features are of, at most; of a dataset it is a guess."""
    if "tokens" in features:
        return LABELLED
    prompts = (config["prompts"][split]["number"] for split in ("train", "analysis"))
    return config["sampling"]["samples"] * sum(prompts)


def _features(config: dict, features: dict) -> int:
    """Features of samples are in float64, those of a dataset in float32."""
    itemsize = 4 if "tokens" in features else 8
    return labelled_texts(config, features) * config["model"]["width"] * itemsize


def _extracting(config: dict, features: str, **_) -> float:
    model, wanted = model_of(config), feature_sets(config)[features]
    rows = min(labelled_texts(config, wanted), config["generation"]["batch_size"])
    read = model.reading(rows * wanted.get("tokens", _positions(config)))
    return PROCESS + model.weights + read + _features(config, wanted)


def _fitting(config: dict, direction: str, **_) -> float:
    """Features with copies of parts of them, as they are and standardised; then the model, which
    decodes the direction."""
    features = features_of(config, direction)
    fit = 0 if features is None else PROCESS + 6 * _features(config, features)
    return max(fit, _loading(config))


def _decomposing(config: dict, **_) -> float:
    """One model after the other in float32, and means at every site of the residual stream."""
    model, rows = model_of(config, "float32"), _analysed_rows(config)
    recorded = (2 * model.layers + 2) * model.width * rows * 2 * 8
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
    """What is trained, its gradients and moments, in float32; and a batch, two texts a pair.

    Adapters are few beside the model, which is merged with them in float32. Early stopping reads
    the best weights beside the last. Every process has all of this but its share of the batch.
    """
    model, version = model_of(config, "float32"), config["tuned"][tuned]
    computing = model_of(config, version.get("precision", "float32"))
    copies = 3 if version["optimizer"] == "rmsprop" else 4
    copies += "early_stopping" in version
    if "lora" in version:
        adapters = copies * model.adapters(version["lora"]["rank"])
        weights = computing.weights + model.weights + adapters
    else:
        weights = copies * model.weights
    tokens = 2 * version["batch_size"] * sum(pair_tokens(config, version))
    batch = computing.training(tokens, version.get("gradient_checkpointing", False))
    return version.get("gpus", 1) * (PROCESS + weights) + batch


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
    "steer_continuations": _steering,
    "score_continuations": _scoring,
    "tune_model": _tuning,
    "extract_features": _extracting,
    "fit_direction": _fitting,
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
