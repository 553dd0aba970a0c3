"""Files that are asked for by name on the command line: a name that is not the study's is told.

Snakemake says of them that no rule makes them, or fails in a rule that looks the name up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from snakemake.io import contains_wildcard

from neurondynamics.study.attribution import STATES
from neurondynamics.study.directions import feature_sets
from neurondynamics.study.interventions import with_controls
from neurondynamics.study.stage import SPLITS
from neurondynamics.study.wording import hint

PLACES = (  # the last part of a path has endings
    "resources/models/{fetched model}",
    "resources/datasets/{dataset}",
    "resources/scorers/{scorer}",
    "results/{model}/base/prompts/{split}",
    "results/{model}/base/continuations/{split}",
    "results/{model}/base/features/{features}",
    "results/{model}/base/directions/{direction}",
    "results/{model}/base",
    "results/{model}/{tuned version}/activations/{state}",
    "results/{model}/{tuned version}/directions/{direction}",
    "results/{model}/{tuned version}/experiments/{experiment}/scores/{scorer}",
    "results/{model}/{tuned version}/experiments/{experiment}",
    "results/{model}/{tuned version}/exported/{experiment}/{intervention}",
    "results/{model}/{tuned version}/exported/{experiment}",
    "results/{model}/{tuned version}",
    "results/{model}",
)
SHARD = re.compile(r"([0-9]+)-of-([0-9]+)\.(?:parquet|h5)")
ENDINGS = (".safetensors", ".jsonl", ".json", "-scored")


def asked(command: list[str]) -> list[str]:
    """Return the files that a command line of Snakemake asks for by name, as `sys.argv` has it.

    The workflow itself is not told of them. Another program's command line asks for none.
    """
    if "snakemake" not in Path(command[0]).parts[-2:] or not any("/" in one for one in command[1:]):
        return []
    from snakemake.cli import get_argument_parser

    targets = get_argument_parser().parse_args(command[1:]).targets
    return [os.path.relpath(target) for target in targets if "/" in target]


def check(config: dict, targets: Iterable[str], workflow: Path) -> None:
    """Raise ValueError for what targets name that the study, which is checked, does not have.

    So too where the folder of the workflow has braces in its path, which Snakemake fills in.
    """
    if contains_wildcard(workflow):
        raise ValueError(
            f"Snakemake takes what stands in braces in {workflow.parent} for a wildcard: "
            "give the folder another name"
        )
    wrong = [line for target in targets for line in _problems(config, target)]
    if wrong:
        raise ValueError("\n".join(wrong))


def _problems(config: dict, target: str) -> Iterator[str]:
    parts = PurePath(target).parts
    for place in PLACES:
        pattern = PurePath(place).parts
        if len(parts) < len(pattern):
            continue
        named, fits = [], True
        for given, wanted in zip(parts, pattern, strict=False):
            if wanted.startswith("{"):
                named.append((wanted.strip("{}"), given))
            fits = fits and (wanted.startswith("{") or wanted == given)
        if fits:
            yield from _unknown(config, target, named) or _no_shard(config, target)
            return


def _no_shard(config: dict, target: str) -> list[str]:
    shard, shards = SHARD.fullmatch(PurePath(target).name), config["shards"]
    if shard is None or (int(shard[2]) == shards and 1 <= int(shard[1]) <= shards):
        return []
    there = f"1-of-{shards}" + (f" to {shards}-of-{shards}" if shards > 1 else "")
    wrong = f"there is no shard {shard[1]}-of-{shard[2]}"
    return [f"{target}: {wrong}; with `shards: {shards}` there is {there}"]


def _unknown(config: dict, target: str, named: list[tuple[str, str]]) -> list[str]:
    names = dict(named)
    for what, name in named:
        there = _there(config, what, names)
        plain = name
        for ending in ENDINGS:
            plain = plain if plain in there else plain.removesuffix(ending)
        if plain not in there:
            return [f"{target}: there is no {what} {plain!r}{hint(plain, there)}"]
    return []


def _there(config: dict, what: str, names: dict[str, str]) -> list[str]:
    model = config["model"]["name"]
    if what == "intervention":
        return list(with_controls(config["experiments"][names["experiment"]]))
    brought = [name for name, one in config["tuned"].items() if "source" in one]
    return {
        "model": [model],
        "fetched model": [model, *brought],
        "dataset": list(config["datasets"]),
        "scorer": list(config["scorers"]),
        "split": list(SPLITS),
        "features": list(feature_sets(config)),
        "direction": list(config["directions"]),
        "tuned version": list(config["tuned"]),
        "state": list(STATES),
        "experiment": list(config["experiments"]),
    }[what]
