"""The jobs of a study that hold a model or score texts, what they compute, and how long it takes.

All follows from the configuration, before anything is fetched. Prompts are taken to be as long as
`prompts.max_tokens` and continuations not to end early, so that work is counted from above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from neurondynamics.capacity import labelled_texts, model_of
from neurondynamics.experiments import is_search, with_controls
from neurondynamics.features import feature_sets, sampled_splits
from neurondynamics.storage import store_bytes
from neurondynamics.tunings import pair_tokens

# measured on the default study, in float32 on two CPU cores
MIXED = 0.3  # of the sampled texts, those of prompts with toxic and other samples
START = 4.0  # seconds until a job has imported its libraries
LOADED = 5e8  # bytes of weights or activations that are read in a second
READING, DECODING, TRAINING = 0.75, 0.52, 0.47  # of a matrix product's speed, what models reach


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

    def seconds(self, config: dict, reading_speed: float, decoding_speed: float) -> float:
        """Return how long the jobs take one after another, in seconds.

        The speeds are those of a matrix product of the model's size, in FLOP per second, with many
        rows and with as many as a batch has texts. A token is 2 x parameters FLOP (Kaplan et al.,
        arXiv 2001.08361), and three times as many where it is trained on.
        """
        model = model_of(config)
        loaded = self.models * model.weights + self.stores * store_bytes(config)
        per_token = 2 * model.parameters
        return (
            self.jobs * (START + loaded / LOADED)
            + per_token * self.read / (READING * reading_speed)
            + per_token * self.decoded / (DECODING * decoding_speed)
            + per_token * 3 * self.trained / (TRAINING * reading_speed)
        )


def work_of(config: dict) -> Iterator[Work]:
    """Yield the work of a whole study; its configuration is checked and holds its replicas."""
    yield Work("fetch_model", {"fetched": config["model"]["name"]})
    samples = config["sampling"]["samples"]
    prompt, new = _lengths(config)
    for split in sampled_splits(config):
        number = config["prompts"][split]["number"]
        tokens = {"read": number * prompt, "decoded": number * samples * new}
        yield Work("sample_continuations", {"split": split}, config["shards"], **tokens)
        yield Work("score_continuations", {"split": split}, config["shards"], models=0)
    if config["preferences"]["method"] == "steered":
        yield _steered(config)
    for name, wanted in feature_sets(config).items():
        per_text = wanted.get("tokens", MIXED * (prompt + new))
        read = round(labelled_texts(config, wanted) * per_text)
        yield Work("extract_features", {"features": name}, read=read)
    for name in config["directions"]:
        yield Work("fit_direction", {"direction": name})
    yield _generating(config, "capture_base_activations", {})
    for name, version in config["tuned"].items():
        yield from _attributed(config, name, version)
        if "replica_of" not in version:
            yield from _compared(config, name)


def _steered(config: dict) -> Work:
    """Return the work of steering: of each step a pass forward and as much backward, of the newest
    token and those of the horizon; and the texts without steps, three times."""
    pairs = config["preferences"]
    number, new = pairs["number"], pairs["new_tokens"]
    moved = 2 * pairs["iterations"] * (1 + pairs["horizon"])
    read = 2 * number * (2 * pairs["prompt_tokens"] + new)
    tokens = {"read": read, "decoded": number * new * (3 + moved)}
    return Work("steer_continuations", jobs=config["shards"], **tokens)


def _attributed(config: dict, name: str, version: dict) -> Iterator[Work]:
    """Yield what every version needs: its tuning, two states, and the attribution."""
    tuned = {"tuned": name}
    analysed, positions = config["prompts"]["analysis"]["number"], sum(_lengths(config))
    if "source" in version:
        yield Work("fetch_model", {"fetched": name})
    else:
        yield _tuned(config, name, version)
    yield _generating(config, "capture_activations", {**tuned, "state": "tuned"})
    same_text = {**tuned, "state": "tuned-on-base-text"}
    yield Work("capture_activations", same_text, config["shards"], read=analysed * positions)
    yield Work("attribute_neurons", tuned, models=2, stores=6)  # each of three twice


def _tuned(config: dict, name: str, version: dict) -> Work:
    """Return the work of tuning, were it not to end early.

    Two texts a pair, which are read once more for the reference. KTO reads others as well, and
    held-out pairs are read at each evaluation.
    """
    pairs = config["preferences"]["maximum"]
    tokens = 2 * pairs * sum(pair_tokens(config, version))
    trained = round(tokens * version["epochs"])
    read = tokens + (tokens + trained if version["method"] == "kto" else 0)
    if "early_stopping" in version:
        stopping = version["early_stopping"]
        trained = round(trained * (1 - stopping["held_out"]))
        per_step = version["batch_size"] * version["accumulation"]
        steps = pairs * (1 - stopping["held_out"]) * version["epochs"] / per_step
        read += round(tokens * stopping["held_out"] * steps / stopping["every"])
    return Work("tune_model", {"tuned": name}, read=read, trained=trained)


def _compared(config: dict, name: str) -> Iterator[Work]:
    """Yield what a version has that its replicas have not."""
    tuned = {"tuned": name}
    analysed, positions = config["prompts"]["analysis"]["number"], sum(_lengths(config))
    yield _generating(config, "capture_activations", {**tuned, "state": "base-ablated"})
    for direction in config["attribution"]["directions"][1:]:
        yield Work("attribute_direction", {**tuned, "direction": direction}, models=2, stores=6)
    yield Work("project_layers", tuned, models=2, stores=4)
    yield Work("decode_neurons", tuned)
    yield Work("decompose_shift", tuned, read=3 * analysed * positions, models=2)
    for experiment in config["experiments"]:
        yield _experiment(config, name, experiment)
        searched = is_search(config["experiments"][experiment])
        for scorer in [config["sampling"]["scorer"]] if searched else config["scorers"]:
            job = {**tuned, "experiment": experiment, "scorer": scorer}
            yield Work("score_generations", job, config["shards"], models=0)


def _generating(config: dict, rule: str, wildcards: dict[str, str]) -> Work:
    analysed = config["prompts"]["analysis"]["number"]
    prompt, new = _lengths(config)
    return Work(rule, wildcards, config["shards"], read=analysed * prompt, decoded=analysed * new)


def _experiment(config: dict, tuned: str, name: str) -> Work:
    """Return an experiment's work; a model that is followed reads what the edited one reads."""
    corpus, experiment = config["corpus"], config["experiments"][name]
    split = "analysis" if is_search(experiment) else "evaluation"
    texts = config["prompts"][split]["number"] + corpus["continuations"]
    prompt, new = _lengths(config)
    read = decoded = 0
    most = 1
    for edits in with_controls(experiment).values():
        chosen = edits if isinstance(edits, list) else []
        models = 2 if any(edit.get("mode") == "paired" for edit in chosen) else 1
        everywhere = any(edit.get("positions") == "all" for edit in chosen)
        read += models * corpus["windows"] * corpus["window_tokens"]
        read += models * texts * prompt if everywhere else 0
        decoded += models * texts * new
        most = max(most, models)
    read += most * texts * prompt
    wildcards = {"tuned": tuned, "experiment": name}
    return Work("run_experiment", wildcards, config["shards"], read, decoded, models=most)


def _lengths(config: dict) -> tuple[int, int]:
    return config["prompts"]["max_tokens"], config["generation"]["new_tokens"]
