rule tune_model:
    """Tune the base model on the preference pairs."""
    input:
        model=base_model,
        pairs="results/{model}/base/preferences.jsonl",
    output:
        model=directory("results/{model}/{tuned}/model"),
        curve="results/{model}/{tuned}/tuning.csv",
    log:
        "logs/{model}/{tuned}/tune_model.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tune_model.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("tune_model"),
        runtime=600,
        gpu=tuning_gpus,
    params:
        settings=tuning_settings,
        code=code_digest("tune_model"),
    script:
        "../scripts/tune_model.py"
