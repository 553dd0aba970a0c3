"""Models, datasets, scorers, prompts and neutral text: what a configuration says of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from snakemake.exceptions import WorkflowError

from neurondynamics.data.texts import url_name
from neurondynamics.limits import NETWORKS
from neurondynamics.study.costs import HEADS, PROCESS, SHAPE, model_of
from neurondynamics.study.lengths import longest
from neurondynamics.study.schema import ORIGINS
from neurondynamics.study.stage import SPLITS, Stage, linked
from neurondynamics.study.wording import known

STUDIES = Path(__file__).resolve().parents[3] / "studies"
CORPORA = ("dataset", "continued")  # of windows for perplexity, of passages for F1
# measured on the default study
PROFANITY = 300e6  # the interpreter with scikit-learn and the scorer, and texts
CLASSIFIER = 3e9  # the largest of Detoxify's took 2.6e9 for 64 texts of 512 tokens


class Sources(Stage):
    """What the rules that bring models, data and scorers take."""

    def dataset_files(self, wildcards) -> list[str]:
        """Return the local files of a dataset; one from elsewhere has none.

        Raises WorkflowError for the results of another study that are not there yet.
        """
        dataset = self.config["datasets"][wildcards.dataset]
        paths = [] if origins_of(dataset) else [file["path"] for file in dataset["files"]]
        for path in paths:
            if is_result(path) and not Path(path).is_file():
                raise WorkflowError(results_of_another(f"datasets.{wildcards.dataset}", path))
        return list(map(linked, paths))

    def dataset(self, wildcards) -> dict:
        """Return what the configuration says of a dataset."""
        return self.config["datasets"][wildcards.dataset]

    def splits(self) -> dict[str, dict]:
        """Return the dataset, number and exclusions of every split."""
        return {split: self.config["prompts"][split] for split in SPLITS}

    def prompt_datasets(self) -> dict[str, dict]:
        """Return the datasets that the splits take prompts from or leave prompts of out."""
        names = set().union(*map(datasets_of, self.splits().values()))
        return {name: self.config["datasets"][name] for name in sorted(names)}

    def prompt_folders(self) -> list[str]:
        """Return the folders of the datasets that the splits depend on."""
        return [f"resources/datasets/{name}" for name in self.prompt_datasets()]

    def corpus_name(self, wildcards) -> str:
        """Return the dataset of neutral text: the corpus, passages to continue, texts to steer."""
        if wildcards.corpus == "neutral":
            return self.config["preferences"]["dataset"]
        return self.config["corpus"]["dataset" if wildcards.corpus == "corpus" else "continued"]

    def corpus_dataset(self, wildcards) -> dict:
        """Return what the configuration says of a dataset of neutral text."""
        return self.config["datasets"][self.corpus_name(wildcards)]

    def corpus_folder(self, wildcards) -> str:
        """Return the folder of a dataset of neutral text."""
        return f"resources/datasets/{self.corpus_name(wildcards)}"

    def model_source(self, wildcards) -> dict:
        """Return where a fetched model comes from: the base model, or a tuned one."""
        if self._is_base(wildcards):
            return self.config["model"]["source"]
        return self.config["tuned"][wildcards.fetched]["source"]

    def model_files(self, wildcards) -> list[str]:
        """Return the local files that a model is copied from."""
        return list(map(linked, local_files(self.model_source(wildcards))))

    def fetching(self, wildcards) -> dict:
        """Return where a model comes from, and what it is held against once it is there.

        A tuned version's shape is compared with the base model itself. How much is read is known
        to fit the base model where its positions are.
        """
        model = self.config["model"]
        settings = {"source": self.model_source(wildcards), "shape": {}, "dtype": model["dtype"]}
        if self._is_base(wildcards):
            settings["shape"] = {key: model[key] for key in (*SHAPE, *HEADS) if key in model}
        if not self._is_base(wildcards) or "positions" not in model:
            settings["lengths"] = longest(self.config)
        return settings

    def model_to_be_like(self, wildcards) -> list[str] | str:
        """Return the folder of the base model, for a tuned version that is brought."""
        if self._is_base(wildcards):
            return []
        return f"resources/models/{self.config['model']['name']}"

    def _is_base(self, wildcards) -> bool:
        return wildcards.fetched == self.config["model"]["name"]

    def scorer(self, wildcards) -> str:
        """Return the scorer of a job; samples are scored by the one that labels them."""
        return wildcards.get("scorer", self.scorers[0])

    def scorer_folder(self, wildcards) -> list[str] | str:
        """Return the folder of what a scorer is loaded from, if anything."""
        name = self.scorer(wildcards)
        return f"resources/scorers/{name}" if parts_of(self.config["scorers"][name]) else []

    def scorer_sources(self, wildcards) -> dict[str, dict]:
        """Return where the parts come from that a scorer is loaded from, by part."""
        return parts_of(self.config["scorers"][wildcards.scorer])

    def scorer_files(self, wildcards) -> list[str]:
        """Return the local files that a scorer is copied from."""
        sources = self.scorer_sources(wildcards).values()
        return [linked(file) for source in sources for file in local_files(source)]

    def _runs_network(self, wildcards) -> bool:
        return self.config["scorers"][self.scorer(wildcards)]["kind"] in NETWORKS

    def scorer_gpus(self, wildcards) -> int:
        """Return how many GPUs a scorer asks for."""
        return self.gpus if self._runs_network(wildcards) else 0

    def scorer_threads(self, wildcards) -> int:
        """Return how many threads a scorer can use."""
        return 8 if self._runs_network(wildcards) else 1

    def scorer_options(self, wildcards) -> dict:
        """Return the kind of a scorer and its options: all that is said of it but what it reads
        and from which score a text counts, for whoever uses the scores."""
        scorer = self.config["scorers"][self.scorer(wildcards)]
        parts = parts_of(scorer)
        options = {k: v for k, v in scorer.items() if k not in parts and k != "threshold"}
        if parts:
            options["folder"] = self.scorer_folder(wildcards)
        return options | (
            {"device": self.config["device"]} if self._runs_network(wildcards) else {}
        )


def origins_of(source: dict) -> list[str]:
    """Return which of wheel, hub, url and path a source or dataset names.

    What holds datasets or scorers names none, though one of them may be called so.
    """
    return [origin for origin in ORIGINS if isinstance(source.get(origin), str)]


def parts_of(scorer: dict) -> dict[str, dict]:
    """Return the sources of what a scorer is loaded from, by part."""
    named = {part: value for part, value in scorer.items() if isinstance(value, dict)}
    return {part: value for part, value in named.items() if origins_of(value)}


def local_files(source: dict) -> list[str]:
    """Return the files of this machine that a source is copied from; others have none."""
    if "path" not in source:
        return []
    # a folder's own time says nothing about weights that were overwritten in it
    files = [str(file) for file in Path(source["path"]).glob("*") if file.is_file()]
    return sorted(files) or [source["path"]]


def is_result(path: str) -> bool:
    """Return whether a file is what a study makes: this one, or one that is run before."""
    return Path(path).parts[:1] == ("results",)


def results_of_another(key: str, path: str) -> str:
    """Return what is to be run before a study that reads a result of another one."""
    model = Path(path).parts[1]
    command = "snakemake --cores all --configfile THAT-STUDY.yaml"
    for overlay in sorted(STUDIES.glob("*.yaml")):
        if f"\n  name: {model}\n" in (text := overlay.read_text(encoding="utf-8")):
            command = re.search(r"^#\s+(snakemake .+)$", text, re.MULTILINE)[1]
    return (
        f"{key}.files: there is no file {path}. The study of {model} makes it: run that first, in "
        f"this folder: {command} -- {path}"
    )


def datasets_of(split: dict) -> set[str]:
    """Return the datasets that a split takes prompts from or leaves prompts of out."""
    return {split["dataset"], *split.get("exclude", [])}


def sources_in(value, key: str = "") -> Iterator[tuple[str, dict]]:
    """Yield every source of a configuration, and every dataset, with its key."""
    if isinstance(value, dict):
        if origins_of(value):
            yield key, value
        for name, part in value.items():
            yield from sources_in(part, f"{key}.{name}" if key else name)


def is_gguf(version: dict) -> bool:
    """Return whether a version of a model comes as a GGUF file."""
    source = version.get("source", {})
    names = [file["path"] for file in source.get("files", [])]
    names += [source[key] for key in ("path", "url") if key in source]
    return any(name.endswith(".gguf") for name in names)


def contradictions(config: dict) -> Iterator[str]:
    """Yield what does not go together in sources, prompts, neutral text and scorers, a line each.

    What each kind of source or scorer takes is in the schema.
    """
    for key, source in sources_in(config):
        if "url" in source:
            try:
                url_name(source["url"])
            except ValueError as error:
                yield f"{key}.url: {error}"
        for index, file in enumerate(source.get("files", [])):
            if "wheel" in source and "sha256" not in file:
                yield f"{key}.files[{index}].sha256: this key is missing (a wheel's file needs it)"
    yield from _datasets(config)
    labeller = config["sampling"]["scorer"]
    yield from known("sampling.scorer", labeller, config["scorers"], "scorer")
    yield from _shards(config)


def _datasets(config: dict) -> Iterator[str]:
    used = {f"corpus.{key}": config["corpus"][key] for key in CORPORA if key in config["corpus"]}
    for split in SPLITS:
        used[f"prompts.{split}.dataset"] = config["prompts"][split]["dataset"]
        for index, name in enumerate(config["prompts"][split].get("exclude", [])):
            used[f"prompts.{split}.exclude[{index}]"] = name
    for key, name in used.items():
        yield from known(key, name, config["datasets"], "dataset")
        format_ = config["datasets"].get(name, {}).get("format")
        if key.startswith("prompts.") and format_ == "mediawiki":
            yield f"{key}: {name!r} holds articles, not prompts"


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


def _fetching(config: dict, fetched: str = "", **_) -> float:
    """Return the memory of fetching a model."""
    # a dequantised model and its plain copy
    copies = 2 if any(map(is_gguf, (config["model"], *config["tuned"].values()))) else 0
    # a tuned version may be an adapter, which is merged into the model; others are not loaded
    model = model_of(config, "float32")
    merged = model.weights + model.vocabulary * model.width * model.itemsize
    return PROCESS + max(merged * (fetched in config["tuned"]), copies * model.weights)


def _scoring(config: dict, scorer: str | None = None, **_) -> float:
    """Return the memory of a scorer."""
    kind = config["scorers"][scorer or config["sampling"]["scorer"]]["kind"]
    return CLASSIFIER if kind in NETWORKS else PROFANITY


MEMORY = {
    "fetch_model": _fetching,
    "score_continuations": _scoring,
    "score_generations": _scoring,
}
