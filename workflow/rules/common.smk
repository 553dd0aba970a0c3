"""Helper functions of the rules. Functions and rules do not share a file."""

import sys
from pathlib import Path

import yaml
from snakemake.settings.enums import RerunTrigger
from snakemake.settings.types import DAGSettings

# the directory of this workflow, also when another workflow uses it as a module
WORKFLOW = Path(str(workflow.current_basedir)).parent
sys.path.insert(0, str(WORKFLOW / "scripts"))

from neurondynamics import (
    capacity,
    configuration,
    consistency,
    experiments,
    features,
    runtime,
    tunings,
)

SPLITS = consistency.SPLITS
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
    return configuration.with_replicas(configuration.labeller_first(study))


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


def gpus():
    """Return how many GPUs a rule that runs a model asks for."""
    return 0 if config["device"] == "cpu" else 1


def base_model(wildcards):
    """Return the folder of the base model."""
    return f"resources/models/{wildcards.model}"


def tuned_model(wildcards):
    """Return the folder of a tuned model: tuned here, or brought from a source."""
    if "source" in config["tuned"][wildcards.tuned]:
        return f"resources/models/{wildcards.tuned}"
    return f"results/{wildcards.model}/{wildcards.tuned}/model"


def compared_models(wildcards):
    """Return the folders of the base and the tuned model."""
    return {"base_model": base_model(wildcards), "tuned_model": tuned_model(wildcards)}


def sharded(path, **wildcards):
    """Return the paths of all shards of a file, for every value of the wildcards that are given."""
    shards = gather.shards(path.replace("{shard}", "{scatteritem}"), allow_missing=True)
    return expand(shards, allow_missing=True, **wildcards) if wildcards else shards


def generation_settings():
    """Return what every rule that runs a model on prompts uses."""
    return {
        "dtype": config["model"]["dtype"],
        "device": config["device"],
        "max_tokens": config["prompts"]["max_tokens"],
        **config["generation"],
    }


def with_its_replicas(tuned):
    """Return the names of a version and of its replicas: the same tuning with further seeds."""
    versions = config["tuned"].items()
    return [tuned, *(name for name, version in versions if version.get("replica_of") == tuned)]


def experiment_figures():
    """Return the figures of what the experiments of this study may have or lack."""
    figures = ["cumulative_effect"] if "curve" in config else []
    if any("controls" in experiment for experiment in config["experiments"].values()):
        figures.append("patch_modes")
    if len(config["scorers"]) > 1:
        figures.append("scorer_effects")
    return figures


def study_targets(wildcards):
    """Return every file that the study is run for: tables and figures of each tuned version.

    Replicas have none of their own; a version that has replicas has those that compare them.
    """
    tables = ["groups", "layers", "interventions", "claims", "decoded_neurons"]
    tables += ["controls", "categories", "sources", "residual_shift", "scorers"]
    tables += ["published"] if "published" in config else []
    tables += ["direction_groups"] if len(config["attribution"]["directions"]) > 1 else []
    files = [f"tables/{name}.csv" for name in tables]
    figures = [*FIGURES, *experiment_figures()]
    files += [f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png")]
    of_seeds = ["tables/seeds.csv", "tables/seed_overlap.csv"]
    of_seeds += ["figures/seed_shares.svg", "figures/seed_shares.png"]
    of_tuning = ["figures/learning_curve.svg", "figures/learning_curve.png"]
    folder = f"results/{config['model']['name']}"
    versions = {name: t for name, t in config["tuned"].items() if "replica_of" not in t}
    of_versions = [
        f"{folder}/{name}/{file}"
        for name, version in versions.items()
        for file in (
            *files,
            *(of_tuning if tunings.tuned_here(version) else ()),
            *(of_seeds if "seeds" in version else ()),
        )
    ]
    of_base = ["tables/directions.csv"]
    of_base += [f"figures/direction_cosines.{kind}" for kind in ("svg", "png")]
    return of_versions + [f"{folder}/base/{file}" for file in of_base]
