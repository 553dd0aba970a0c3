"""Versions that are tuned: what they take, and what in their configuration does not go together.

Only the standard library is imported here: the Snakefile imports this module.
"""

from __future__ import annotations

from collections.abc import Iterator

HYPER_PARAMETERS = (
    "learning_rate",
    "beta",
    "optimizer",
    "warmup_steps",
    "epochs",
    "batch_size",
    "accumulation",
    "max_grad_norm",
    "seed",
)
OPTIONAL = (
    *("target_margin", "lora", "early_stopping", "prompt_tokens", "continuation_tokens"),
    *("precision", "gradient_checkpointing", "gpus"),
)


def replica(version: str, seed: int) -> str:
    """Return the name of a version that is tuned with a further seed."""
    return f"{version}-seed{seed}"


def tuned_here(version: dict) -> bool:
    """Return whether a version is tuned by the study itself, not brought from a source."""
    return "source" not in version


def recipe(version: dict) -> dict:
    """Return what a version is tuned with, by the names of lm.tuning.Recipe."""
    return {key: version[key] for key in ("method", *HYPER_PARAMETERS, *OPTIONAL) if key in version}


def pair_tokens(config: dict, version: dict) -> tuple[int, int]:
    """Return how many tokens the prompt and each continuation of a pair have, at most.

    Pairs that are brought are taken to be as long as prompts and continuations are here, where the
    version does not say at what length they are cut.
    """
    pairs = config["preferences"]
    if pairs["method"] == "steered":
        prompt, new = pairs["prompt_tokens"], pairs["new_tokens"]
    else:
        prompt, new = config["prompts"]["max_tokens"], config["generation"]["new_tokens"]
    return version.get("prompt_tokens", prompt), version.get("continuation_tokens", new)


def contradictions(config: dict) -> Iterator[str]:
    """Yield what is wrong with `tuned`, a line each."""
    for name, tuned in config["tuned"].items():
        key = f"tuned.{name}"
        if name == "base":
            yield f"{key}: the name base is taken by the folder of the base model's results"
        if name == config["model"]["name"]:
            yield f"{key}: this is the name of the model itself; give its tuned version another"
        if ("source" in tuned) == ("method" in tuned):
            yield f"{key}: give either source, or method and its hyper-parameters"
        elif "source" in tuned:
            ignored = [part for part in (*HYPER_PARAMETERS, *OPTIONAL, "seeds") if part in tuned]
            yield from (
                f"{key}.{parameter}: a model from a source is not tuned" for parameter in ignored
            )
        elif "method" in tuned:
            missing = [parameter for parameter in HYPER_PARAMETERS if parameter not in tuned]
            yield from (f"{key}.{parameter}: this key is missing" for parameter in missing)
            yield from _recipe(key, tuned)
            yield from _seeds(config, name)


def _recipe(key: str, tuned: dict) -> Iterator[str]:
    simpo = tuned["method"] == "simpo"
    if simpo and "target_margin" not in tuned:
        yield f"{key}.target_margin: this key is missing (simpo needs it)"
    if not simpo and "target_margin" in tuned:
        yield f"{key}.target_margin: this key does not go with {tuned['method']}"
    size, gpus = tuned.get("batch_size", 0), tuned.get("gpus", 1)
    if size % gpus:
        yield f"{key}.gpus: {gpus} cannot share a batch of {size} pairs evenly; change batch_size"


def _seeds(config: dict, name: str) -> Iterator[str]:
    tuned = config["tuned"][name]
    for index, seed in enumerate(tuned.get("seeds", [])):
        key = f"tuned.{name}.seeds[{index}]"
        if seed == tuned.get("seed"):
            yield f"{key}: {seed} is the seed of the version itself; seeds are further ones"
        results = replica(name, seed)
        if results in (*config["tuned"], config["model"]["name"]):
            yield f"{key}: its results go by the name {results}, which is taken; rename the other"
