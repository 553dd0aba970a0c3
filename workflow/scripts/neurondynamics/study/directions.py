"""Directions, and the features they are fitted on: what a configuration says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from neurondynamics.study import costs
from neurondynamics.study.costs import PROCESS, Work, lengths, model_of
from neurondynamics.study.stage import Stage, direction_file, linked
from neurondynamics.study.wording import known

# the base model's continuations of prompts, with what the first scorer says of them
SCORED = "results/{model}/base/continuations/{split}-scored/{shard}.parquet"
SAMPLES = "samples"  # the base model's own, where a dataset could be named
SAMPLED = ("train", "analysis")  # the splits whose prompts these continue
VECTORS = (".safetensors", ".npy", ".pt")
LABELLED = 200_000  # texts of a labelled dataset, known once it is fetched; Jigsaw has 159,571
MIXED = 0.3  # of the sampled texts, those of prompts with samples of both kinds, as measured


class Directions(Stage):
    """What the rules of features and directions take."""

    def _texts(self, wildcards, name: str) -> list[str]:
        """Return the files of labelled texts: scored samples, or a dataset's folder."""
        if name != SAMPLES:
            return [f"resources/datasets/{name}"]
        return self.sharded(SCORED, model=[wildcards.model], split=SAMPLED)

    def _labelled(self, name: str) -> dict:
        """Return how labelled texts are read, and which samples count as toward the behaviour."""
        if name == SAMPLES:
            return {"threshold": self.config["scorers"][self.scorers[0]]["threshold"]}
        dataset = self.config["datasets"][name]
        return {key: dataset[key] for key in ("format", "text_field", "where") if key in dataset}

    def feature_texts(self, wildcards) -> list[str]:
        """Return the texts that features are extracted from."""
        return self._texts(wildcards, feature_sets(self.config)[wildcards.features]["texts"])

    def feature_reading(self, wildcards) -> dict:
        """Return how the texts of features are read."""
        chosen = feature_sets(self.config)[wildcards.features]
        return self.reading(**{"max_tokens": chosen["tokens"]} if "tokens" in chosen else {})

    def extraction(self, wildcards) -> dict:
        """Return what texts features are of, and after which block they are read."""
        chosen = feature_sets(self.config)[wildcards.features]
        return {"labelled": self._labelled(chosen["texts"]), "layer": chosen["layer"]}

    def direction_inputs(self, wildcards) -> dict:
        """Return what a direction is made from beside the model: labelled features, or a file."""
        direction = self.config["directions"][wildcards.direction]
        base = f"results/{wildcards.model}/base"
        if "texts" in direction:
            name = name_of(features_of(self.config, wildcards.direction))
            return {
                "features": f"{base}/features/{name}.safetensors",
                "texts": self._texts(wildcards, direction["texts"]),
            }
        if "of" in direction:
            return {"file": f"{base}/directions/{direction['of']}.safetensors"}
        return {"file": linked(direction["path"])} if "path" in direction else {}

    def fitting(self, wildcards) -> dict:
        """Return how a direction is made."""
        direction = self.config["directions"][wildcards.direction]
        return {
            "direction": direction,
            "labelled": self._labelled(direction["texts"]) if "texts" in direction else {},
            "dtype": self.config["model"]["dtype"],
            "seed": self.config["seed"],
        }

    def vectors(self) -> list[str]:
        """Return the files of all directions."""
        return list(map(direction_file, self.config["directions"]))

    def descriptions(self) -> list[str]:
        """Return the files that say what all directions are worth."""
        return [path.replace(".safetensors", ".json") for path in self.vectors()]


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


def read_samples(config: dict) -> bool:
    """Return whether a direction is fitted on the base model's own samples."""
    return any(features["texts"] == SAMPLES for features in feature_sets(config).values())


def contradictions(config: dict) -> Iterator[str]:
    """Yield what does not go together in `directions` and where they are named, a line each.

    What each method takes is in the schema.
    """
    directions, layers = config["directions"], config["model"]["layers"]
    for name, direction in directions.items():
        key = f"directions.{name}"
        yield from _texts(direction, key, config["datasets"])
        layer = direction.get("layer", "last")
        if layer != "last" and layer >= layers:
            yield f"{key}.layer: the model has layers 0 to {layers - 1}"
        if "path" in direction and Path(direction["path"]).suffix not in VECTORS:
            yield f"{key}.path: a direction is read from a file in {', '.join(VECTORS)}"
        if "of" in direction:
            yield from known(f"{key}.of", direction["of"], directions, "direction")
            if directions.get(direction["of"], {}).get("method") == "svd":
                yield f"{key}.of: {direction['of']} is itself an svd; name a direction that is not"
    of_samples = any(one.get("texts") == SAMPLES for one in directions.values())
    if of_samples and config["generation"]["new_tokens"] < 2:
        # the first new position reads the prompt alone, which is the same for all of its samples
        yield (
            "generation.new_tokens: with 1, samples of a prompt do not differ where features are "
            "read, so no direction can be fitted on samples; set it to 2 or more"
        )
    if SAMPLES in config["datasets"]:
        yield f"datasets.{SAMPLES}: directions call the base model's own samples so; rename it"
    for index, name in enumerate(config["attribution"]["directions"]):
        yield from known(f"attribution.directions[{index}]", name, directions, "direction")


def _texts(direction: dict, key: str, datasets: dict) -> Iterator[str]:
    texts = direction.get("texts", SAMPLES)
    if texts != SAMPLES:
        yield from known(f"{key}.texts", texts, datasets, "dataset")
    for part in ("label", "tokens"):
        if texts != SAMPLES and part not in direction:
            yield f"{key}.{part}: this key is missing (texts of a dataset need it)"
        if texts == SAMPLES and part in direction:
            yield f"{key}.{part}: this key does not go with samples, which the scorer labels"


def labelled_texts(config: dict, features: dict) -> int:
    """Return how many texts features are of, at most; of a dataset it is a guess."""
    if "tokens" in features:
        return LABELLED
    prompts = (config["prompts"][split]["number"] for split in ("train", "analysis"))
    return config["sampling"]["samples"] * sum(prompts)


def _features(config: dict, features: dict) -> int:
    """Features of samples are in float64, those of a dataset in float32."""
    itemsize = 4 if "tokens" in features else 8
    return labelled_texts(config, features) * config["model"]["width"] * itemsize


def _extracting(config: dict, features: str, **_) -> float:
    model, wanted = model_of(config), feature_sets(config)[features]
    rows = min(labelled_texts(config, wanted), config["generation"]["batch_size"])
    read = model.reading(rows * wanted.get("tokens", sum(lengths(config))))
    return PROCESS + model.weights + read + _features(config, wanted)


def _fitting(config: dict, direction: str, **_) -> float:
    """Features with copies of parts of them, as they are and standardised; then the model, which
    decodes the direction."""
    features = features_of(config, direction)
    fit = 0 if features is None else PROCESS + 6 * _features(config, features)
    return max(fit, costs.loading(config))


MEMORY = {"extract_features": _extracting, "fit_direction": _fitting}


def work_of_directions(config: dict) -> Iterator[Work]:
    """Yield the work of extracting features and making directions."""
    for name, wanted in feature_sets(config).items():
        per_text = wanted.get("tokens", MIXED * sum(lengths(config)))
        read = round(labelled_texts(config, wanted) * per_text)
        yield Work("extract_features", {"features": name}, read=read)
    for name in config["directions"]:
        yield Work("fit_direction", {"direction": name})
