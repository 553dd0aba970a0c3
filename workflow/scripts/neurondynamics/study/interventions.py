"""Interventions as a configuration states them: their steps, searches and controls, and checks.

What each operation and each kind of selection takes is in the schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath

from neurondynamics.study.wording import known

TABLES = (".csv", ".parquet")


def is_search(experiment: dict) -> bool:
    """Return whether the best of an experiment is looked for on the analysis prompts."""
    return "search" in experiment


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


def files_in(experiments: dict) -> Iterator[tuple[str, str]]:
    """Yield every file that steps of experiments take neurons from, with its key."""
    for name, experiment in experiments.items():
        for intervention, steps in experiment["interventions"].items():
            for index, step in enumerate(steps if isinstance(steps, list) else ()):
                key = f"experiments.{name}.interventions.{intervention}[{index}].select"
                selection = step.get("select", {})
                if "random" in selection:
                    key, selection = f"{key}.random", selection["random"]
                if "file" in selection:
                    yield f"{key}.file", selection["file"]


def named_directions(steps: Iterable[dict]) -> list[str]:
    """Return the names of the directions that steps subtract."""
    return sorted({step["direction"] for step in steps if "direction" in step})


def follows(step: dict) -> bool:
    """Return whether a step needs a second model, whose activations it takes."""
    return step.get("mode") == "paired"


def problems_of_controls(experiment: dict, key: str) -> Iterator[str]:
    """Yield what cannot have the controls that an experiment asks for, a line each."""
    kinds = experiment.get("controls", {})
    for name, steps in experiment["interventions"].items() if kinds else ():
        if isinstance(steps, dict) or any("random" in step.get("select", {}) for step in steps):
            yield f"{key}: {name} cannot have controls; give it an experiment apart"
        elif any("select" not in step for step in steps):
            yield f"{key}: {name} edits no selected neurons, so it has no controls"
        elif "signs" in kinds and any(step["operation"] != "patch" for step in steps):
            yield f"{key}.signs: {name} is no patch; only a patch has a direction"


def problems_of_step(step: dict, key: str, state: str, config: dict) -> Iterator[str]:
    """Yield what does not go together in a step of an experiment on a state, a line each."""
    layers = config["model"]["layers"]
    if step["operation"] == "patch" and state != "base":
        yield f"{key}: a patch moves the base model toward the tuned one; the state must be base"
    if isinstance(step.get("layer"), int) and step["layer"] >= layers:
        yield f"{key}.layer: {step['layer']}, but layers are counted 0 to {layers - 1}"
    if "direction" in step:
        yield from known(f"{key}.direction", step["direction"], config["directions"], "direction")
    if "select" in step:
        yield from _selection(step["select"], f"{key}.select", config["model"])


def _selection(selection: dict, key: str, model: dict) -> Iterator[str]:
    number = model["layers"] * model["neurons"]
    if selection.get("top", "all") != "all" and selection["top"] > number:
        yield f"{key}.top: {selection['top']} neurons, but the model has only {number}"
    listed: set[tuple[int, int]] = set()
    for index, (layer, neuron) in enumerate(selection.get("neurons", [])):
        if layer >= model["layers"] or neuron >= model["neurons"]:
            yield (
                f"{key}.neurons[{index}]: there is no neuron {neuron} in layer {layer}; the model "
                f"has layers 0 to {model['layers'] - 1}, each with neurons 0 to "
                f"{model['neurons'] - 1}"
            )
        if (layer, neuron) in listed:
            yield f"{key}.neurons[{index}]: the neuron {neuron} in layer {layer} is listed twice"
        listed.add((layer, neuron))
    if "file" in selection and PurePath(selection["file"]).suffix not in TABLES:
        yield f"{key}.file: neurons are read from a file in {' or '.join(TABLES)}"
    if "random" in selection:
        yield from _selection(selection["random"], f"{key}.random", model)
        if "random" in selection["random"]:
            yield f"{key}.random: random neurons cannot match random ones"
