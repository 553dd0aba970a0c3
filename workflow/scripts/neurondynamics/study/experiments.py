"""Experiments and exports: what a configuration says of them."""

from __future__ import annotations

from collections.abc import Iterator

from snakemake.exceptions import WorkflowError

from neurondynamics.limits import TOKENS_PER_PASS
from neurondynamics.study.costs import PROCESS, Work, lengths, model_of
from neurondynamics.study.interventions import (
    all_steps,
    follows,
    is_search,
    named_directions,
    problems_of_controls,
    problems_of_step,
    searches,
    selected_files,
    split_of,
    with_controls,
)
from neurondynamics.study.sources import CORPORA
from neurondynamics.study.stage import Stage, direction_file, linked
from neurondynamics.study.wording import known

OF_EXPERIMENT = "results/{model}/{tuned}/experiments/{experiment}"
GENERATIONS = f"{OF_EXPERIMENT}/generations/{{shard}}.parquet"
SCORES = f"{OF_EXPERIMENT}/scores/{{scorer}}/{{shard}}.parquet"
MEASURES = f"{OF_EXPERIMENT}/measures/{{shard}}.parquet"
LOSSES = f"{OF_EXPERIMENT}/losses/{{shard}}.parquet"
CHOICE = f"{OF_EXPERIMENT}/choice.json"


class Experiments(Stage):
    """What the rules of experiments, of their tables and of exports take."""

    @property
    def states(self) -> dict[str, str]:
        """The model state of each experiment that is reported; a search is not."""
        every = self.config["experiments"].items()
        return {name: one["state"] for name, one in every if not is_search(one)}

    def judged(self) -> dict:
        """Return what the tables that compare interventions have in common."""
        return {
            "states": self.states,
            "behaviour": self.config["behaviour"],
            "statistics": self.statistics(),
        }

    def reported(self, path: str) -> list[str]:
        """Return the shards of a file of all experiments that are reported, by every scorer."""
        scorers = {"scorer": self.scorers} if "{scorer}" in path else {}
        return self.sharded(path, experiment=list(self.states), **scorers)

    def of_search(self, path: str) -> list[str]:
        """Return the shards of a file of one experiment, by the scorer that labels the samples."""
        scorers = {"scorer": self.scorers[:1]} if "{scorer}" in path else {}
        return self.sharded(path, **scorers)

    def thresholds(self) -> dict[str, float]:
        """Return the score above which a text counts, by scorer."""
        return {name: scorer["threshold"] for name, scorer in self.config["scorers"].items()}

    def largest_perplexity(self, wildcards) -> float:
        """Return the limit of a search, as a multiple of the unedited model's perplexity."""
        return self._experiment(wildcards)["search"]["perplexity"]

    def _experiment(self, wildcards) -> dict:
        return self.config["experiments"][wildcards.experiment]

    def experiment_model(self, wildcards) -> str:
        """Return the folder of the model that an experiment runs on."""
        on_base = self._experiment(wildcards)["state"] == "base"
        return self.base_model(wildcards) if on_base else self.tuned_model(wildcards)

    def _needed(self, steps: list[dict], wildcards) -> dict[str, list[str]]:
        """Return the files that steps select neurons from, and the directions they subtract."""
        directions = map(direction_file, named_directions(steps))
        return {
            "files": list(map(linked, selected_files(steps))),
            "directions": [path.format(model=wildcards.model) for path in directions],
        }

    def _choice(self, search: str, wildcards) -> str:
        names = {**dict(wildcards.items()), "experiment": search}
        return CHOICE.format(**names)

    def experiment_inputs(self, wildcards) -> dict:
        """Return the model that an experiment runs on, its texts, and what its steps need.

        `choices` are the outcomes of its searches; `tuned_model` is the model that paired patches
        follow, `continued` the passages where they are not those of the corpus.
        """
        experiment = self._experiment(wildcards)
        steps = list(all_steps(self.config["experiments"], experiment))
        base = f"results/{wildcards.model}/base"
        found = {
            "model": self.experiment_model(wildcards),
            "prompts": f"{base}/prompts/{split_of(experiment)}.jsonl",
            "corpus": f"{base}/corpus.jsonl",
            **self._needed(steps, wildcards),
            "choices": [self._choice(s, wildcards) for s in searches(experiment).values()],
        }
        if "continued" in self.config["corpus"]:
            found["continued"] = f"{base}/passages.jsonl"
        if any(map(follows, steps)):
            found["tuned_model"] = self.tuned_model(wildcards)
        return found

    def experiment(self, wildcards) -> dict:
        """Return an experiment's interventions, and what is generated and read under them.

        `passages` are the numbers and widths of the neutral text. An intervention that is the best
        of a search stands for all that it may be.
        """
        corpus, experiment = self.config["corpus"], self._experiment(wildcards)
        candidates = {
            name: {"best_of": self.config["experiments"][search]["interventions"]}
            for name, search in searches(experiment).items()
        }
        return {
            "interventions": with_controls(experiment) | candidates,
            "passages": {key: value for key, value in corpus.items() if key not in CORPORA},
            "new_tokens": self.config["generation"]["new_tokens"],
            "seed": self.config["seed"],
        }

    def _exported(self, wildcards) -> list[dict] | dict:
        """Return the steps of an intervention that is exported, controls included."""
        interventions = self.experiment(wildcards)["interventions"]
        if wildcards.intervention not in interventions:
            raise WorkflowError(
                f"the experiment {wildcards.experiment} has no intervention "
                f"{wildcards.intervention}; it has {', '.join(interventions)}"
            )
        return interventions[wildcards.intervention]

    def exported_inputs(self, wildcards) -> dict:
        """Return what exporting an intervention needs beside its model and the neurons.

        `choice` is the outcome of the search that the intervention is the best of.
        """
        steps = self._exported(wildcards)
        if isinstance(steps, list):
            return self._needed(steps, wildcards)
        search = searches(self._experiment(wildcards))[wildcards.intervention]
        experiments = self.config["experiments"]
        candidates = list(all_steps(experiments, experiments[search]))
        return {**self._needed(candidates, wildcards), "choice": self._choice(search, wildcards)}

    def export(self, wildcards) -> dict:
        """Return an exported intervention's steps, and the names that its model card gives."""
        on_tuned = self._experiment(wildcards)["state"] == "tuned"
        return {
            "steps": self._exported(wildcards),
            "model_name": f"{wildcards.model}/{wildcards.tuned}" if on_tuned else wildcards.model,
            "experiment": wildcards.experiment,
            "intervention": wildcards.intervention,
        }


def contradictions(config: dict) -> Iterator[str]:
    """Yield what does not go together in experiments and where they are named, a line each."""
    experiments = config["experiments"]
    for name, experiment in experiments.items():
        key = f"experiments.{name}"
        yield from _experiment(experiment, key, experiments)
        for intervention, steps in experiment["interventions"].items():
            place = f"{key}.interventions.{intervention}"
            if intervention == "none" and steps:
                yield f"{place}: none is the baseline and has no edits"
            for index, step in enumerate(steps if isinstance(steps, list) else ()):
                yield from problems_of_step(step, f"{place}[{index}]", experiment["state"], config)
    yield from _baselines(experiments)
    if "curve" in config:
        yield from known("curve", config["curve"], experiments, "experiment")
    yield from _published(config)


def _experiment(experiment: dict, key: str, experiments: dict) -> Iterator[str]:
    interventions = experiment["interventions"]
    if is_search(experiment):
        if "none" not in interventions or len(interventions) < 2:
            yield f"{key}: a search needs the baseline `none: []` and interventions to choose from"
        if "controls" in experiment:
            yield f"{key}.controls: a search has no controls"
        if searches(experiment):
            yield f"{key}: a search cannot take the best of another"
    for name, search in searches(experiment).items():
        place = f"{key}.interventions.{name}.best_of"
        if not is_search(experiments.get(search, {})):
            yield f"{place}: {search!r} is no experiment with the key search"
        elif experiments[search]["state"] != experiment["state"]:
            yield f"{place}: {search} runs on the {experiments[search]['state']} model"
    yield from problems_of_controls(experiment, f"{key}.controls")


def _baselines(experiments: dict) -> Iterator[str]:
    found: dict[str, list[str]] = {"base": [], "tuned": []}
    for name, experiment in experiments.items():
        if "none" in experiment["interventions"] and not is_search(experiment):
            found[experiment["state"]].append(f"experiments.{name}.interventions.none")
    for state, keys in found.items():
        if len(keys) != 1:
            where = f"stands in {' and '.join(keys)}" if keys else "is missing"
            yield (
                f"experiments: the baseline `none: []` of the state {state} {where}; it must "
                "stand in exactly one experiment of that state, beside those of searches"
            )


def _published(config: dict) -> Iterator[str]:
    """What was published stands beside interventions that are reported."""
    for name, items in config.get("published", {}).get("interventions", {}).items():
        experiment, key = config["experiments"].get(name), f"published.interventions.{name}"
        if experiment is None or is_search(experiment):
            yield f"{key}: there is no experiment of this name that is reported"
        else:
            for item in items:
                place, there = f"{key}.{item}", experiment["interventions"]
                yield from known(place, item, there, "intervention")


def _experimenting(config: dict, experiment: str, **_) -> float:
    model, corpus, (prompt, new) = model_of(config), config["corpus"], lengths(config)
    chosen = config["experiments"][experiment]
    texts = config["prompts"][split_of(chosen)]["number"] + corpus["continuations"]
    rows = min(texts, config["generation"]["batch_size"])
    width = corpus["window_tokens"]
    tokens = width * min(corpus["windows"], max(1, TOKENS_PER_PASS // width))
    models = 2 if any(map(follows, all_steps(config["experiments"], chosen))) else 1
    caches = models * model.caches(rows, max(prompt, corpus["passage_tokens"]), new)
    work = max(caches + model.logits(rows), model.logits(tokens))
    return PROCESS + models * model.weights + work


def _exporting(config: dict, **_) -> float:
    """The model and its changed copy, in whatever precision it is stored: float32 at most."""
    return PROCESS + 2 * model_of(config, "float32").weights


MEMORY = {"run_experiment": _experimenting, "export_model": _exporting}


def work_of_experiments(config: dict, tuned: str) -> Iterator[Work]:
    """Yield the work of a version's experiments and of scoring them."""
    for name, experiment in config["experiments"].items():
        yield _work(config, tuned, name)
        scorers = config["scorers"]
        for scorer in [config["sampling"]["scorer"]] if is_search(experiment) else scorers:
            job = {"tuned": tuned, "experiment": name, "scorer": scorer}
            yield Work("score_generations", job, config["shards"], models=0)


def _work(config: dict, tuned: str, name: str) -> Work:
    """Return an experiment's work; a model that is followed reads what the edited one reads."""
    corpus, experiment = config["corpus"], config["experiments"][name]
    texts = config["prompts"][split_of(experiment)]["number"] + corpus["continuations"]
    prompt, new = lengths(config)
    read = decoded = 0
    most = 1
    for steps in with_controls(experiment).values():
        chosen = steps if isinstance(steps, list) else []
        models = 2 if any(map(follows, chosen)) else 1
        everywhere = any(step.get("positions") == "all" for step in chosen)
        read += models * corpus["windows"] * corpus["window_tokens"]
        read += models * texts * prompt if everywhere else 0
        decoded += models * texts * new
        most = max(most, models)
    read += most * texts * prompt
    wildcards = {"tuned": tuned, "experiment": name}
    return Work("run_experiment", wildcards, config["shards"], read, decoded, models=most)
