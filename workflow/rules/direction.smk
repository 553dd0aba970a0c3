rule fit_direction:
    """Fit the toxicity direction on labelled samples, and others to steer with."""
    input:
        model=base_model,
        scored=labelled_samples,
    output:
        vector="results/{model}/base/direction.safetensors",
        directions="results/{model}/base/directions.safetensors",
        description="results/{model}/base/direction.json",
    log:
        "logs/{model}/base/fit_direction.log",
    benchmark:
        "benchmarks/{model}/base/fit_direction.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of_model(),
        runtime=60,
    params:
        settings=direction_settings(),
        code=code_digest("fit_direction"),
    script:
        "../scripts/fit_direction.py"
