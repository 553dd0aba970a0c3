"""Helper functions of the rules of preferences, tuning, directions and activations."""


def sampling_settings():
    """Return what sampling continuations uses."""
    drawing = {key: config["sampling"][key] for key in ("samples", "temperature")}
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


def tuning_settings(wildcards):
    """Return what tuning a version here uses: its hyper-parameters, and how pairs are read."""
    tuned = config["tuned"][wildcards.tuned]
    return {
        **{key: tuned[key] for key in consistency.HYPER_PARAMETERS},
        "device": config["device"],
        "max_tokens": config["prompts"]["max_tokens"],
    }


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
        revision = source.get("wheel", source.get("path"))
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
