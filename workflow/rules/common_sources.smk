"""Helper functions of the rules that bring models, data and scorers."""

SCORERS = list(config["scorers"])  # the one that labels the samples comes first


def dataset_files(wildcards):
    """Return the local files of a dataset; one from elsewhere has none."""
    dataset = lookup(dpath=f"datasets/{wildcards.dataset}", within=config)
    elsewhere = {"wheel", "hub", "url"} & set(dataset)
    return [] if elsewhere else [file["path"] for file in dataset["files"]]


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


def corpus_name(wildcards):
    """Return the dataset of neutral text: the corpus, passages to continue, prompts to steer."""
    if wildcards.corpus == "neutral":
        return config["preferences"]["dataset"]
    return config["corpus"]["dataset" if wildcards.corpus == "corpus" else "continued"]


def corpus_dataset(wildcards):
    """Return what the configuration says of a dataset of neutral text."""
    return config["datasets"][corpus_name(wildcards)]


def corpus_folder(wildcards):
    """Return the folder of a dataset of neutral text."""
    return f"resources/datasets/{corpus_name(wildcards)}"


def model_source(wildcards):
    """Return where a fetched model comes from: the base model, or a tuned one that was brought."""
    if wildcards.fetched == config["model"]["name"]:
        return config["model"]["source"]
    return config["tuned"][wildcards.fetched]["source"]


def local_files(source):
    """Return the files of this machine that a source is copied from; others have none."""
    if "path" not in source:
        return []
    # a folder's own time says nothing about weights that were overwritten in it
    files = [str(file) for file in Path(source["path"]).glob("*") if file.is_file()]
    return sorted(files) or [source["path"]]


def model_files(wildcards):
    """Return the local files that a model is copied from."""
    return local_files(model_source(wildcards))


def model_shape(wildcards):
    """Return what the configuration says of the base model's shape.

    A tuned version is compared with the base model itself.
    """
    base = wildcards.fetched == config["model"]["name"]
    return {key: config["model"][key] for key in capacity.SHAPE if base}


def model_to_be_like(wildcards):
    """Return the folder of the base model, for a tuned version that is brought."""
    base = config["model"]["name"]
    return [] if wildcards.fetched == base else f"resources/models/{base}"


def scorer_of(wildcards):
    """Return the name of the scorer of a job; samples are scored by the one that labels them."""
    return wildcards.get("scorer", SCORERS[0])


def scorer_folder(wildcards):
    """Return the folder of what a scorer is loaded from, if anything."""
    name = scorer_of(wildcards)
    return [f"resources/scorers/{name}"] if "source" in config["scorers"][name] else []


def scorer_sources(wildcards):
    """Return where the parts come from that a scorer is loaded from, by part."""
    scorer = config["scorers"][wildcards.scorer]
    return {part: scorer[part] for part in ("source", "configuration") if part in scorer}


def scorer_files(wildcards):
    """Return the local files that a scorer is copied from."""
    return [file for source in scorer_sources(wildcards).values() for file in local_files(source)]


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
