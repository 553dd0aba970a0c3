"""What a configuration says of experiments: checks of it, and the controls that it asks for.

Only the standard library is imported here: the Snakefile imports this module.
"""

from __future__ import annotations

from collections.abc import Iterator

# the keys that an operation needs, and those it may have beside `operation` and `positions`
NEEDED = {
    "zero": {"select"},
    "patch": {"select"},
    "scale": {"select", "factor"},
    "scale_keys": {"select", "factor"},
    "edit": {"select", "factor"},
    "subtract": {"direction", "layer", "scale"},
}
POSSIBLE = {"patch": {"mode", "shuffle_signs"}, "edit": {"mode"}}
# likewise of the kinds of selection
SELECTION_NEEDED = {"random": {"seed"}}
SELECTION_POSSIBLE = {"top": {"by", "activated"}, "groups": {"fraction", "ranked"}}
KINDS = ("top", "groups", "neurons", "file", "random")


def is_search(experiment: dict) -> bool:
    """Return whether the best of an experiment is looked for on the analysis prompts."""
    return "search" in experiment


def searches(experiment: dict) -> dict[str, str]:
    """Return the interventions that are the best of a search, and the search of each."""
    return {
        name: edits["best_of"]
        for name, edits in experiment["interventions"].items()
        if isinstance(edits, dict)
    }


def all_edits(experiments: dict, experiment: dict) -> Iterator[dict]:
    """Yield every edit that an experiment may make, those of its searches too."""
    for edits in experiment["interventions"].values():
        if isinstance(edits, dict):
            yield from all_edits(experiments, experiments[edits["best_of"]])
        else:
            yield from edits


def selected_files(edits: Iterator[dict]) -> list[str]:
    """Return the files that edits take neurons from."""
    selections = [edit["select"] for edit in edits if "select" in edit]
    innermost = [selection.get("random", selection) for selection in selections]
    return sorted({selection["file"] for selection in innermost if "file" in selection})


def with_controls(experiment: dict) -> dict:
    """Return an experiment's interventions, each followed by the controls that it asks for.

    Of `controls: {random: 3}` comes, for the intervention `mean-TP-`, the same edit of random
    neurons, as many in each layer, in `mean-TP-~random-1` to `mean-TP-~random-3`; of
    `{signs: 3}` the same patch, a random half of whose neurons moves the other way.
    """
    interventions = {}
    for name, edits in experiment["interventions"].items():
        interventions[name] = edits
        if name == "none":
            continue
        for kind, draws in experiment.get("controls", {}).items():
            for draw in range(1, draws + 1):
                drawn = [_control(edit, kind, draw) for edit in edits]
                interventions[f"{name}~{kind}-{draw}"] = drawn
    return interventions


def _control(edit: dict, kind: str, draw: int) -> dict:
    if kind == "random":
        return {**edit, "select": {"random": edit["select"], "seed": draw}}
    return {**edit, "shuffle_signs": draw}


def check_experiments(config: dict) -> Iterator[str]:
    """Yield what is wrong with a configuration's experiments, each with its key."""
    experiments, model = config["experiments"], config["model"]
    baselines: dict[str, list[str]] = {"base": [], "tuned": []}
    for name, experiment in experiments.items():
        key = f"experiments.{name}"
        if "none" in experiment["interventions"] and not is_search(experiment):
            baselines[experiment["state"]].append(f"{key}.interventions.none")
        yield from _experiment(experiment, key, experiments)
        for intervention, edits in experiment["interventions"].items():
            place = f"{key}.interventions.{intervention}"
            if intervention == "none" and edits:
                yield f"{place}: none is the baseline and has no edits"
            if isinstance(edits, list):
                for index, edit in enumerate(edits):
                    yield from _edit(edit, f"{place}[{index}]", experiment, model)
    for state, keys in baselines.items():
        if len(keys) != 1:
            found = f"stands in {' and '.join(keys)}" if keys else "is missing"
            yield (
                f"experiments: the baseline `none: []` of the state {state} {found}; it must "
                "stand in exactly one experiment of that state, beside those of searches"
            )
    if "curve" in config and config["curve"] not in experiments:
        yield f"curve: there is no experiment {config['curve']!r}"


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
    if "controls" in experiment:
        for name, edits in interventions.items():
            if isinstance(edits, dict) or any("random" in e.get("select", {}) for e in edits):
                yield f"{key}.controls: {name} cannot have controls; give it an experiment apart"
            elif any("select" not in edit for edit in edits):
                yield f"{key}.controls: {name} edits no selected neurons, so it has no controls"
            elif "signs" in experiment["controls"] and any(
                edit["operation"] != "patch" for edit in edits
            ):
                yield f"{key}.controls.signs: {name} is no patch; only a patch has a direction"


def _edit(edit: dict, key: str, experiment: dict, model: dict) -> Iterator[str]:
    operation = edit["operation"]
    given = set(edit) - {"operation", "positions"}
    yield from _keys(given, key, operation, NEEDED[operation], POSSIBLE.get(operation, set()))
    if operation == "edit" and edit.get("mode") == "paired":
        yield f"{key}.mode: an edit follows no second model; its modes are mean and shift"
    if operation == "patch" and experiment["state"] != "base":
        yield f"{key}: a patch moves the base model toward the tuned one; the state must be base"
    if isinstance(edit.get("layer"), int) and edit["layer"] >= model["layers"]:
        yield f"{key}.layer: {edit['layer']}, but layers are counted 0 to {model['layers'] - 1}"
    if "select" in edit:
        yield from _selection(edit["select"], f"{key}.select", model)


def _selection(selection: dict, key: str, model: dict) -> Iterator[str]:
    kinds = [kind for kind in KINDS if kind in selection]
    if len(kinds) != 1:
        yield f"{key}: give exactly one of {', '.join(KINDS)}"
        return
    kind = kinds[0]
    needed = SELECTION_NEEDED.get(kind, set())
    possible = SELECTION_POSSIBLE.get(kind, set())
    yield from _keys(set(selection) - {kind}, key, kind, needed, possible)
    if ("fraction" in selection) != ("ranked" in selection):
        yield f"{key}: fraction and ranked go together"
    number = model["layers"] * model["neurons"]
    if kind == "top" and selection["top"] != "all" and selection["top"] > number:
        yield f"{key}.top: {selection['top']} neurons, but the model has only {number}"
    if kind == "random":
        yield from _selection(selection["random"], f"{key}.random", model)
        if "random" in selection["random"]:
            yield f"{key}.random: random neurons cannot match random ones"


def _keys(given: set, key: str, kind: str, needed: set, possible: set) -> Iterator[str]:
    for name in sorted(needed - given):
        yield f"{key}.{name}: this key is missing ({kind} needs it)"
    for name in sorted(given - needed - possible):
        yield f"{key}.{name}: does not go with {kind}"
