"""The jobs of a study that have a model in their hands, and how much each of them does.

Only the standard library is imported here, and nothing has to be fetched for it: all follows from
the configuration. Prompts are taken to be `prompts.max_tokens` long and continuations to end
nowhere, so that the work is counted from above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from neurondynamics.experiments import all_edits, is_search, searches, with_controls

MIXED = 0.3  # of the sampled texts, those of prompts with toxic and other samples: measured


@dataclass(frozen=True)
class Work:
    """The jobs of a rule that differ in their shard alone, and what they do in all.

    `read`, `decoded` and `trained` are tokens that run through a model: many at once; one of each
    text at a time; forward and backward. `models` is how many models a job loads, `stores` how many
    states' activations it reads.
    """

    rule: str
    wildcards: dict[str, str] = field(default_factory=dict)
    jobs: int = 1
    read: int = 0
    decoded: int = 0
    trained: int = 0
    models: int = 1
    stores: int = 0


def work_of(config: dict) -> Iterator[Work]:
    """Yield the work of a whole study, of a checked configuration with its replicas."""
    prompts, generation, shards = config["prompts"], config["generation"], config["shards"]
    new, longest = generation["new_tokens"], prompts["max_tokens"]
    samples, analysed = config["preferences"]["samples"], prompts["analysis"]["number"]
    generating = {"read": analysed * longest, "decoded": analysed * new, "jobs": shards}
    yield Work("fetch_model", {"fetched": config["model"]["name"]})
    sampled = 0
    for split in ("train", "analysis"):
        number = prompts[split]["number"]
        sampled += number * samples
        tokens = {"read": number * longest, "decoded": number * samples * new}
        yield Work("sample_continuations", {"split": split}, shards, **tokens)
        yield Work("score_continuations", {"split": split}, shards, models=0)
    yield Work("fit_direction", read=round(MIXED * sampled) * (longest + new))
    experiments = config["experiments"].values()
    if any(
        "direction" in edit for e in experiments for edit in all_edits(config["experiments"], e)
    ):
        yield Work("collect_directions")
    yield Work("capture_activations", {"state": "base"}, **generating)
    for name, version in config["tuned"].items():
        yield from _tuned(config, name, version)
        if "replica_of" not in version:
            yield from _compared(config, name, generating)


def _tuned(config: dict, name: str, version: dict) -> Iterator[Work]:
    """Yield what every version needs: its tuning, two states and the attribution."""
    prompts, analysed = config["prompts"], config["prompts"]["analysis"]["number"]
    new, longest, shards = (
        config["generation"]["new_tokens"],
        prompts["max_tokens"],
        config["shards"],
    )
    tuned = {"tuned": name}
    if "source" in version:
        yield Work("fetch_model", {"fetched": name})
    else:
        # two texts a pair: forward and backward, and once forward for the reference
        tokens = 2 * config["preferences"]["maximum"] * (longest + new)
        trained = round(tokens * version["epochs"])
        yield Work("tune_model", tuned, read=tokens, trained=trained)
    generating = {"read": analysed * longest, "decoded": analysed * new}
    yield Work("capture_activations", {**tuned, "state": "tuned"}, shards, **generating)
    reading = {"read": analysed * (longest + new)}
    state = {"state": "tuned-on-base-text"}
    yield Work("capture_activations", tuned | state, shards, **reading)
    yield Work("attribute_neurons", tuned, models=2, stores=2 * 3)  # each is read twice


def _compared(config: dict, name: str, generating: dict[str, int]) -> Iterator[Work]:
    """Yield what a version has and its replicas have not."""
    tuned, analysed = {"tuned": name}, config["prompts"]["analysis"]["number"]
    positions = config["prompts"]["max_tokens"] + config["generation"]["new_tokens"]
    yield Work("capture_activations", {**tuned, "state": "base-ablated"}, **generating)
    yield Work("project_layers", tuned, models=2, stores=4)
    yield Work("decode_neurons", tuned)
    yield Work("decompose_shift", tuned, read=3 * analysed * positions, models=2)
    for experiment in config["experiments"]:
        yield _experiment(config, experiment, tuned)
        job = {**tuned, "experiment": experiment}
        yield Work("score_generations", job, config["shards"], models=0)


def _experiment(config: dict, name: str, tuned: dict[str, str]) -> Work:
    """Return an experiment's work; a model that is followed reads what the edited one does."""
    corpus, experiment = config["corpus"], config["experiments"][name]
    split = "analysis" if is_search(experiment) else "evaluation"
    texts = config["prompts"][split]["number"] + corpus["continuations"]
    windows = corpus["windows"] * corpus["window_tokens"]
    prompt, new = config["prompts"]["max_tokens"], config["generation"]["new_tokens"]
    read = decoded = 0
    leader = 1
    for name_, edits in with_controls(experiment).items():
        chosen = [] if isinstance(edits, dict) else edits
        paired = any(edit.get("mode") == "paired" for edit in chosen)
        prefilled = any(edit.get("positions") == "all" for edit in chosen)
        times = 2 if paired else 1
        leader = max(leader, times)
        read += times * (windows + (texts * prompt if prefilled else 0))
        decoded += times * texts * new
    read += leader * texts * prompt
    return Work(
        "run_experiment",
        {**tuned, "experiment": name},
        config["shards"],
        read,
        decoded,
        models=leader,
    )
