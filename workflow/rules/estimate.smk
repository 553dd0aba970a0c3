rule estimate:
    """Print what the study will need of memory, time and disk: run only if asked for."""
    log:
        "logs/estimate.log",
    localrule: True
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("estimate"),
        runtime=5,
    params:
        config=config,
        code=code_digest("estimate"),
    script:
        "../scripts/estimate.py"
