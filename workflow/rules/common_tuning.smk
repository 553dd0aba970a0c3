"""Helper functions of the rules of preferences, tuning, directions and activations."""

FEATURES = features.feature_sets(config)
# the study's direction: interventions and figures use it
DIRECTION = (
    f"results/{{model}}/base/directions/{config['attribution']['directions'][0]}.safetensors"
)


def sampling_settings():
    """Return what sampling continuations uses."""
    drawing = {key: config["sampling"][key] for key in ("samples", "temperature")}
    return {**generation_settings(), **drawing, "seed": config["seed"]}


def guide(wildcards):
    """Return the direction that continuations are steered along."""
    name = config["preferences"]["direction"]
    return f"results/{wildcards.model}/base/directions/{name}.safetensors"


def steered_settings(wildcards):
    """Return what steering continuations uses."""
    pairs = config["preferences"]
    own = {key: pairs[key] for key in ("number", "prompt_tokens", "new_tokens")}
    read = features.features_of(config, pairs["direction"]) or {}
    return {
        **own,
        "strength": {key: pairs[key] for key in consistency.STEERING},
        "layer": read.get("layer", config["model"]["layers"] - 1),
        "dtype": config["model"]["dtype"],
        "device": config["device"],
        "batch_size": config["generation"]["batch_size"],
        "seed": config["seed"],
    }


def pair_sources():
    """Return what the pairs are made of: scored samples, steered continuations, or a dataset."""
    pairs = config["preferences"]
    if pairs["method"] == "ready":
        return [f"resources/datasets/{pairs['dataset']}"]
    return sharded(STEERED) if pairs["method"] == "steered" else sharded(SCORED, split="train")


def prompts_measured_on():
    """Return the prompts that no pair may have; those of samples are others in any case."""
    if config["preferences"]["method"] == "sampled":
        return []
    return [f"results/{{model}}/base/prompts/{split}.jsonl" for split in SPLITS if split != "train"]


def pair_settings():
    """Return what bringing pairs together uses."""
    pairs = config["preferences"]
    kept = {key: pairs[key] for key in ("method", "margin", "maximum") if key in pairs}
    if pairs["method"] == "ready":
        kept["dataset"] = config["datasets"][pairs["dataset"]]
    return {**kept, "seed": config["seed"]}


def labelled_texts(wildcards, name):
    """Return the files that labelled texts are read from: scored samples, or a dataset's folder."""
    if name == features.SAMPLES:
        return sharded(SCORED, model=wildcards.model, split=features.sampled_splits(config))
    return [f"resources/datasets/{name}"]


def reading_of(name):
    """Return how labelled texts are read, and which samples count as toward the behaviour."""
    if name == features.SAMPLES:
        return {"threshold": config["scorers"][SCORERS[0]]["threshold"]}
    dataset = config["datasets"][name]
    return {key: dataset[key] for key in ("format", "text_field", "where") if key in dataset}


def feature_inputs(wildcards):
    """Return the texts that features are extracted from."""
    return {"texts": labelled_texts(wildcards, FEATURES[wildcards.features]["texts"])}


def feature_settings(wildcards):
    """Return what extracting features uses."""
    chosen = FEATURES[wildcards.features]
    limit = {"tokens": chosen["tokens"]} if "tokens" in chosen else {}
    if not limit:
        limit = {"max_tokens": config["prompts"]["max_tokens"]}
    return {
        "reading": reading_of(chosen["texts"]) | limit,
        "layer": chosen["layer"],
        "dtype": config["model"]["dtype"],
        "device": config["device"],
        "batch_size": config["generation"]["batch_size"],
    }


def direction_inputs(wildcards):
    """Return what a direction is made from beside the model: labelled features, or a file."""
    direction, base = config["directions"][wildcards.direction], f"results/{wildcards.model}/base"
    if "texts" in direction:
        name = features.name_of(features.features_of(config, wildcards.direction))
        return {
            "features": f"{base}/features/{name}.safetensors",
            "texts": labelled_texts(wildcards, direction["texts"]),
        }
    if "of" in direction:
        return {"file": f"{base}/directions/{direction['of']}.safetensors"}
    return {"file": direction["path"]} if "path" in direction else {}


def direction_settings(wildcards):
    """Return what fitting a direction uses."""
    direction = config["directions"][wildcards.direction]
    return {
        "direction": direction,
        "reading": reading_of(direction["texts"]) if "texts" in direction else {},
        "dtype": config["model"]["dtype"],
        "seed": config["seed"],
    }


def every_direction(ending):
    """Return the files with this ending of all directions."""
    return [f"results/{{model}}/base/directions/{name}.{ending}" for name in config["directions"]]


def attributed_groups():
    """Return the tables of groups of every direction that neurons are attributed along."""
    first, *others = config["attribution"]["directions"]
    folders = {first: "tables", **{name: f"directions/{name}" for name in others}}
    return [f"results/{{model}}/{{tuned}}/{folder}/groups.csv" for folder in folders.values()]


def tuning_settings(wildcards):
    """Return what tuning a version here uses: its hyper-parameters, and how pairs are read.

    Continuations that were sampled follow on what their prompts were cut to.
    """
    sampled = config["preferences"]["method"] == "sampled"
    return {
        **tuned_version(wildcards),
        "device": config["device"],
        "max_tokens": config["prompts"]["max_tokens"] if sampled else None,
    }


def tuned_version(wildcards):
    """Return what a version that is tuned here is tuned with."""
    return tunings.recipe(config["tuned"][wildcards.tuned])


def tuning_gpus(wildcards):
    """Return how many GPUs tuning a version here asks for."""
    return gpus() * config["tuned"][wildcards.tuned].get("gpus", 1)


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
        origin = ("wheel", "hub", "revision", "url", "path")
        revision = " ".join(source[key] for key in origin if key in source)
    name = model["name"] if tuned is None else f"{model['name']}/{wildcards.tuned}"
    return {
        "state": state,
        "ablated": config["attribution"]["ablated"] if state == "base-ablated" else 0,
        "origin": {"model": name, "revision": revision, "seed": config["seed"]},
        **generation_settings(),
    }


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
