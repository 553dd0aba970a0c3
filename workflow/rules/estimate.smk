"""Say what a study needs before it runs."""


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
        study=needs_of_study,
        code=code_digest("estimate/estimate"),
    script:
        "../scripts/estimate/estimate.py"
