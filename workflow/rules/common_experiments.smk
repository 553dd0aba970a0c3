"""Helper functions of the rules of experiments and exports."""


def experiment_model(wildcards):
    """Return the folder of the model that an experiment runs on."""
    state = config["experiments"][wildcards.experiment]["state"]
    return base_model(wildcards) if state == "base" else tuned_model(wildcards)


def experiment_inputs(wildcards):
    """Return the model that an experiment runs on, its prompts, and what its edits need.

    `files` are those that neurons are selected from, `choices` the outcomes of its searches,
    `tuned_model` is the model that paired patches follow, `directions` holds what is subtracted.
    """
    experiment = config["experiments"][wildcards.experiment]
    edits = list(experiments.all_edits(config["experiments"], experiment))
    split = "analysis" if experiments.is_search(experiment) else "evaluation"
    results = f"results/{wildcards.model}"
    found = {
        "model": experiment_model(wildcards),
        "prompts": f"{results}/base/prompts/{split}.jsonl",
        "files": experiments.selected_files(edits),
        "choices": [
            f"{results}/{wildcards.tuned}/experiments/{search}/choice.json"
            for search in experiments.searches(experiment).values()
        ],
    }
    if any(edit.get("mode") == "paired" for edit in edits):
        found["tuned_model"] = tuned_model(wildcards)
    if any("direction" in edit for edit in edits):
        found["directions"] = f"{results}/base/directions.safetensors"
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
        "passages": {key: value for key, value in corpus.items() if key != "dataset"},
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

    `files` are those that neurons are selected from; `choice` is the outcome of the search that
    the intervention is the best of.
    """
    steps = exported_steps(wildcards)
    if isinstance(steps, list):
        return {"files": experiments.selected_files(steps)}
    search = config["experiments"][wildcards.experiment]["interventions"][wildcards.intervention]
    edits = experiments.all_edits(config["experiments"], config["experiments"][search["best_of"]])
    results = f"results/{wildcards.model}/{wildcards.tuned}"
    return {
        "files": experiments.selected_files(edits),
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
