"""What a configuration says that does not go together, though each key alone may be right.

Only the standard library is imported here: the Snakefile imports this module.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator

from neurondynamics import tunings
from neurondynamics.experiments import check_experiments, is_search
from neurondynamics.features import SAMPLES

SPLITS = ("train", "analysis", "evaluation")
CORPORA = ("dataset", "continued")  # of windows for perplexity, of passages for F1
ORIGINS = ("wheel", "hub", "url", "path")
GOES_WITH = {"platform": "wheel", "python_version": "wheel", "revision": "hub", "sha256": "url"}
# the keys that a kind of something needs, and those that it may have beside its kind
SCORER_NEEDS = {
    "profanity-check": (),
    "lexicon": ("source",),
    "detoxify": ("source", "configuration"),
    "classifier": ("source", "label"),
}
SCORER_MAY = {
    "profanity-check": ("batch_size",),
    "lexicon": (),
    "detoxify": ("label", "batch_size"),
    "classifier": ("batch_size",),
}
DIRECTION_NEEDS = {
    "mean_difference": ("texts", "held_out"),
    "probe": ("texts", "held_out"),
    "embeddings": ("words",),
    "svd": ("of", "number"),
    "file": ("path",),
}
DIRECTION_MAY = {"mean_difference": ("layer",), "probe": ("layer",)}
STEERING = (
    *("step_size", "temperature", "top_k", "iterations", "horizon", "gamma"),
    *("gm_scale", "kl_scale"),
)
CLASSIFIERS = ("probe", "file")  # directions that give a text a probability
PAIRED_FORMATS = ("jsonl", "csv", "parquet")
PREFERENCES_NEED = {
    "sampled": ("margin",),
    "steered": ("dataset", "number", "prompt_tokens", "new_tokens", "direction", *STEERING),
    "ready": ("dataset",),
}


def contradictions(config: dict) -> Iterator[str]:
    """Yield what is wrong with a configuration of the right structure, a line each."""
    yield from _sources(config)
    yield from _references(config)
    yield from tunings.contradictions(config)
    yield from _shards(config)
    yield from _scorers(config)
    yield from _directions(config)
    yield from _preferences(config)
    yield from check_experiments(config)
    yield from _published(config)
    neurons = config["model"]["layers"] * config["model"]["neurons"]
    for key in ("ablated", "decoded"):
        if config["attribution"][key] > neurons:
            yield f"attribution.{key}: the model has only {neurons} neurons"


def join(key: str, name: str) -> str:
    """Return the key of a name within a key."""
    return name if key == "(top level)" else f"{key}.{name}"


def hint(name: str, known: list[str]) -> str:
    """Return what a wrong name may have meant, to append to an error."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}"


def datasets_of(split: dict) -> set[str]:
    """Return the datasets that a split takes prompts from or leaves prompts of out."""
    return {split["dataset"], *split.get("exclude", [])}


def _keys_of_kind(key: str, given: dict, kind: str, needs: dict, may: dict) -> Iterator[str]:
    """Compare the keys of one of several kinds with what that kind takes."""
    value = given[kind]
    yield from (
        f"{key}.{name}: this key is missing ({value} needs it)"
        for name in needs[value]
        if name not in given
    )
    known = {name for names in (*needs.values(), *may.values()) for name in names}
    taken = {*needs[value], *may.get(value, ())}
    others = sorted(known & set(given) - taken)
    yield from (f"{key}.{name}: this key does not go with {value}" for name in others)


def _scorers(config: dict) -> Iterator[str]:
    scorers = config["scorers"]
    labeller = config["sampling"]["scorer"]
    if labeller not in scorers:
        yield f"sampling.scorer: there is no scorer {labeller!r}{hint(labeller, list(scorers))}"
    for name, scorer in scorers.items():
        yield from _keys_of_kind(f"scorers.{name}", scorer, "kind", SCORER_NEEDS, SCORER_MAY)


def _directions(config: dict) -> Iterator[str]:
    directions = config["directions"]
    for name, direction in directions.items():
        key = f"directions.{name}"
        yield from _keys_of_kind(key, direction, "method", DIRECTION_NEEDS, DIRECTION_MAY)
        texts = direction.get("texts", SAMPLES)
        if texts != SAMPLES:
            yield from _known(f"{key}.texts", texts, config["datasets"], "dataset")
        for part in ("label", "tokens"):
            if texts != SAMPLES and part not in direction:
                yield f"{key}.{part}: this key is missing (texts of a dataset need it)"
            if texts == SAMPLES and part in direction:
                yield f"{key}.{part}: this key does not go with samples, which the scorer labels"
        layer = direction.get("layer", "last")
        if layer != "last" and layer >= config["model"]["layers"]:
            yield f"{key}.layer: the model has layers 0 to {config['model']['layers'] - 1}"
        if "of" in direction:
            yield from _known(f"{key}.of", direction["of"], directions, "direction")
            if directions.get(direction["of"], {}).get("method") == "svd":
                yield f"{key}.of: {direction['of']} is itself an svd; name a direction that is not"
    if SAMPLES in config["datasets"]:
        yield f"datasets.{SAMPLES}: directions call the base model's own samples so; rename it"
    for index, name in enumerate(config["attribution"]["directions"]):
        yield from _known(f"attribution.directions[{index}]", name, directions, "direction")
    for experiment, content in config["experiments"].items():
        for intervention, edits in content["interventions"].items():
            for index, edit in enumerate(edits if isinstance(edits, list) else ()):
                if "direction" in edit:
                    place = f"experiments.{experiment}.interventions.{intervention}[{index}]"
                    key, name = f"{place}.direction", edit["direction"]
                    yield from _known(key, name, directions, "direction")


def _known(key: str, name: str, known, what: str) -> Iterator[str]:
    if name not in known:
        yield f"{key}: there is no {what} {name!r}{hint(name, list(known))}"


def _preferences(config: dict) -> Iterator[str]:
    pairs = config["preferences"]
    yield from _keys_of_kind("preferences", pairs, "method", PREFERENCES_NEED, {})
    if "dataset" in pairs:
        yield from _known("preferences.dataset", pairs["dataset"], config["datasets"], "dataset")
    if "direction" in pairs:
        name, key = pairs["direction"], "preferences.direction"
        yield from _known(key, name, config["directions"], "direction")
        method = config["directions"].get(name, {"method": "probe"})["method"]
        if method not in CLASSIFIERS:
            yield f"{key}: {name} gives no probabilities, which steering needs; name a probe"
    if pairs["method"] == "ready":
        form = config["datasets"].get(pairs.get("dataset"), {}).get("format", "jsonl")
        if form not in PAIRED_FORMATS:
            yield f"preferences.dataset: {form} has no pairs; a dataset of pairs is a jsonl file"


def _published(config: dict) -> Iterator[str]:
    """What was published stands beside interventions that are reported."""
    for name, items in config.get("published", {}).get("interventions", {}).items():
        experiment, key = config["experiments"].get(name), f"published.interventions.{name}"
        if experiment is None or is_search(experiment):
            yield f"{key}: there is no experiment of this name that is reported"
        else:
            for item in items:
                yield from _known(
                    f"{key}.{item}", item, experiment["interventions"], "intervention"
                )


def _shards(config: dict) -> Iterator[str]:
    """A shard is made of whole batches, so that no result depends on the number of shards."""
    shards, size = config["shards"], config["generation"]["batch_size"]
    at_once = {f"prompts.{split}": (config["prompts"][split]["number"], size) for split in SPLITS}
    at_once["prompts.train"] = (
        config["prompts"]["train"]["number"],
        max(1, size // config["sampling"]["samples"]),
    )
    if "number" in config["preferences"]:
        at_once["preferences"] = (config["preferences"]["number"], size)
    for key, (prompts, rows) in at_once.items():
        batches = math.ceil(prompts / rows)
        if batches < shards:
            yield (
                f"shards: {shards} are more than the batches of {key}, {prompts} prompts "
                f"in batches of {rows}; set it to at most {batches}, or lower generation.batch_size"
            )


def _sources(config: dict) -> Iterator[str]:
    sources = {"model.source": config["model"]["source"]}
    for kind in ("tuned", "scorers"):
        for name, item in config[kind].items():
            for part in ("source", "configuration"):
                if part in item:
                    sources[f"{kind}.{name}.{part}"] = item[part]
    for key, source in sources.items():
        origins = [origin for origin in ORIGINS if origin in source]
        if len(origins) != 1:
            yield (
                f"{key}: give one of {', '.join(ORIGINS)}, not {' and '.join(origins) or 'none'}; "
                "an overlay drops what the default has with wheel: null and files: null"
            )
        if origins == ["path"] and "files" in source:
            yield f"{key}.files: this key does not go with path; the default's goes by files: null"
    for name, dataset in config["datasets"].items():
        key = f"datasets.{name}"
        sources[key] = dataset
        origins = [origin for origin in ORIGINS if origin in dataset]
        if len(origins) > 1:
            yield f"{key}: give one of {', '.join(origins)}, or none and files of this machine"
        if "url" not in dataset and "files" not in dataset:
            yield f"{key}.files: this key is missing"
    for key, source in sources.items():
        for origin, needed in (("wheel", "files"), ("hub", "revision"), ("url", "sha256")):
            if origin in source and needed not in source:
                yield f"{key}.{needed}: this key is missing ({origin} needs it)"
        for part, origin in GOES_WITH.items():
            if part in source and origin not in source:
                yield f"{key}.{part}: this key goes with {origin}, which is not given"
        for index, file in enumerate(source.get("files", [])):
            if "wheel" in source and "sha256" not in file:
                yield f"{key}.files[{index}].sha256: this key is missing (a wheel's file needs it)"


def _references(config: dict) -> Iterator[str]:
    known = list(config["datasets"])
    used = {f"corpus.{key}": config["corpus"][key] for key in CORPORA if key in config["corpus"]}
    for split in SPLITS:
        used[f"prompts.{split}.dataset"] = config["prompts"][split]["dataset"]
        for index, name in enumerate(config["prompts"][split].get("exclude", [])):
            used[f"prompts.{split}.exclude[{index}]"] = name
    for key, name in used.items():
        if name not in known:
            yield f"{key}: there is no dataset {name!r}{hint(name, known)}"
        elif key.startswith("prompts.") and config["datasets"][name]["format"] == "mediawiki":
            yield f"{key}: {name!r} holds articles, not prompts"
