"""Preference pairs and the versions tuned on them: what a configuration says of them."""

from __future__ import annotations

from collections.abc import Iterator

from neurondynamics.study.costs import PROCESS, Work, lengths, model_of
from neurondynamics.study.directions import SAMPLED, SCORED, features_of, read_samples
from neurondynamics.study.margins import wants_margins
from neurondynamics.study.stage import SPLITS, Stage, direction_file
from neurondynamics.study.wording import known

CONTINUATIONS = "results/{model}/base/continuations/{split}/{shard}.parquet"
STEERED = "results/{model}/base/steered/{shard}.parquet"
UNSEEN = "results/{model}/base/unseen_pairs.parquet"

CLASSIFIERS = ("probe", "file")  # directions that give a text a probability
OF_SAMPLES = ("sampled",)  # methods whose pairs are the base model's own samples
PAIRED_FORMATS = ("jsonl", "csv", "parquet")
# of a version, what its tuning does not go by
APART = ("seeds", "replica_of", "source")
STRENGTH = (  # of steering: the fields of tuning.steering.Strength
    *("step_size", "temperature", "top_k", "iterations", "horizon", "gamma"),
    *("gm_scale", "kl_scale"),
)


class Tuning(Stage):
    """What the rules of preference pairs and of tuning take."""

    def sampling(self) -> dict:
        """Return how continuations are sampled."""
        return {
            **{key: self.config["sampling"][key] for key in ("samples", "temperature")},
            "new_tokens": self.config["generation"]["new_tokens"],
            "seed": self.config["seed"],
        }

    def guide(self, wildcards) -> str:
        """Return the direction that continuations are steered along."""
        return direction_file(self.config["preferences"]["direction"]).format(model=wildcards.model)

    def steered_reading(self, wildcards) -> dict:
        """Return how the prompts that are steered are read."""
        return self.reading(max_tokens=self.config["preferences"]["prompt_tokens"])

    def steering(self, wildcards) -> dict:
        """Return how continuations are steered."""
        pairs = self.config["preferences"]
        read = features_of(self.config, pairs["direction"]) or {}
        return {
            **{key: pairs[key] for key in ("number", "new_tokens")},
            "strength": {key: pairs[key] for key in STRENGTH},
            "layer": read.get("layer", self.config["model"]["layers"] - 1),
            "seed": self.config["seed"],
        }

    def pair_sources(self, split: str = "train") -> list[str]:
        """Return what pairs are made of: scored samples of a split, steered continuations, or a
        dataset."""
        pairs = self.config["preferences"]
        if pairs["method"] == "ready":
            return [f"resources/datasets/{pairs['dataset']}"]
        if pairs["method"] == "steered":
            return self.sharded(STEERED)
        return self.sharded(SCORED, split=[split])

    def prompts_measured_on(self) -> list[str]:
        """Return the prompts that no pair may have; those of samples are others in any case."""
        if self.config["preferences"]["method"] in OF_SAMPLES:
            return []
        splits = [split for split in SPLITS if split != "train"]
        return [f"results/{{model}}/base/prompts/{split}.jsonl" for split in splits]

    def pairing(self, unseen: bool = False) -> dict:
        """Return how pairs are brought together: those to tune on, or those that nothing has seen.

        These are held out of the others, where they are not samples of other prompts.
        """
        pairs, number = self.config["preferences"], self.config["fidelity"]["pairs"]
        kept = {key: pairs[key] for key in ("method", "margin", "maximum") if key in pairs}
        if pairs["method"] == "ready":
            kept["dataset"] = self.config["datasets"][pairs["dataset"]]
        if pairs["method"] not in OF_SAMPLES:
            kept["held_out"] = number
        if unseen:
            kept |= {"maximum": number, "unseen": True}
        return {**kept, "seed": self.config["seed"]}

    def recipe(self, wildcards) -> dict:
        """Return what a version is tuned with: the fields of tuning.training.Recipe."""
        version = self.config["tuned"][wildcards.tuned]
        return {key: value for key, value in version.items() if key not in APART}

    def tuning(self, wildcards) -> dict:
        """Return what tuning a version takes: its recipe, where, and how pairs are read."""
        version = self.config["tuned"][wildcards.tuned]
        return {
            **self.recipe(wildcards),
            "device": self.config["device"],
            "max_tokens": cuts(self.config, version)["max_tokens"],
        }

    def tuning_gpus(self, wildcards) -> int:
        """Return how many GPUs tuning a version asks for."""
        return self.gpus * self.config["tuned"][wildcards.tuned].get("gpus", 1)


def replica(version: str, seed: int) -> str:
    """Return the name of a version that is tuned with a further seed."""
    return f"{version}-seed{seed}"


def tuned_here(version: dict) -> bool:
    """Return whether a version is tuned by the study itself, not brought from a source."""
    return "source" not in version


def pair_tokens(config: dict, version: dict) -> tuple[int, int]:
    """Return how many tokens the prompt and each continuation of a pair have, at most.

    Pairs that are brought are taken to be as long as prompts and continuations are here, where the
    version does not say at what length they are cut.
    """
    pairs = config["preferences"]
    prompt, new = lengths(config)
    if pairs["method"] == "steered":
        prompt, new = pairs["prompt_tokens"], pairs["new_tokens"]
    return version.get("prompt_tokens", prompt), version.get("continuation_tokens", new)


def cuts(config: dict, version: dict) -> dict[str, int | None]:
    """Return what pairs are cut to where a version is tuned on them: the keywords of
    `tokenise_pairs`. Continuations that were sampled follow on what their prompts were cut to.

    For a version that is brought they are as long as others are taken to be.
    """
    sampled = config["preferences"]["method"] in OF_SAMPLES
    named = ("prompt_tokens", "continuation_tokens")
    own = dict(zip(named, pair_tokens(config, version), strict=True))
    if tuned_here(version):
        own = {key: version.get(key) for key in named}
    return {"max_tokens": config["prompts"]["max_tokens"] if sampled else None, **own}


def contradictions(config: dict) -> Iterator[str]:
    """Yield what does not go together in `preferences` and `tuned`, a line each.

    What each method of pairs and of tuning takes is in the schema.
    """
    yield from _preferences(config)
    for name, version in config["tuned"].items():
        key = f"tuned.{name}"
        if name == "base":
            yield f"{key}: the name base is taken by the folder of the base model's results"
        if name == config["model"]["name"]:
            yield f"{key}: this is the name of the model itself; give its tuned version another"
        size, gpus = version.get("batch_size", 0), version.get("gpus", 1)
        if size % gpus:
            shared = f"{gpus} cannot share a batch of {size} pairs evenly"
            yield f"{key}.gpus: {shared}; change batch_size"
        if "early_stopping" in version and config["preferences"].get("maximum", 2) < 2:
            yield f"{key}.early_stopping: of one pair none is held out; raise preferences.maximum"
        yield from _seeds(config, name)


def _preferences(config: dict) -> Iterator[str]:
    pairs = config["preferences"]
    if "dataset" in pairs:
        yield from known("preferences.dataset", pairs["dataset"], config["datasets"], "dataset")
    if "direction" in pairs:
        name, key = pairs["direction"], "preferences.direction"
        yield from known(key, name, config["directions"], "direction")
        method = config["directions"].get(name, {"method": "probe"})["method"]
        if method not in CLASSIFIERS:
            yield f"{key}: {name} gives no probabilities, which steering needs; name a probe"
    if pairs["method"] == "ready":
        form = config["datasets"].get(pairs.get("dataset"), {}).get("format", "jsonl")
        if form not in PAIRED_FORMATS:
            yield f"preferences.dataset: {form} has no pairs; a dataset of pairs is a jsonl file"


def _seeds(config: dict, name: str) -> Iterator[str]:
    version = config["tuned"][name]
    for index, seed in enumerate(version.get("seeds", [])):
        key = f"tuned.{name}.seeds[{index}]"
        if seed == version.get("seed"):
            yield f"{key}: {seed} is the seed of the version itself; seeds are further ones"
        results = replica(name, seed)
        if results in (*config["tuned"], config["model"]["name"]):
            yield f"{key}: its results go by the name {results}, which is taken; rename the other"


def _sampling(config: dict, split: str, **_) -> float:
    """Return the memory of sampling."""
    model, (prompt, new) = model_of(config), lengths(config)
    samples = config["sampling"]["samples"]
    batch = config["generation"]["batch_size"]
    at_once = min(config["prompts"][split]["number"], max(1, batch // samples))
    # the prompts' own cache stays beside that which is repeated for each sample
    own = model.cache(at_once, prompt)
    rows = at_once * samples
    return PROCESS + model.weights + own + model.caches(rows, prompt, new) + model.logits(rows)


def _steering(config: dict, **_) -> float:
    """Return the memory of steering.

    Caches of every prompt: two, their offsets, leaves and gradients in float32, and what the
    backward pass keeps of them, with the copies that attention makes for each of its heads.
    """
    model, pairs = model_of(config), config["preferences"]
    rows = min(pairs["number"], config["generation"]["batch_size"])
    cache = model.cache(rows, pairs["prompt_tokens"] + pairs["new_tokens"])
    caches = cache * (5 + 3 * 4 / model.itemsize + 2 * model.width / model.key_value_width)
    embeddings = model.vocabulary * model.width * model.itemsize
    logits = model.logits(2 * rows * (1 + pairs["horizon"]))
    return PROCESS + model.weights + embeddings + caches + logits


def _tuning(config: dict, tuned: str, **_) -> float:
    """Return the memory of tuning a version.

    What is trained, its gradients and moments, in float32; and a batch, two texts a pair. Adapters
    are few beside the model, which is merged with them in float32. Early stopping reads the best
    weights beside the last. Every process has all of this but its share of the batch.
    """
    model, version = model_of(config, "float32"), config["tuned"][tuned]
    computing = model_of(config, version.get("precision", "float32"))
    copies = 3 if version["optimizer"] == "rmsprop" else 4
    copies += "early_stopping" in version
    if "lora" in version:
        adapters = copies * model.adapters(version["lora"]["rank"])
        weights = computing.weights + model.weights + adapters
    else:
        weights = copies * model.weights
    tokens = 2 * version["batch_size"] * sum(pair_tokens(config, version))
    batch = computing.training(tokens, version.get("gradient_checkpointing", False))
    return version.get("gpus", 1) * (PROCESS + weights) + batch


MEMORY = {
    "sample_continuations": _sampling,
    "steer_continuations": _steering,
    "tune_model": _tuning,
}


def sampled_splits(config: dict) -> tuple[str, ...]:
    """Return the splits whose prompts the base model continues, for directions and pairs."""
    of_pairs = config["preferences"]["method"] in OF_SAMPLES
    splits = SAMPLED if read_samples(config) else ("train",) if of_pairs else ()
    return (*splits, "evaluation") if of_pairs and wants_margins(config) else splits


def work_of_pairs(config: dict) -> Iterator[Work]:
    """Yield the work of sampling or steering the texts of pairs and directions."""
    samples, shards = config["sampling"]["samples"], config["shards"]
    prompt, new = lengths(config)
    for split in sampled_splits(config):
        number = config["prompts"][split]["number"]
        tokens = {"read": number * prompt, "decoded": number * samples * new}
        yield Work("sample_continuations", {"split": split}, shards, **tokens)
        yield Work("score_continuations", {"split": split}, shards, models=0)
    pairs = config["preferences"]
    if pairs["method"] == "steered":
        # of each step a pass forward and as much backward, of the newest token and those of the
        # horizon; and the texts without steps, three times
        number, new = pairs["number"], pairs["new_tokens"]
        moved = 2 * pairs["iterations"] * (1 + pairs["horizon"])
        read = 2 * number * (2 * pairs["prompt_tokens"] + new)
        tokens = {"read": read, "decoded": number * new * (3 + moved)}
        yield Work("steer_continuations", jobs=shards, **tokens)


def work_of_tuning(config: dict, name: str) -> Work:
    """Return the work of tuning a version, were it not to end early, or of fetching it.

    Two texts a pair, which are read once more for the reference. KTO reads others as well, and
    held-out pairs are read at each evaluation.
    """
    version, pairs = config["tuned"][name], config["preferences"]["maximum"]
    if not tuned_here(version):
        return Work("fetch_model", {"fetched": name})
    tokens = 2 * pairs * sum(pair_tokens(config, version))
    trained = round(tokens * version["epochs"])
    read = tokens + (tokens + trained if version["method"] == "kto" else 0)
    if "early_stopping" in version:
        stopping = version["early_stopping"]
        trained = round(trained * (1 - stopping["held_out"]))
        per_step = version["batch_size"] * version["accumulation"]
        steps = pairs * (1 - stopping["held_out"]) * version["epochs"] / per_step
        read += round(tokens * stopping["held_out"] * steps / stopping["every"])
    return Work("tune_model", {"tuned": name}, read=read, trained=trained)
