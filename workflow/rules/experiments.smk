"""Run interventions, judge them beside tuning, and take a model away."""


rule run_experiment:
    """Run an experiment's interventions on a shard of the texts: generations and token losses."""
    input:
        unpack(experiments.experiment_inputs),
        **UNITS,
    output:
        generations=GENERATIONS,
        losses=LOSSES,
    log:
        "logs/{model}/{tuned}/run_experiment/{experiment}-{shard}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/run_experiment/{experiment}-{shard}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("run_experiment"),
        runtime=240,
        gpu=experiments.gpus,
    params:
        reading=experiments.reading(),
        settings=experiments.experiment,
        code=code_digest("experiments/run_experiment"),
    script:
        "../scripts/experiments/run_experiment.py"


rule continue_prompts:
    """Let one of the two models continue evaluation prompts greedily, for the other one to read."""
    input:
        model=experiments.followed_model,
        prompts="results/{model}/base/prompts/evaluation.jsonl",
    output:
        texts=FOLLOWED,
    log:
        "logs/{model}/{tuned}/continue_prompts/{followed}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/continue_prompts/{followed}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("continue_prompts"),
        runtime=60,
        gpu=experiments.gpus,
    params:
        reading=experiments.reading(),
        settings=experiments.followed_texts(),
        code=code_digest("experiments/continue_prompts"),
    script:
        "../scripts/experiments/continue_prompts.py"


rule measure_fidelity:
    """Measure how near interventions bring a model to the other one, reading that one's text."""
    input:
        unpack(experiments.fidelity_inputs),
        **UNITS,
    output:
        fidelity=FIDELITIES,
        margins=MARGINS,
    log:
        "logs/{model}/{tuned}/measure_fidelity/{experiment}-{shard}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/measure_fidelity/{experiment}-{shard}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("measure_fidelity"),
        runtime=120,
        gpu=experiments.gpus,
    params:
        reading=experiments.reading(),
        settings=experiments.fidelity,
        code=code_digest("experiments/measure_fidelity"),
    script:
        "../scripts/experiments/measure_fidelity.py"


rule measure_account:
    """Measure how near each part of the tuned model brings the base model to it."""
    input:
        unpack(experiments.compared_models),
        texts=FOLLOWED.replace("{followed}", "tuned"),
    output:
        account="results/{model}/{tuned}/account.parquet",
    log:
        "logs/{model}/{tuned}/measure_account.log",
    benchmark:
        "benchmarks/{model}/{tuned}/measure_account.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("measure_account"),
        runtime=240,
        gpu=experiments.gpus,
    params:
        reading=experiments.exact_reading(),
        settings=experiments.account(),
        code=code_digest("experiments/measure_account"),
    script:
        "../scripts/experiments/measure_account.py"


rule tabulate_account:
    """Tabulate what each part of the model carries of the tuning, directly and causally."""
    input:
        account="results/{model}/{tuned}/account.parquet",
        shifts="results/{model}/{tuned}/tables/residual_shift.csv",
    output:
        table=in_report("account"),
    log:
        "logs/{model}/{tuned}/tabulate_account.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_account.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("tabulate_account"),
        runtime=10,
    params:
        statistics=experiments.statistics(),
        code=code_digest("experiments/tabulate_account"),
    script:
        "../scripts/experiments/tabulate_account.py"


rule tabulate_rankings:
    """Tabulate what moving ever more units does, and how much of it each ranking finds first."""
    input:
        fidelity=experiments.sharded(FIDELITIES, experiment=["rankings"]),
        units="results/{model}/{tuned}/units.parquet",
    output:
        **in_reports("rankings", "ranking_curves"),
    log:
        "logs/{model}/{tuned}/tabulate_rankings.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_rankings.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("tabulate_rankings"),
        runtime=10,
    params:
        ranked=experiments.ranked(),
        statistics=experiments.statistics(),
        code=code_digest("experiments/tabulate_rankings"),
    script:
        "../scripts/experiments/tabulate_rankings.py"


rule score_generations:
    """Score what the model wrote under each intervention of an experiment, with one scorer."""
    input:
        sources.scorer_folder,
        generations=GENERATIONS,
    output:
        scores=SCORES,
    log:
        "logs/{model}/{tuned}/score_generations/{experiment}-{scorer}-{shard}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/score_generations/{experiment}-{scorer}-{shard}.tsv"
    conda:
        "../../envs/scoring.yaml"
    threads: sources.scorer_threads
    resources:
        mem_mb=memory_of("score_generations"),
        runtime=60,
        gpu=sources.scorer_gpus,
    params:
        scorer=sources.scorer_options,
        code=code_digest("experiments/score_generations"),
    script:
        "../scripts/experiments/score_generations.py"


rule measure_generations:
    """Measure repetition and F1 of what the model wrote under each intervention."""
    input:
        generations=GENERATIONS,
    output:
        measures=MEASURES,
    log:
        "logs/{model}/{tuned}/measure_generations/{experiment}-{shard}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/measure_generations/{experiment}-{shard}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("measure_generations"),
        runtime=30,
    params:
        code=code_digest("experiments/measure_generations"),
    script:
        "../scripts/experiments/measure_generations.py"


rule tabulate_interventions:
    """Tabulate score, fluency and effect share of every intervention, with intervals."""
    input:
        scores=experiments.reported(SCORES),
        measures=experiments.reported(MEASURES),
        losses=experiments.reported(LOSSES),
        fidelity=experiments.reported(FIDELITIES),
        margins=experiments.reported(MARGINS),
    output:
        table=in_report("interventions"),
    log:
        "logs/{model}/{tuned}/tabulate_interventions.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_interventions.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("tabulate_interventions"),
        runtime=10,
    params:
        **experiments.compared(),
        code=code_digest("experiments/tabulate_interventions"),
    script:
        "../scripts/experiments/tabulate_interventions.py"


rule choose_intervention:
    """Choose the intervention of a search: that of lowest score among those that still write."""
    input:
        scores=experiments.of_search(SCORES),
        measures=experiments.of_search(MEASURES),
        losses=experiments.of_search(LOSSES),
    output:
        choice=CHOICE,
    log:
        "logs/{model}/{tuned}/choose_intervention/{experiment}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/choose_intervention/{experiment}.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("choose_intervention"),
        runtime=10,
    params:
        perplexity=experiments.largest_perplexity,
        code=code_digest("experiments/choose_intervention"),
    script:
        "../scripts/experiments/choose_intervention.py"


rule tabulate_controls:
    """Tabulate each controlled intervention beside the draws of its controls."""
    input:
        scores=experiments.reported(SCORES),
        measures=experiments.reported(MEASURES),
        losses=experiments.reported(LOSSES),
        fidelity=experiments.reported(FIDELITIES),
    output:
        table=in_report("controls"),
    log:
        "logs/{model}/{tuned}/tabulate_controls.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_controls.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("tabulate_controls"),
        runtime=10,
    params:
        **experiments.controlled(),
        scorers=experiments.scorers,
        code=code_digest("experiments/tabulate_controls"),
    script:
        "../scripts/experiments/tabulate_controls.py"


rule tabulate_categories:
    """Tabulate every intervention's scores by category of prompt."""
    input:
        scores=experiments.reported(SCORES),
        prompts="results/{model}/base/prompts/evaluation.jsonl",
    output:
        table=in_report("categories"),
    log:
        "logs/{model}/{tuned}/tabulate_categories.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_categories.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("tabulate_categories"),
        runtime=10,
    params:
        **experiments.judged("behaviour"),
        scorers=experiments.scorers,
        code=code_digest("experiments/tabulate_categories"),
    script:
        "../scripts/experiments/tabulate_categories.py"


rule tabulate_scorers:
    """Tabulate how far the scorers agree, over continuations and over interventions."""
    input:
        scores=experiments.reported(SCORES),
    output:
        table=in_report("scorers"),
    log:
        "logs/{model}/{tuned}/tabulate_scorers.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_scorers.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("tabulate_scorers"),
        runtime=10,
    params:
        scorers=experiments.scorers,
        code=code_digest("experiments/tabulate_scorers"),
    script:
        "../scripts/experiments/tabulate_scorers.py"


rule check_claims:
    """Test each claim of the paper on this pair of models."""
    input:
        scores=experiments.reported(SCORES),
        fidelity=experiments.reported(FIDELITIES),
        reductions="results/{model}/{tuned}/prompt_reductions.h5",
        nulls="results/{model}/{tuned}/nulls.h5",
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        **in_reports("claims", "nulls", "power"),
    log:
        "logs/{model}/{tuned}/check_claims.log",
    benchmark:
        "benchmarks/{model}/{tuned}/check_claims.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("check_claims"),
        runtime=10,
    params:
        **experiments.claimed(),
        code=code_digest("experiments/check_claims"),
    script:
        "../scripts/experiments/check_claims.py"


rule tabulate_published:
    """Set what was published beside what this study measured."""
    input:
        interventions="results/{model}/{tuned}/tables/interventions.csv",
        groups="results/{model}/{tuned}/tables/groups.csv",
    output:
        table=in_report("published"),
    log:
        "logs/{model}/{tuned}/tabulate_published.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_published.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("tabulate_published"),
        runtime=10,
    params:
        published=config.get("published", {}),
        behaviour=config["behaviour"],
        code=code_digest("experiments/tabulate_published"),
    script:
        "../scripts/experiments/tabulate_published.py"


rule export_model:
    """Bake an intervention into a model folder for use elsewhere: run only if asked for."""
    input:
        unpack(experiments.exported_inputs),
        **UNITS,
        model=experiments.experiment_model,
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
        settings=experiments.export,
        code=code_digest("experiments/export_model"),
    script:
        "../scripts/experiments/export_model.py"
