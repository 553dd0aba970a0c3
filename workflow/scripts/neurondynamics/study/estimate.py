"""What a study needs of memory, time and disk, from its configuration alone.

Prompts are taken to be as long as `prompts.max_tokens` and continuations not to end early, so that
work is counted from above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from neurondynamics.study import attribution, directions, experiment_costs, sources, tuning
from neurondynamics.study.costs import (
    HEAD_ROOM,
    LIGHT_PROCESS,
    NEURON_BYTES,
    PROCESS,
    Work,
    model_of,
    store_bytes,
)

NEURON_ROW = 130  # bytes of a neuron in the table's file
GROUPS = 9  # of neurons, with those that nothing moved


def _measuring(config: dict, **_) -> float:
    """The matrices of a layer's size that a machine's speed is measured with, as made and cast."""
    model = model_of(config, "float32")
    return PROCESS + 2 * max(3e8, 2 * model.width * model.neurons * model.itemsize)


MEMORY: dict[str, Callable[..., float]] = {
    **sources.MEMORY,
    **tuning.MEMORY,
    **directions.MEMORY,
    **attribution.MEMORY,
    **experiment_costs.MEMORY,
    "estimate": _measuring,
}


def memory(rule: str, config: dict, **wildcards: str) -> float:
    """Return the peak memory that a rule should need, in bytes.

    `wildcards` are those of the job: `split`, `features`, `direction`, `experiment`, `tuned` and
    `scorer` matter. A rule without a formula makes tables or figures.
    """
    if rule in MEMORY:
        return MEMORY[rule](config, **wildcards)
    return LIGHT_PROCESS + NEURON_BYTES * config["model"]["layers"] * config["model"]["neurons"]


def given_mb(rule: str, config: dict, attempt: int, **wildcards: str) -> int:
    """Return the memory that a rule is given, in MB: with head room, and more at each attempt."""
    return round(HEAD_ROOM * attempt * memory(rule, config, **wildcards) / 1e6)


def memory_of(config: dict, rule: str) -> Callable[..., int]:
    """Return the function that says how much memory a job of a rule is given, in MB.

    A job that is tried again, as after a scheduler stopped it for its memory, is given more.
    """

    def given(wildcards, attempt):
        return given_mb(rule, config, attempt, **dict(wildcards.items()))

    return given


def work_of(config: dict) -> Iterator[Work]:
    """Yield the work of the jobs of a study that hold a model or score texts.

    The configuration is checked and holds its replicas.
    """
    yield Work("fetch_model", {"fetched": config["model"]["name"]})
    yield from tuning.work_of_pairs(config)
    yield from directions.work_of_directions(config)
    yield attribution.work_of_capture(config, "base")
    for name, version in config["tuned"].items():
        yield tuning.work_of_tuning(config, name)
        yield from attribution.work_of_attribution(config, name)
        if "replica_of" not in version:
            yield from experiment_costs.work_of_experiments(config, name)


def needs(config: dict) -> dict:
    """Return what a study needs, for who adds the speed of a machine: what the jobs that differ in
    their shard alone need, each kind of file, and what the speed depends on. Memory is in MB."""
    rows = [
        {
            "rule": work.rule,
            "jobs": work.jobs,
            "memory": memory(work.rule, config, **work.wildcards) / 1e6,
            "mem_mb": given_mb(work.rule, config, 1, **work.wildcards),
            **work.time(config),
        }
        for work in work_of(config)
    ]
    light = given_mb("summarize_groups", config, 1)
    return {
        "model": config["model"],
        "device": config["device"],
        "batch_size": config["generation"]["batch_size"],
        "rows": rows,
        "light": light,
        "head_room": HEAD_ROOM,
        "files": disk(config),
    }


def disk(config: dict) -> dict[str, tuple[int, int]]:
    """Return what takes up the disk, by name: how many of a kind, and the bytes of each.

    The configuration holds its replicas. Models that are brought are taken to be stored as they
    run, those from a GGUF file and those tuned here are stored in float32.
    """
    versions = config["tuned"].values()
    replicas = sum("replica_of" in version for version in versions)
    originals = len(versions) - replicas
    model, number = config["model"], config["prompts"]["analysis"]["number"]
    neurons = model["layers"] * model["neurons"]
    further = len(config["attribution"]["directions"]) - 1  # which replicas have not
    attributions = len(versions) + further * originals
    of_versions = len(attribution.STATES) - 1  # the base model's stands once
    stores = 1 + of_versions * originals + len(attribution.OF_REPLICAS) * replicas
    tuned = sum(map(tuning.tuned_here, versions))
    float32, stored = model_of(config, "float32").weights, model_of(config).weights
    return {
        "base model": (1, float32 if sources.is_gguf(model) else stored),
        "tuned models": (tuned, float32),
        "fetched tuned models": (len(versions) - tuned, stored),
        "stores of activations": (stores, store_bytes(config)),
        "tables of neurons": (attributions, NEURON_ROW * neurons),
        "reductions by prompt": (attributions, 3 * 8 * number * model["layers"] * GROUPS),
    }
