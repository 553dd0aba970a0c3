rule fit_direction:
    """Fit the toxicity direction on the base model's labelled samples."""
    input:
        model=base_model,
        scored=sharded(SCORED, split=["train", "analysis"]),
    output:
        vector="results/{model}/base/direction.safetensors",
        fitted="results/{model}/base/fitted_directions.safetensors",
        description="results/{model}/base/direction.json",
    log:
        "logs/{model}/base/fit_direction.log",
    benchmark:
        "benchmarks/{model}/base/fit_direction.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("fit_direction"),
        runtime=60,
        gpu=gpus(),
    params:
        settings=direction_settings(),
        code=code_digest("fit_direction"),
    script:
        "../scripts/fit_direction.py"


rule collect_directions:
    """Collect the directions to steer with: the fitted ones, of embeddings, and of neurons."""
    input:
        model=base_model,
        direction="results/{model}/base/direction.safetensors",
        fitted="results/{model}/base/fitted_directions.safetensors",
    output:
        directions="results/{model}/base/directions.safetensors",
        description="results/{model}/base/directions.json",
    log:
        "logs/{model}/base/collect_directions.log",
    benchmark:
        "benchmarks/{model}/base/collect_directions.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("collect_directions"),
        runtime=30,
    params:
        settings=steering_settings(),
        code=code_digest("collect_directions"),
    script:
        "../scripts/collect_directions.py"
