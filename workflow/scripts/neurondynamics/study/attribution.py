"""Captured states and the attribution of neurons and heads: what a configuration says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from neurondynamics.limits import FOLLOWED_TEXTS, GRADIENT_TEXTS, LOGITS_OF_GRADIENTS
from neurondynamics.runtime import shown_url
from neurondynamics.study import costs
from neurondynamics.study.costs import (
    PROCESS,
    Work,
    analysed_rows,
    lengths,
    model_of,
)
from neurondynamics.study.schema import ORIGINS
from neurondynamics.study.stage import Stage, direction_file


class State(NamedTuple):
    """A state whose activations are stored: the `model`, `base` or `tuned`, and the state whose
    `text` it reads, if it does not write its own; `ablated` neurons are set to zero."""

    model: str
    text: str | None = None
    ablated: bool = False

    @property
    def owner(self) -> str:
        """The folder of its store: only the base model as it is needs no tuned version."""
        return "base" if self == State("base") else "{tuned}"


STATES = {
    "base": State("base"),
    "base-ablated": State("base", ablated=True),
    "tuned": State("tuned"),
    "tuned-on-base-text": State("tuned", text="base"),
}
OF_REPLICAS = ("tuned", "tuned-on-base-text")  # states of a version that is tuned once more
COMPARED = ("base", "tuned", "tuned-on-base-text")  # by the attribution
WIDEST_HEAD = 256  # of the families that are known


class Attribution(Stage):
    """What the rules of activations and attribution take."""

    @property
    def direction(self) -> str:
        """The file of the study's direction: interventions and figures use it."""
        return direction_file(self.config["attribution"]["directions"][0])

    def store(self, state: str) -> str:
        """Return the store of a state, with model, version and shard as wildcards."""
        return f"results/{{model}}/{STATES[state].owner}/activations/{state}/{{shard}}.h5"

    def stores(self, *states: str) -> dict[str, list[str]]:
        """Return the shards of states' stores, by name with underscores."""
        return {state.replace("-", "_"): self.sharded(self.store(state)) for state in states}

    def states_by_model(self) -> dict[str, dict[str, str]]:
        """Return the states that run on each model, with the names that `stores` gives them."""
        found: dict[str, dict[str, str]] = {"base": {}, "tuned": {}}
        for name, state in STATES.items():
            found[state.model][name] = name.replace("-", "_")
        return found

    def captured_model(self, wildcards) -> str:
        """Return the folder of the model that a state runs on."""
        state = STATES[wildcards.state]
        return self.base_model(wildcards) if state.model == "base" else self.tuned_model(wildcards)

    def captured_inputs(self, wildcards) -> dict:
        """Return what a state's capture needs beside model and prompts.

        `texts` are the stores whose continuations the model reads instead of generating; `neurons`
        is the table from which neurons are ablated.
        """
        state, found = STATES[wildcards.state], {}
        if state.text is not None:
            found["texts"] = [self.store(state.text).format(**dict(wildcards.items()))]
        if state.ablated:
            found["neurons"] = f"results/{wildcards.model}/{wildcards.tuned}/neurons.parquet"
        return found

    def capture(self, wildcards) -> dict:
        """Return what state is captured, and what its store records of the model's origin."""
        name = wildcards.get("state", "base")
        state, model, tuned = STATES[name], self.config["model"], None
        if state.model == "tuned":
            tuned = self.config["tuned"][wildcards.tuned]
        source = model["source"] if tuned is None else tuned.get("source")
        if source is None:
            revision = f"tuned with {tuned['method']}, seed {tuned['seed']}"
        else:
            said = (*ORIGINS, "revision")
            revision = shown_url(" ".join(source[key] for key in said if key in source))
        named = model["name"] if tuned is None else f"{model['name']}/{wildcards.tuned}"
        return {
            "state": name,
            "ablated": self.config["attribution"]["ablated"] if state.ablated else 0,
            "origin": {"model": named, "revision": revision, "seed": self.config["seed"]},
            "new_tokens": self.config["generation"]["new_tokens"],
        }

    def nulls(self) -> dict:
        """Return how many draws there are of each null, and in which precision models are read."""
        return {
            "draws": self.config["attribution"]["nulls"],
            "dtype": self.config["model"]["dtype"],
            "seed": self.config["seed"],
        }

    def gradients(self) -> dict:
        """Return on how many analysis prompts, and at how many points between the models, the
        gradients of units are taken."""
        return {**self.config.get("gradients", {}), "seed": self.config["seed"]}

    def groups(self) -> list[str]:
        """Return the tables of groups of every direction that neurons are attributed along."""
        first, *others = self.config["attribution"]["directions"]
        folders = {first: "tables", **{name: f"directions/{name}" for name in others}}
        return [f"results/{{model}}/{{tuned}}/{folder}/groups.csv" for folder in folders.values()]

    def _seeded(self, wildcards) -> list[str]:
        """Return the names of a version and of its replicas: the same tuning, further seeds."""
        versions = self.config["tuned"].items()
        replicas = [name for name, v in versions if v.get("replica_of") == wildcards.tuned]
        return [wildcards.tuned, *replicas]

    def seeds(self, wildcards) -> list[int]:
        """Return the seeds of a version and of its replicas."""
        return [self.config["tuned"][name].get("seed") for name in self._seeded(wildcards)]

    def attributions_by_seed(self, wildcards) -> dict[str, list[str]]:
        """Return the attributions of a version and of its replicas."""
        files = {
            "neurons": "neurons.parquet",
            "reductions": "prompt_reductions.h5",
            "groups": "tables/groups.csv",
        }
        return {
            key: [f"results/{wildcards.model}/{name}/{file}" for name in self._seeded(wildcards)]
            for key, file in files.items()
        }


def contradictions(config: dict) -> Iterator[str]:
    """Yield what does not go together in `attribution`, a line each."""
    neurons = config["model"]["layers"] * config["model"]["neurons"]
    for key in ("ablated", "decoded"):
        if config["attribution"][key] > neurons:
            yield f"attribution.{key}: the model has only {neurons} neurons"


def _capturing(config: dict, **_) -> float:
    model, rows = model_of(config), analysed_rows(config)
    prompt, new = lengths(config)
    decoding = model.caches(rows, prompt, new) + model.logits(rows)
    work = max(decoding, model.reading(rows * (prompt + new)))
    return PROCESS + model.weights + work + model.means(rows)


def _decomposing(config: dict, **_) -> float:
    """One model after the other in float32, and means at every site of the residual stream."""
    model, rows = model_of(config, "float32"), analysed_rows(config)
    recorded = (2 * model.layers + 2) * model.width * rows * 2 * 8
    return PROCESS + model.weights + model.reading(rows * sum(lengths(config))) + recorded


def _attributing(config: dict, **_) -> float:
    """One model at a time, the neuron table, and a layer of 256 prompts with float64 products."""
    return costs.loading(config) + 256 * (4 + 2 * 8) * config["model"]["neurons"]


def _comparing(config: dict, **_) -> float:
    """A weight of both models and their difference in float64, with a Gram matrix."""
    model = model_of(config)
    return PROCESS + 4 * 8 * model.width * max(model.vocabulary, model.neurons)


def _changing(config: dict, **_) -> float:
    """Both models, what one does on a few texts, and its heads' Gram matrices in float64."""
    model, (prompt, new) = model_of(config), lengths(config)
    rows = min(analysed_rows(config), FOLLOWED_TEXTS)
    heard = rows * new * model.layers * model.inputs * model.itemsize
    grams = model.layers * model.attention_width * WIDEST_HEAD * 8
    return PROCESS + 2 * model.weights + model.reading(rows * (prompt + new)) + heard + grams


def _gradients(config: dict, **_) -> float:
    """The tuned model and one between both, a weight and its gradient, and a backward pass in a few
    texts, whose logits are taken in blocks."""
    model = model_of(config)
    rows = min(config["gradients"]["prompts"], GRADIENT_TEXTS)
    pass_back = replace(model, vocabulary=0).training(rows * sum(lengths(config)))
    weight = 3 * model.width * model.neurons * model.itemsize
    return PROCESS + 2 * model.weights + pass_back + weight + 4 * 4 * LOGITS_OF_GRADIENTS


def _nulls(config: dict, **_) -> float:
    """One model, what every direction says of every neuron, and a layer of all prompts."""
    model, draws = model_of(config), config["attribution"]["nulls"]
    neurons = model.layers * model.neurons
    of_prompts = config["prompts"]["analysis"]["number"]
    sums = 2 * draws * of_prompts * model.layers * 9 * 8
    layer = 8 * of_prompts * model.neurons * 8
    return PROCESS + model.weights + 5 * draws * neurons * 8 + sums + layer


MEMORY = {
    "measure_nulls": _nulls,
    "measure_gradients": _gradients,
    "measure_change": _changing,
    "attribute_heads": _attributing,
    "tabulate_weights": _comparing,
    "capture_base_activations": _capturing,
    "capture_activations": _capturing,
    "attribute_neurons": _attributing,
    "attribute_direction": _attributing,
    "project_layers": _attributing,
    "decode_neurons": costs.loading,
    "decompose_shift": _decomposing,
}


def work_of_capture(config: dict, state: str, tuned: str | None = None) -> Work:
    """Return the work of capturing a state."""
    analysed, (prompt, new) = config["prompts"]["analysis"]["number"], lengths(config)
    tokens = {"read": analysed * prompt, "decoded": analysed * new}
    if STATES[state].text is not None:
        tokens = {"read": analysed * (prompt + new)}
    if tuned is None:
        return Work("capture_base_activations", {}, config["shards"], **tokens)
    wildcards = {"tuned": tuned, "state": state}
    return Work("capture_activations", wildcards, config["shards"], **tokens)


def work_of_attribution(config: dict, name: str) -> Iterator[Work]:
    """Yield the work of a version's states and attributions; a replica has fewer."""
    tuned, replica = {"tuned": name}, "replica_of" in config["tuned"][name]
    for state in STATES:
        if state in OF_REPLICAS:
            yield work_of_capture(config, state, name)
    tokens = config["prompts"]["analysis"]["number"] * sum(lengths(config))
    yield Work("measure_change", tuned, read=2 * tokens, models=2)
    yield Work("attribute_neurons", tuned, models=2, stores=2 * len(COMPARED))  # read twice
    if replica:
        return
    for state in STATES:
        if STATES[state].owner != "base" and state not in OF_REPLICAS:
            yield work_of_capture(config, state, name)
    for direction in config["attribution"]["directions"][1:]:
        job = {**tuned, "direction": direction}
        yield Work("attribute_direction", job, models=2, stores=2 * len(COMPARED))
    yield Work("attribute_heads", tuned, models=2, stores=len(COMPARED))
    if "gradients" in config:
        stated = config["gradients"]
        tokens = stated["prompts"] * sum(lengths(config))
        passes = {
            "read": (3 + stated["points"]) * tokens,
            "trained": (1 + stated["points"]) * tokens,
        }
        yield Work("measure_gradients", tuned, **passes, models=2)
    yield Work("measure_nulls", tuned, models=2, stores=2)
    yield Work("project_layers", tuned, models=2, stores=len(STATES))
    yield Work("decode_neurons", tuned)
    yield Work("tabulate_weights", tuned, models=2)
    yield Work("decompose_shift", tuned, read=len(COMPARED) * tokens, models=2)
