GENERATIONS = "results/{model}/{tuned}/experiments/{experiment}/generations/{shard}.parquet"
SCORES = "results/{model}/{tuned}/experiments/{experiment}/scores/{scorer}/{shard}.parquet"
MEASURES = "results/{model}/{tuned}/experiments/{experiment}/measures/{shard}.parquet"
LOSSES = "results/{model}/{tuned}/experiments/{experiment}/losses/{shard}.parquet"
CHOICE = "results/{model}/{tuned}/experiments/{experiment}/choice.json"
# The state of each experiment that is reported; a search is not.
STATES = {
    name: experiment["state"]
    for name, experiment in config["experiments"].items()
    if not experiments.is_search(experiment)
}
# What the tables that compare interventions have in common.
JUDGED = {
    "states": STATES,
    "behaviour": config["behaviour"],
    "statistics": config["statistics"] | {"seed": config["seed"]},
}

# How the report shows the tables.
TABLES = {
    name: {
        "caption": f"../report/{name}.rst",
        "category": "Tables",
        "labels": {"table": label, "model": "{model}", "tuned": "{tuned}"},
    }
    for name, label in (
        ("interventions", "interventions next to tuning"),
        ("controls", "interventions next to their controls"),
        ("categories", "interventions by category of prompt"),
        ("claims", "the paper's claims"),
        ("scorers", "agreement of the scorers"),
        ("published", "published numbers"),
    )
}


rule run_experiment:
    """Run an experiment's interventions on a shard of the texts: generations and token losses."""
    input:
        unpack(experiment_inputs),
        neurons="results/{model}/{tuned}/neurons.parquet",
        corpus="results/{model}/base/corpus.jsonl",
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
        gpu=gpus(),
    params:
        settings=experiment_settings,
        code=code_digest("run_experiment"),
    script:
        "../scripts/run_experiment.py"


rule score_generations:
    """Score what the model wrote under each intervention of an experiment, with one scorer."""
    input:
        scorer_folder,
        generations=GENERATIONS,
    output:
        scores=SCORES,
    log:
        "logs/{model}/{tuned}/score_generations/{experiment}-{scorer}-{shard}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/score_generations/{experiment}-{scorer}-{shard}.tsv"
    conda:
        "../../envs/scoring.yaml"
    threads: scorer_threads
    resources:
        mem_mb=memory_of("score_generations"),
        runtime=60,
        gpu=scorer_gpus,
    params:
        scorer=scorer_options,
        code=code_digest("score_generations"),
    script:
        "../scripts/score_generations.py"


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
        code=code_digest("measure_generations"),
    script:
        "../scripts/measure_generations.py"


rule tabulate_interventions:
    """Tabulate score, fluency and effect share of every intervention, with intervals."""
    input:
        scores=sharded(SCORES, experiment=STATES, scorer=SCORERS),
        measures=sharded(MEASURES, experiment=STATES),
        losses=sharded(LOSSES, experiment=STATES),
    output:
        table=report("results/{model}/{tuned}/tables/interventions.csv", **TABLES["interventions"]),
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
        **JUDGED,
        thresholds={name: scorer["threshold"] for name, scorer in config["scorers"].items()},
        code=code_digest("tabulate_interventions"),
    script:
        "../scripts/tabulate_interventions.py"


rule choose_intervention:
    """Choose the intervention of a search: that of lowest score among those that still write."""
    input:
        scores=sharded(SCORES, scorer=SCORERS[:1]),
        measures=sharded(MEASURES),
        losses=sharded(LOSSES),
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
        perplexity=lookup(dpath="experiments/{experiment}/search/perplexity", within=config),
        code=code_digest("choose_intervention"),
    script:
        "../scripts/choose_intervention.py"


rule tabulate_controls:
    """Tabulate each controlled intervention beside the draws of its controls."""
    input:
        scores=sharded(SCORES, experiment=STATES, scorer=SCORERS),
        measures=sharded(MEASURES, experiment=STATES),
        losses=sharded(LOSSES, experiment=STATES),
    output:
        table=report("results/{model}/{tuned}/tables/controls.csv", **TABLES["controls"]),
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
        **JUDGED,
        scorers=SCORERS,
        code=code_digest("tabulate_controls"),
    script:
        "../scripts/tabulate_controls.py"


rule tabulate_categories:
    """Tabulate every intervention's scores by category of prompt."""
    input:
        scores=sharded(SCORES, experiment=STATES, scorer=SCORERS),
        prompts="results/{model}/base/prompts/evaluation.jsonl",
    output:
        table=report("results/{model}/{tuned}/tables/categories.csv", **TABLES["categories"]),
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
        **JUDGED,
        scorers=SCORERS,
        code=code_digest("tabulate_categories"),
    script:
        "../scripts/tabulate_categories.py"


rule tabulate_scorers:
    """Tabulate how far the scorers agree, over continuations and over interventions."""
    input:
        scores=sharded(SCORES, experiment=STATES, scorer=SCORERS),
    output:
        table=report("results/{model}/{tuned}/tables/scorers.csv", **TABLES["scorers"]),
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
        scorers=SCORERS,
        code=code_digest("tabulate_scorers"),
    script:
        "../scripts/tabulate_scorers.py"


rule check_claims:
    """Test each claim of the paper on this pair of models."""
    input:
        scores=sharded(SCORES, experiment=STATES, scorer=SCORERS),
        reductions="results/{model}/{tuned}/prompt_reductions.h5",
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        table=report("results/{model}/{tuned}/tables/claims.csv", **TABLES["claims"]),
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
        **JUDGED,
        claims=config["claims"],
        scorers=SCORERS,
        code=code_digest("check_claims"),
    script:
        "../scripts/check_claims.py"


rule tabulate_published:
    """Set what was published beside what this study measured."""
    input:
        interventions="results/{model}/{tuned}/tables/interventions.csv",
        groups="results/{model}/{tuned}/tables/groups.csv",
    output:
        table=report("results/{model}/{tuned}/tables/published.csv", **TABLES["published"]),
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
        code=code_digest("tabulate_published"),
    script:
        "../scripts/tabulate_published.py"
