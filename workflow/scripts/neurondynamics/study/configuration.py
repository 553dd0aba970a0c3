"""From layers of configuration to a study: what is missing is filled in, what is wrong is named.

Only light modules are imported here: every job parses the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from neurondynamics.runtime import keep_secret
from neurondynamics.study import (
    attribution,
    columns,
    directions,
    interventions,
    lengths,
    local,
    margins,
    rankings,
    sources,
    tuning,
)
from neurondynamics.study.interventions import is_search
from neurondynamics.study.loader import parse, read_text
from neurondynamics.study.merging import merged
from neurondynamics.study.schema import mistakes, read_schema
from neurondynamics.study.shape import with_shape
from neurondynamics.study.types import names_that_are_no_texts as nameless
from neurondynamics.study.types import typed
from neurondynamics.study.wording import known

LONGEST = 1000  # characters that are said of one mistake
STAGES = (
    columns,
    sources,
    tuning,
    directions,
    attribution,
    interventions,
    margins,
    rankings,
    lengths,
)


def layers(workflow: Any, config: dict, default: Path) -> list[dict]:
    """Return what a study is made of, for `checked`: the default, and the overlays in their order.

    Snakemake has laid them on each other by a rule of its own when the Snakefile is read, with the
    types of YAML 1.1 and the last of equal keys. They are read again: the file `default`, those of
    --configfile, and --config. Every job's command line has them too. In a workflow that uses this
    one as a module and gives it a `config`, that is the whole study.
    """
    if workflow.modifier.skip_configfile:
        found = [config]
    else:
        settings = workflow.config_settings
        found = [*map(overlay, settings.configfiles), stated(settings.config_args or [])]
        found = found if settings.replace_workflow_config else [overlay(default), *found]
    _keep_secrets(found)
    return found


def _keep_secrets(value: Any) -> None:
    """Let no message hold the password or query of an address that a configuration names."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        _keep_secrets(part)
    if isinstance(value, str) and "://" in value:
        keep_secret(value)


def stated(arguments: list[str]) -> dict:
    """Return what --config says, each `KEY=VALUE` in YAML. Raises ValueError for equal keys."""
    found = {}
    for name, _, value in (argument.partition("=") for argument in arguments):
        if name in found:
            raise ValueError(f"--config: the key {name} stands twice")
        found[name] = parse(value, f"--config {name}")
    return found


def overlay(path: Path) -> dict:
    """Return what a file of --configfile says; one with `__use_yte__` is worked out by Snakemake.

    Raises ValueError, naming the file, if it is none in YAML or JSON, or no mapping.
    """
    text = read_text(path)
    if re.search(r"^__use_yte__\s*:\s*true", text, re.MULTILINE):
        from snakemake.common.configfile import load_configfile

        return load_configfile(path)
    found = parse(text, str(path))
    if not isinstance(found, dict):
        raise ValueError(f"{path}: a configuration is a mapping of keys; see workflow/studies")
    return found


def checked(layers: list[dict], main_process: bool = True, absent: Collection[str] = ()) -> dict:
    """Return the study that layers of configuration make, each laid on those before it.

    The shape of the model is complete, the scorer that labels samples comes first, every further
    seed has a version of its own, and rankings are an experiment. Only the main process reads what
    lies on this machine, where files that are `absent` may come later, and asks the hub. Raises
    ValueError listing everything that is wrong, a line each with its key.
    """
    _refuse(list(dict.fromkeys(line for layer in layers for line in nameless(layer))))
    config = typed(merged(layers, read_schema()), read_schema())
    wrong = mistakes(config)
    if not all(wrong.values()):
        _refuse(wrong)
    read = partial(local.problems, absent=absent) if main_process and not wrong else lambda _: ()
    try:
        config = with_shape(config, main_process)
    except ValueError as error:
        _refuse([*wrong, str(error), *read(config)])
    across = [line for stage in STAGES for line in stage.contradictions(config)]
    across += [*_names_of_claims(config, layers), *margins.unknown_names(layers)]
    _refuse([*wrong, *across, *read(config)])
    return rankings.with_rankings(with_replicas(labeller_first(config)))


def labeller_first(config: dict) -> dict:
    """Return a configuration whose first scorer is the one that labels the samples."""
    scorers, labeller = config["scorers"], config["sampling"]["scorer"]
    return {**config, "scorers": {labeller: scorers[labeller], **scorers}}


def with_replicas(config: dict) -> dict:
    """Return a configuration with a version of its own for every further seed.

    The version `dpo` with `seeds: [1, 2]` is joined by `dpo-seed1` and `dpo-seed2`, which have its
    hyper-parameters, their seed, and `replica_of: dpo`.
    """
    versions = {}
    for name, version in config["tuned"].items():
        versions[name] = version
        shared = {key: value for key, value in version.items() if key != "seeds"}
        for seed in version.get("seeds", []):
            versions[tuning.replica(name, seed)] = {**shared, "seed": seed, "replica_of": name}
    return {**config, "tuned": versions}


def _names_of_claims(config: dict, layers: list[dict]) -> Iterator[str]:
    """Yield the claims on interventions that no layer has.

    One that a later layer has dropped is told in claims.csv, as not tested.
    """
    experiments = [one for layer in layers for one in (layer.get("experiments") or {}).values()]
    experiments = [one for one in experiments if one and not is_search(one)]
    there = {name: None for one in experiments for name in one.get("interventions") or {}}
    for key, named in config["claims"].items():
        for index, name in enumerate(named if isinstance(named, list) else [named]):
            place = f"claims.{key}[{index}]" if isinstance(named, list) else f"claims.{key}"
            yield from known(place, name, there, "intervention")


def _refuse(problems: Iterable[str]) -> None:
    lines = [f"- {one if len(one) <= LONGEST else f'{one[:LONGEST]} …'}" for one in problems]
    if lines:
        raise ValueError("the configuration is wrong:\n" + "\n".join(lines))
