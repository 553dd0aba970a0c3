"""What the stages of a study have in common: the models, how they read, and how work is split."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from snakemake.io import contains_wildcard

LINKS = Path("resources", "links")  # in the working directory
SPLITS = ("train", "analysis", "evaluation")


@dataclass(frozen=True)
class Stage:
    """A stage of the study that a checked configuration describes.

    The methods of its subclasses are what its rules take their inputs and params from: a method
    that takes `wildcards` is given to a rule as it is, others are called.
    """

    config: dict

    @property
    def gpus(self) -> int:
        """How many GPUs a rule that runs a model asks for."""
        return 0 if self.config["device"] == "cpu" else 1

    @property
    def scorers(self) -> list[str]:
        """The names of the scorers; the one that labels the samples comes first."""
        return list(self.config["scorers"])

    def base_model(self, wildcards) -> str:
        """Return the folder of the base model."""
        return f"resources/models/{wildcards.model}"

    def tuned_model(self, wildcards) -> str:
        """Return the folder of a tuned model: tuned here, or brought from a source."""
        if "source" in self.config["tuned"][wildcards.tuned]:
            return f"resources/models/{wildcards.tuned}"
        return f"results/{wildcards.model}/{wildcards.tuned}/model"

    def compared_models(self, wildcards) -> dict[str, str]:
        """Return the folders of the base and the tuned model."""
        return {
            "base_model": self.base_model(wildcards),
            "tuned_model": self.tuned_model(wildcards),
        }

    def reading(self, **changes) -> dict:
        """Return how texts are read: the fields of lm.loading.Reading but for the threads.

        Of generation it is all but the length, which is said to those who generate.
        """
        generation = self.config["generation"].items()
        return {
            "dtype": self.config["model"]["dtype"],
            "device": self.config["device"],
            "max_tokens": self.config["prompts"]["max_tokens"],
            **{key: value for key, value in generation if key != "new_tokens"},
        } | changes

    def exact_reading(self) -> dict:
        """Return how texts are read where a residual stream is added up, in float32 in every study.

        What 16 bits lose there is more than some layers contribute.
        """
        return self.reading(dtype="float32")

    def statistics(self) -> dict:
        """Return how intervals are made: the fields of analysis.statistics.Statistics."""
        return self.config["statistics"] | {"seed": self.config["seed"]}

    def sharded(self, path: str, **wildcards) -> list[str]:
        """Return the paths of all shards of a file, for all combinations of wildcards' values."""
        number = self.config["shards"]
        paths = []
        for shard in range(1, number + 1):
            of_shard = path.replace("{shard}", f"{shard}-of-{number}")
            for values in product(*wildcards.values()):
                filled = of_shard
                for name, value in zip(wildcards, values, strict=True):
                    filled = filled.replace(f"{{{name}}}", value)
                paths.append(filled)
        return paths


def linked(path: str) -> str:
    """Return a path of the user's for an `input`: Snakemake would take {old} in it for a wildcard.

    Such a path stands behind a link in the working directory, which is made here.
    """
    if "{" not in path or not contains_wildcard(path):
        return path
    there = Path(path).absolute()
    link = LINKS / hashlib.sha256(str(there).encode()).hexdigest()[:16]
    if there.suffix.isascii() and "{" not in there.suffix:
        link = link.with_suffix(there.suffix)
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another process was faster
            link.symlink_to(there)
    return str(link)


def direction_file(name: str) -> str:
    """Return the file of a direction, with the model as a wildcard."""
    return f"results/{{model}}/base/directions/{name}.safetensors"
