rule export_model:
    """Bake an intervention into a model folder for use elsewhere: run only if asked for."""
    input:
        unpack(exported_inputs),
        model=experiment_model,
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        folder=directory("results/{model}/{tuned}/exported/{experiment}/{intervention}"),
    log:
        "logs/{model}/{tuned}/export_model/{experiment}/{intervention}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/export_model/{experiment}/{intervention}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 2
    resources:
        mem_mb=memory_of("export_model"),
        runtime=30,
    params:
        settings=export_settings,
        code=code_digest("export_model"),
    script:
        "../scripts/export_model.py"
