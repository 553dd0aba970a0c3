"""Margins: how much likelier a model finds one text of a pair than the other. Which interventions
they are measured under, on pairs that neither tuning nor the choice of neurons has seen.
"""

from __future__ import annotations

from collections.abc import Iterator

from neurondynamics.study.interventions import FIDELITY, is_search, measures_of
from neurondynamics.study.wording import known

ALL = "all"


def margins_of(experiment: dict) -> list[str]:
    """Return the interventions of an experiment under which margins are measured.

    Those that a layer of configuration names and a later one drops are not.
    """
    named = experiment.get("margins", ())
    there = [name for name in experiment["interventions"] if name != "none"]
    return [name for name in there if named == ALL or name in named]


def wants_margins(config: dict) -> bool:
    """Return whether margins are measured at all."""
    return any(map(margins_of, config["experiments"].values()))


def contradictions(config: dict) -> Iterator[str]:
    """Yield what cannot have margins, a line each."""
    for name, experiment in config["experiments"].items():
        key, named = f"experiments.{name}.margins", experiment.get("margins", ())
        if named and is_search(experiment):
            yield f"{key}: a search is not reported; name its best_of where that is evaluated"
        elif named and FIDELITY not in measures_of(experiment):
            yield f"{key}: margins go with fidelity: add it to measures"
        if "none" in named:
            yield f"{key}: none is what every other margin is compared with; leave it out"


def unknown_names(layers: list[dict]) -> Iterator[str]:
    """Yield the margins of interventions that no layer of configuration has in that experiment."""
    experiments = [layer.get("experiments") or {} for layer in layers]
    for experiment in dict.fromkeys(name for layer in experiments for name in layer):
        stated = [one for layer in experiments if (one := layer.get(experiment))]
        there = {name: None for one in stated for name in one.get("interventions") or {}}
        named = [one["margins"] for one in stated if isinstance(one.get("margins"), list)]
        for index, name in enumerate(named[-1] if named else ()):
            key = f"experiments.{experiment}.margins[{index}]"
            if name != "none":  # which is refused for what it is
                yield from known(key, name, there, "intervention")
