"""Interventions as a configuration states them: their steps, searches and controls, and checks.

What each operation and each kind of selection takes is in the schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from neurondynamics.limits import OF_GRADIENTS
from neurondynamics.study import selections, transplants
from neurondynamics.study.wording import known

# what is measured of interventions: how near the edited model comes to the other one, reading its
# text; what it writes, as scorers see it; and how it does on neutral text
FIDELITY, BEHAVIOUR, DAMAGE = MEASURED = ("fidelity", "behaviour", "damage")


def is_search(experiment: dict) -> bool:
    """Return whether the best of an experiment is looked for on the analysis prompts."""
    return "search" in experiment


def measures_of(experiment: dict) -> tuple[str, ...]:
    """Return what is measured of an experiment's interventions; a search chooses by what the model
    writes."""
    if is_search(experiment):
        return BEHAVIOUR, DAMAGE
    return tuple(experiment.get("measures") or MEASURED)  # null drops the key


def followed_state(experiment: dict) -> str:
    """Return the state of the other model, which an experiment's patches move toward."""
    return "tuned" if experiment["state"] == "base" else "base"


def split_of(experiment: dict) -> str:
    """Return the split whose prompts an experiment runs on."""
    return "analysis" if is_search(experiment) else "evaluation"


def searches(experiment: dict) -> dict[str, str]:
    """Return the interventions that are the best of a search, and the search of each."""
    return {
        name: steps["best_of"]
        for name, steps in experiment["interventions"].items()
        if isinstance(steps, dict)
    }


def all_steps(experiments: dict, experiment: dict) -> Iterator[dict]:
    """Yield every step that an experiment may take, those of its searches too."""
    for steps in experiment["interventions"].values():
        if isinstance(steps, dict):
            yield from all_steps(experiments, experiments[steps["best_of"]])
        else:
            yield from steps


def with_controls(experiment: dict) -> dict:
    """Return an experiment's interventions, each followed by the controls that it asks for.

    Of `controls: {random: 3}` comes, for the intervention `mean-TP-`, the same edit of random
    neurons, as many in each layer, in `mean-TP-~random-1` to `mean-TP-~random-3`; of
    `{signs: 3}` the same patch, a random half of whose neurons moves the other way.
    """
    interventions = {}
    for name, steps in experiment["interventions"].items():
        interventions[name] = steps
        if name == "none":
            continue
        for kind, draws in experiment.get("controls", {}).items():
            for draw in range(1, draws + 1):
                drawn = [_control(step, kind, draw) for step in steps]
                interventions[f"{name}~{kind}-{draw}"] = drawn
    return interventions


def _control(step: dict, kind: str, draw: int) -> dict:
    """Return a step as a control does it: to `random` neurons, or with the `signs` shuffled."""
    if kind == "random":
        return {**step, "select": {"random": step["select"], "seed": draw}}
    return {**step, "shuffle_signs": draw}


def selected_files(steps: Iterable[dict]) -> list[str]:
    """Return the files that steps take neurons from."""
    selections = [step["select"] for step in steps if "select" in step]
    innermost = [selection.get("random", selection) for selection in selections]
    return sorted({selection["file"] for selection in innermost if "file" in selection})


def steps_with_names(experiments: dict) -> Iterator[tuple[str, dict]]:
    """Yield every step that experiments state, with its key."""
    for name, experiment in experiments.items():
        for intervention, steps in experiment["interventions"].items():
            for index, step in enumerate(steps if isinstance(steps, list) else ()):
                yield f"experiments.{name}.interventions.{intervention}[{index}]", step


def files_in(experiments: dict) -> Iterator[tuple[str, str]]:
    """Yield every file that steps of experiments take neurons from, with its key."""
    for key, step in steps_with_names(experiments):
        selection, key = step.get("select", {}), f"{key}.select"
        if "random" in selection:
            key, selection = f"{key}.random", selection["random"]
        if "file" in selection:
            yield f"{key}.file", selection["file"]


def named_directions(steps: Iterable[dict]) -> list[str]:
    """Return the names of the directions that steps subtract."""
    return sorted({step["direction"] for step in steps if "direction" in step})


def ranks_by_weights(step: dict) -> bool:
    """Return whether a step selects units by what is measured of each unit's weights."""
    selection = step.get("select", {})
    selection = selection.get("random", selection)
    return selection.get("by") in OF_GRADIENTS or selection.get("of") == "blocks"


def moves(step: dict) -> bool:
    """Return whether a step moves weights toward the other model's, in a copy."""
    return step["operation"] == "transplant"


def follows(step: dict) -> bool:
    """Return whether a step needs a second model to run, whose activations it takes."""
    return step.get("mode") == "paired"


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
                yield from _step(step, f"{place}[{index}]", config)
                if step.get("mode") == "identity" and set(measures_of(experiment)) != {FIDELITY}:
                    yield f"{place}[{index}].mode: identity goes with measures: [fidelity] alone"
            modes = {step.get("mode") for step in steps} if isinstance(steps, list) else set()
            if "identity" in modes and modes != {"identity"}:
                yield f"{place}: identity stands alone: other steps would change what it follows"
    yield from _baselines(experiments)
    if "curve" in config:
        yield from known("curve", config["curve"], experiments, "experiment")
        if is_search(experiments.get(config["curve"], {})):
            yield f"curve: {config['curve']} is a search, which is not reported"
    yield from _published(config)


def _experiment(experiment: dict, key: str, experiments: dict) -> Iterator[str]:
    interventions, measures = experiment["interventions"], set(measures_of(experiment))
    if len({BEHAVIOUR, DAMAGE} & measures) == 1:
        yield f"{key}.measures: behaviour and damage go together: what is written is judged by both"
    if is_search(experiment):
        if "measures" in experiment:
            yield f"{key}.measures: a search chooses by what the model writes, and needs no other"
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
    yield from _controls(experiment, f"{key}.controls")


def _baselines(experiments: dict) -> Iterator[str]:
    found: dict[str, list[str]] = {"base": [], "tuned": []}
    for name, experiment in experiments.items():
        if "none" in experiment["interventions"] and not is_search(experiment):
            found[experiment["state"]].append(f"experiments.{name}.interventions.none")
            if {BEHAVIOUR, DAMAGE} - set(measures_of(experiment)):
                yield (
                    f"experiments.{name}.measures: behaviour and damage are measured beside the "
                    "baseline `none: []`"
                )
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
        elif BEHAVIOUR not in measures_of(experiment):
            yield f"{key}: of this experiment no behaviour is measured"
        else:
            for item in items:
                place, there = f"{key}.{item}", experiment["interventions"]
                yield from known(place, item, there, "intervention")


def _controls(experiment: dict, key: str) -> Iterator[str]:
    """Yield what cannot have the controls that an experiment asks for, a line each."""
    kinds = experiment.get("controls", {})
    for name, steps in experiment["interventions"].items() if kinds else ():
        if isinstance(steps, dict) or any("random" in step.get("select", {}) for step in steps):
            yield f"{key}: {name} cannot have controls; give it an experiment apart"
        elif any("select" not in step for step in steps):
            yield f"{key}: {name} edits no selected neurons, so it has no controls"
        elif any(step.get("mode") == "identity" for step in steps):
            yield f"{key}: {name} changes nothing, and so would its controls"
        elif "random" in kinds and any("modules" in step["select"] for step in steps):
            yield f"{key}.random: {name} edits all units of its layers, and so would its control"
        elif "signs" in kinds and any(step["operation"] != "patch" for step in steps):
            yield f"{key}.signs: {name} is no patch; only a patch has a direction"


def _step(step: dict, key: str, config: dict) -> Iterator[str]:
    """Yield what does not go together in a step of an experiment, a line each."""
    layers = config["model"]["layers"]
    if isinstance(step.get("layer"), int) and step["layer"] >= layers:
        yield f"{key}.layer: {step['layer']}, but layers are counted 0 to {layers - 1}"
    if "direction" in step:
        yield from known(f"{key}.direction", step["direction"], config["directions"], "direction")
    yield from transplants.contradictions(step, key)
    yield from selections.layers_out_of_range(step, key, layers)
    if step["operation"] == "scale_keys" and selections.has_heads(step.get("select", {})):
        yield f"{key}.operation: heads have no keys of their own to scale; use scale"
    if "select" in step:
        yield from selections.contradictions(step["select"], f"{key}.select", config["model"])
