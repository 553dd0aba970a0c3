"""Draw the figures, each as SVG for the report and as PNG: a rule for every row of them."""

for figure in results.FIGURES:

    rule:
        name:
            figure.rule
        input:
            **figure.inputs,
        output:
            svg=report(figure.path("svg"), **figure.in_report),
            png=figure.path("png"),
        log:
            figure.beside("logs", "log"),
        benchmark:
            figure.beside("benchmarks", "tsv")
        conda:
            "../../envs/figures.yaml"
        threads: 1
        resources:
            mem_mb=memory_of(figure.rule),
            runtime=10,
        params:
            **figure.settings(config),
            # the path of a script is read when a job runs, long after the loop
            script=figure.script,
            code=code_digest(figure.script),
        script:
            "../scripts/{params.script}.py"
