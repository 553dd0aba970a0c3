"""Experiments and exports: what a configuration says of them."""

from __future__ import annotations

from snakemake.exceptions import WorkflowError

from neurondynamics.study.claims import named_claims
from neurondynamics.study.interventions import (
    BEHAVIOUR,
    DAMAGE,
    FIDELITY,
    MEASURED,
    all_steps,
    followed_state,
    follows,
    is_search,
    measures_of,
    moves,
    named_directions,
    ranks_by_weights,
    searches,
    selected_files,
    split_of,
    with_controls,
)
from neurondynamics.study.margins import margins_of
from neurondynamics.study.rankings import NAME as RANKINGS
from neurondynamics.study.rankings import curves, is_ranked, sizes
from neurondynamics.study.sources import CORPORA
from neurondynamics.study.stage import Stage, direction_file, linked
from neurondynamics.study.tuning import UNSEEN, cuts

OF_EXPERIMENT = "results/{model}/{tuned}/experiments/{experiment}"
GENERATIONS = f"{OF_EXPERIMENT}/generations/{{shard}}.parquet"
SCORES = f"{OF_EXPERIMENT}/scores/{{scorer}}/{{shard}}.parquet"
MEASURES = f"{OF_EXPERIMENT}/measures/{{shard}}.parquet"
LOSSES = f"{OF_EXPERIMENT}/losses/{{shard}}.parquet"
FIDELITIES = f"{OF_EXPERIMENT}/fidelity/{{shard}}.parquet"
MARGINS = f"{OF_EXPERIMENT}/margins/{{shard}}.parquet"
FOLLOWED = "results/{model}/{tuned}/followed/{followed}.parquet"
CHOICE = f"{OF_EXPERIMENT}/choice.json"
UNITS = {name: f"results/{{model}}/{{tuned}}/{name}.parquet" for name in ("neurons", "heads")}
MEASURED_UNITS = "results/{model}/{tuned}/units.parquet"


class Experiments(Stage):
    """What the rules of experiments, of their tables and of exports take."""

    def states(self, *measures: str) -> dict[str, str]:
        """Return the model state of each experiment that is reported, and of which any of these is
        measured; of all, if none is named. A search is not reported; rankings are in tables of
        their own."""
        every = self.config["experiments"].items()
        return {
            name: one["state"]
            for name, one in every
            if not is_search(one)
            and not is_ranked(one)
            and (not measures or set(measures) & set(measures_of(one)))
        }

    def judged(self, *measures: str) -> dict:
        """Return what the tables that compare interventions have in common."""
        return {
            "states": self.states(*measures),
            "behaviour": self.config["behaviour"],
            "statistics": self.statistics(),
        }

    def compared(self) -> dict:
        """Return what the table of all interventions takes beside their files: by what is measured,
        the experiments that are reported."""
        return self.controlled() | {"thresholds": self.thresholds()}

    def controlled(self) -> dict:
        """Return the same without thresholds."""
        measured = {measure: list(self.states(measure)) for measure in MEASURED}
        return self.judged() | {"measured": measured}

    def claimed(self) -> dict:
        """Return what claims are about: interventions, and what they are judged by."""
        return {
            **self.judged("behaviour"),
            "read": self.states("fidelity"),
            **named_claims(self.config, self.states()),
            "scorers": self.scorers,
        }

    def reported(self, path: str) -> list[str]:
        """Return the shards of a file of all experiments that are reported and have one, by every
        scorer."""
        of_path = {SCORES: [BEHAVIOUR], FIDELITIES: [FIDELITY], MARGINS: [FIDELITY]}
        names = list(self.states(*of_path.get(path, [BEHAVIOUR, DAMAGE])))
        if path == MARGINS:
            names = [name for name in names if margins_of(self.config["experiments"][name])]
        scorers = {"scorer": self.scorers} if path == SCORES else {}
        return self.sharded(path, experiment=names, **scorers)

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
        """Return the files that steps select neurons from, with the table of what is `measured` of
        units if one is ranked by it, and the directions they subtract."""
        directions = map(direction_file, named_directions(steps))
        measured = MEASURED_UNITS.format(**dict(wildcards.items()))
        return {
            "files": list(map(linked, selected_files(steps))),
            "directions": [path.format(model=wildcards.model) for path in directions],
            **({"measured": measured} if any(map(ranks_by_weights, steps)) else {}),
        }

    def _choice(self, search: str, wildcards) -> str:
        names = {**dict(wildcards.items()), "experiment": search}
        return CHOICE.format(**names)

    def _edited(self, wildcards) -> dict:
        """Return what it takes to edit an experiment's model: its folder, what its steps need, and
        `choices`, the outcomes of its searches."""
        experiment = self._experiment(wildcards)
        return {
            "model": self.experiment_model(wildcards),
            **self._needed(list(all_steps(self.config["experiments"], experiment)), wildcards),
            "choices": [self._choice(s, wildcards) for s in searches(experiment).values()],
        }

    def experiment_inputs(self, wildcards) -> dict:
        """Return the model that an experiment runs on, its texts, and what its steps need.

        `followed_model` is the model that paired patches follow, `continued` the passages where
        they are not those of the corpus.
        """
        experiment = self._experiment(wildcards)
        base = f"results/{wildcards.model}/base"
        found = {
            **self._edited(wildcards),
            "prompts": f"{base}/prompts/{split_of(experiment)}.jsonl",
            "corpus": f"{base}/corpus.jsonl",
        }
        if "continued" in self.config["corpus"]:
            found["continued"] = f"{base}/passages.jsonl"
        steps = list(all_steps(self.config["experiments"], experiment))
        if any(map(follows, steps)) or any(map(moves, steps)):
            found["followed_model"] = self.followed_model(wildcards)
        return found

    def fidelity_inputs(self, wildcards) -> dict:
        """Return the two models of an experiment, the text of the followed one, what its steps
        need, and the pairs whose margins are measured, if there are some."""
        experiment = self._experiment(wildcards)
        names = {**dict(wildcards.items()), "followed": followed_state(experiment)}
        pairs = {"pairs": UNSEEN.format(**names)} if margins_of(experiment) else {}
        return {
            **self._edited(wildcards),
            **pairs,
            "followed_model": self.followed_model(wildcards),
            "texts": FOLLOWED.format(**names),
        }

    def followed_model(self, wildcards) -> str:
        """Return the folder of the other model: that which an experiment's patches move toward."""
        state = wildcards.get("followed") or followed_state(self._experiment(wildcards))
        return self.base_model(wildcards) if state == "base" else self.tuned_model(wildcards)

    def fidelity(self, wildcards) -> dict:
        """Return an experiment's interventions and the state of the model that they edit, those
        whose margins are measured, and what pairs are cut to."""
        experiment = self._experiment(wildcards)
        named = margins_of(experiment)
        version = self.config["tuned"][wildcards.tuned]
        paired = {"named": named, "cuts": cuts(self.config, version)} if named else {}
        read = self.config[RANKINGS]["prompts"] if is_ranked(experiment) else None
        return {
            "interventions": self.interventions(wildcards),
            "state": experiment["state"],
            **paired,
            **({} if read is None else {"number": read, "seed": self.config["seed"]}),
        }

    def ranked(self) -> dict:
        """Return the rankings of a study, and their sizes."""
        found = [curve._asdict() for curve in curves(self.config)]
        return {"curves": found, "sizes": sizes(self.config)}

    def followed_texts(self) -> dict:
        """Return how many of the evaluation prompts the followed model continues, and how far."""
        return {
            "number": self.config["fidelity"]["prompts"],
            "new_tokens": self.config["generation"]["new_tokens"],
            "seed": self.config["seed"],
        }

    def account(self) -> dict:
        """Return on how many of the tuned model's texts the account of the tuning is taken."""
        return {"number": self.config["account"]["prompts"], "seed": self.config["seed"]}

    def interventions(self, wildcards) -> dict[str, list[dict] | dict]:
        """Return an experiment's interventions by name: their steps, controls included.

        One that is the best of a search stands for all that it may be.
        """
        experiment = self._experiment(wildcards)
        candidates = {
            name: {"best_of": self.config["experiments"][search]["interventions"]}
            for name, search in searches(experiment).items()
        }
        return with_controls(experiment) | candidates

    def experiment(self, wildcards) -> dict:
        """Return an experiment's interventions, and what is generated and read under them.

        `passages` are the numbers and widths of the neutral text.
        """
        corpus = self.config["corpus"].items()
        return {
            "interventions": self.interventions(wildcards),
            "state": self._experiment(wildcards)["state"],
            "measures": measures_of(self._experiment(wildcards)),
            "passages": {key: value for key, value in corpus if key not in CORPORA},
            "new_tokens": self.config["generation"]["new_tokens"],
            "seed": self.config["seed"],
        }

    def _exported(self, wildcards) -> list[dict] | dict:
        """Return the steps of an intervention that is exported, controls included."""
        interventions = self.interventions(wildcards)
        if wildcards.intervention not in interventions:
            raise WorkflowError(
                f"the experiment {wildcards.experiment} has no intervention "
                f"{wildcards.intervention}; it has {', '.join(interventions)}"
            )
        return interventions[wildcards.intervention]

    def exported_inputs(self, wildcards) -> dict:
        """Return what exporting an intervention needs beside its model and the neurons: the other
        model, where weights are moved toward it.

        `choice` is the outcome of the search that the intervention is the best of.
        """
        steps = self._exported(wildcards)
        found = {}
        if isinstance(steps, dict):
            search = searches(self._experiment(wildcards))[wildcards.intervention]
            experiments = self.config["experiments"]
            steps = list(all_steps(experiments, experiments[search]))
            found["choice"] = self._choice(search, wildcards)
        if any(map(moves, steps)):
            found["followed_model"] = self.followed_model(wildcards)
        return self._needed(steps, wildcards) | found

    def export(self, wildcards) -> dict:
        """Return an exported intervention's steps, and the names that its model card gives."""
        state = self._experiment(wildcards)["state"]
        return {
            "steps": self._exported(wildcards),
            "state": state,
            "model_name": f"{wildcards.model}/{wildcards.tuned}"
            if state == "tuned"
            else wildcards.model,
            "experiment": wildcards.experiment,
            "intervention": wildcards.intervention,
        }
