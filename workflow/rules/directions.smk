"""Fit directions along which the behaviour lies, and compare them."""


rule extract_features:
    """Read labelled texts with the base model and keep a vector of each after a block."""
    input:
        texts=directions.feature_texts,
        model=directions.base_model,
    output:
        features="results/{model}/base/features/{features}.safetensors",
    log:
        "logs/{model}/base/extract_features/{features}.log",
    benchmark:
        "benchmarks/{model}/base/extract_features/{features}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("extract_features"),
        runtime=240,
        gpu=directions.gpus,
    params:
        reading=directions.feature_reading,
        settings=directions.extraction,
        code=code_digest("directions/extract_features"),
    script:
        "../scripts/directions/extract_features.py"


rule fit_direction:
    """Make a direction: fitted on labelled features, or of words, value vectors or a file."""
    input:
        unpack(directions.direction_inputs),
        model=directions.base_model,
    output:
        vector="results/{model}/base/directions/{direction}.safetensors",
        description="results/{model}/base/directions/{direction}.json",
    log:
        "logs/{model}/base/fit_direction/{direction}.log",
    benchmark:
        "benchmarks/{model}/base/fit_direction/{direction}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("fit_direction"),
        runtime=240,
    params:
        settings=directions.fitting,
        code=code_digest("directions/fit_direction"),
    script:
        "../scripts/directions/fit_direction.py"


rule compare_directions:
    """Tabulate what each direction is worth, and how far they point the same way."""
    input:
        vectors=directions.vectors(),
        descriptions=directions.descriptions(),
    output:
        table=in_report("directions"),
    log:
        "logs/{model}/base/compare_directions.log",
    benchmark:
        "benchmarks/{model}/base/compare_directions.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("compare_directions"),
        runtime=10,
    params:
        code=code_digest("directions/compare_directions"),
    script:
        "../scripts/directions/compare_directions.py"
