rule capture_base_activations:
    """Store the base model's activations while it continues the analysis prompts."""
    input:
        model=base_model,
        prompts="results/{model}/base/prompts/analysis.jsonl",
    output:
        "results/{model}/base/activations/base/{shard}.h5",
    log:
        "logs/{model}/base/capture_activations/base-{shard}.log",
    benchmark:
        "benchmarks/{model}/base/capture_activations/base-{shard}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("capture_activations"),
        runtime=120,
        gpu=gpus(),
    params:
        settings=capture_settings,
        code=code_digest("capture_activations"),
    script:
        "../scripts/capture_activations.py"


use rule capture_base_activations as capture_activations with:
    input:
        unpack(captured_inputs),
        model=captured_model,
        prompts="results/{model}/base/prompts/analysis.jsonl",
    output:
        "results/{model}/{tuned}/activations/{state}/{shard}.h5",
    log:
        "logs/{model}/{tuned}/capture_activations/{state}-{shard}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/capture_activations/{state}-{shard}.tsv"
    params:
        settings=capture_settings,
        code=code_digest("capture_activations"),
