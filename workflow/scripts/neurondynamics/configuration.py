"""Checks of a study's configuration before any work starts; every problem names its key.

Only light packages are imported here: the Snakefile imports this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from neurondynamics.consistency import (
    ORIGINS,
    SPLITS,
    contradictions,
    datasets_of,
    hint,
    join,
)
from neurondynamics.data.prompts import partition, read_dataset
from neurondynamics.tunings import replica


def without_nulls(value: Any) -> Any:
    """Drop every key that is null, so that an overlay can remove what the default study has."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


def check_configuration(config: dict, schema: dict) -> None:
    """Raise ValueError listing everything that is wrong with a configuration, a line each."""
    # the validator reports an object with two missing keys twice, hence the dictionary
    problems = dict.fromkeys(_structure(config, schema)) or list(contradictions(config))
    if problems:
        raise ValueError("the configuration is wrong:\n" + "\n".join(f"- {p}" for p in problems))


def labeller_first(config: dict) -> dict:
    """Return a checked configuration whose first scorer is the one that labels the samples."""
    scorers, labeller = config["scorers"], config["sampling"]["scorer"]
    return {**config, "scorers": {labeller: scorers[labeller], **scorers}}


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
            versions[replica(name, seed)] = {**shared, "seed": seed, "replica_of": name}
    return {**config, "tuned": versions}


def check_local_prompts(config: dict) -> None:
    """Read the prompt files that lie on this machine, so that a mistake in them shows at once.

    Raises ValueError, naming file and line, for what splitting the prompts would refuse. Datasets
    from elsewhere are checked once they are fetched.
    """
    splits = {name: config["prompts"][name] for name in SPLITS}
    prompts = {}
    for name in {name for split in splits.values() for name in datasets_of(split)}:
        dataset = config["datasets"][name]
        if set(ORIGINS) & set(dataset):
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
            dataset.get("where"),
        )
    here = {name: split for name, split in splits.items() if datasets_of(split) <= set(prompts)}
    partition(prompts, here, config["seed"])


def _structure(config: dict, schema: dict) -> Iterator[str]:
    for error in Draft202012Validator(schema).iter_errors(config):
        key = _key(error.absolute_path)
        if error.validator == "additionalProperties":
            known = sorted(error.schema.get("properties", {}))
            for name in sorted(set(error.instance) - set(known)):
                yield f"{join(key, name)}: unknown key{hint(name, known)}"
        elif error.validator == "enum":
            known = [str(value) for value in error.validator_value]
            yield f"{key}: {error.instance!r} is unknown{hint(str(error.instance), known)}"
        elif error.validator == "required":
            missing = [name for name in error.validator_value if name not in error.instance]
            yield from (f"{join(key, name)}: this key is missing" for name in missing)
        else:
            description = error.schema.get("description")
            yield f"{key}: {error.message}" + (f" ({description})" if description else "")


def _key(path) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).lstrip(".") or "(top level)"
