"""What a configuration says of the features that its directions are fitted on.

Only the standard library is imported here: the Snakefile imports this module.
"""

from __future__ import annotations

SAMPLES = "samples"  # the base model's own, where a dataset could be named


def features_of(config: dict, direction: str) -> dict | None:
    """Return the texts, the layer and the number of tokens that a direction is fitted on, if it is.

    The base model's own samples have no `tokens`: their new ones are read.
    """
    given = config["directions"][direction]
    if "texts" not in given:
        return None
    layer = given.get("layer", "last")
    number = config["model"]["layers"] - 1 if layer == "last" else layer
    tokens = {"tokens": given["tokens"]} if given["texts"] != SAMPLES else {}
    return {"texts": given["texts"], "layer": number, **tokens}


def name_of(features: dict) -> str:
    """Return the name that features of the same texts, layer and number of tokens share."""
    return "-".join(map(str, features.values()))


def feature_sets(config: dict) -> dict[str, dict]:
    """Return all features that a study extracts, by name."""
    found = (features_of(config, direction) for direction in config["directions"])
    return {name_of(features): features for features in found if features is not None}


def sampled_splits(config: dict) -> tuple[str, ...]:
    """Return the splits whose prompts the base model continues, for directions and pairs."""
    if any(features["texts"] == SAMPLES for features in feature_sets(config).values()):
        return ("train", "analysis")
    return ("train",) if config["preferences"]["method"] == "sampled" else ()
