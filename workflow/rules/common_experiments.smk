"""Helper functions of the rules of experiments and exports."""


def experiment_model(wildcards):
    """Return the folder of the model that an experiment runs on."""
    state = config["experiments"][wildcards.experiment]["state"]
    return base_model(wildcards) if state == "base" else tuned_model(wildcards)


def subtracted(edits, wildcards):
    """Return the files of the directions that edits subtract."""
    names = sorted({edit["direction"] for edit in edits if "direction" in edit})
    return [f"results/{wildcards.model}/base/directions/{name}.safetensors" for name in names]


def experiment_inputs(wildcards):
    """Return the model that an experiment runs on, its prompts, and what its edits need.

    `files` are those that neurons are selected from, `choices` the outcomes of its searches,
    `tuned_model` is the model that paired patches follow, `directions` are those subtracted.
    """
    experiment = config["experiments"][wildcards.experiment]
    edits = list(experiments.all_edits(config["experiments"], experiment))
    split = "analysis" if experiments.is_search(experiment) else "evaluation"
    results = f"results/{wildcards.model}"
    found = {
        "model": experiment_model(wildcards),
        "prompts": f"{results}/base/prompts/{split}.jsonl",
        "files": experiments.selected_files(edits),
        "directions": subtracted(edits, wildcards),
        "choices": [
            f"{results}/{wildcards.tuned}/experiments/{search}/choice.json"
            for search in experiments.searches(experiment).values()
        ],
    }
    if "continued" in config["corpus"]:
        found["continued"] = f"{results}/base/passages.jsonl"
    if any(edit.get("mode") == "paired" for edit in edits):
        found["tuned_model"] = tuned_model(wildcards)
    return found


def experiment_settings(wildcards):
    """Return what running an experiment uses: its interventions, and how to read and generate.

    `passages` are the numbers and widths of the neutral text. An intervention that is the best of
    a search stands for all that it may be.
    """
    corpus = config["corpus"]
    experiment = config["experiments"][wildcards.experiment]
    candidates = {
        name: {"best_of": config["experiments"][search]["interventions"]}
        for name, search in experiments.searches(experiment).items()
    }
    return {
        "interventions": experiments.with_controls(experiment) | candidates,
        "passages": {key: value for key, value in corpus.items() if key not in consistency.CORPORA},
        "seed": config["seed"],
        **generation_settings(),
    }


def exported_steps(wildcards):
    """Return the edits of an intervention that is exported, controls included."""
    interventions = experiment_settings(wildcards)["interventions"]
    if wildcards.intervention not in interventions:
        raise WorkflowError(
            f"the experiment {wildcards.experiment} has no intervention "
            f"{wildcards.intervention}; it has {', '.join(interventions)}"
        )
    return interventions[wildcards.intervention]


def exported_inputs(wildcards):
    """Return what exporting an intervention needs beside its model and the neurons.

    `files` are those that neurons are selected from, `directions` those subtracted; `choice` is the
    outcome of the search that the intervention is the best of.
    """
    steps = exported_steps(wildcards)
    if isinstance(steps, list):
        return {
            "files": experiments.selected_files(steps),
            "directions": subtracted(steps, wildcards),
        }
    search = config["experiments"][wildcards.experiment]["interventions"][wildcards.intervention]
    searched = config["experiments"][search["best_of"]]
    edits = list(experiments.all_edits(config["experiments"], searched))
    results = f"results/{wildcards.model}/{wildcards.tuned}"
    return {
        "files": experiments.selected_files(edits),
        "directions": subtracted(edits, wildcards),
        "choice": f"{results}/experiments/{search['best_of']}/choice.json",
    }


def export_settings(wildcards):
    """Return an exported intervention's edits, and the names that its model card gives."""
    tuned = config["experiments"][wildcards.experiment]["state"] == "tuned"
    return {
        "steps": exported_steps(wildcards),
        "model_name": f"{wildcards.model}/{wildcards.tuned}" if tuned else wildcards.model,
        "experiment": wildcards.experiment,
        "intervention": wildcards.intervention,
    }
