"""Make preference pairs, some of them unseen, and tune the model on the others."""


rule sample_continuations:
    """Sample several continuations of each prompt from the base model."""
    input:
        model=tuning.base_model,
        prompts="results/{model}/base/prompts/{split}.jsonl",
    output:
        CONTINUATIONS,
    log:
        "logs/{model}/base/sample_continuations/{split}-{shard}.log",
    benchmark:
        "benchmarks/{model}/base/sample_continuations/{split}-{shard}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("sample_continuations"),
        runtime=120,
        gpu=tuning.gpus,
    params:
        reading=tuning.reading(),
        settings=tuning.sampling(),
        code=code_digest("tuning/sample_continuations"),
    script:
        "../scripts/tuning/sample_continuations.py"


rule score_continuations:
    """Score sampled continuations, to label the direction's samples and to pair preferences."""
    input:
        sources.scorer_folder,
        continuations=CONTINUATIONS,
    output:
        scored=SCORED,
    log:
        "logs/{model}/base/score_continuations/{split}-{shard}.log",
    benchmark:
        "benchmarks/{model}/base/score_continuations/{split}-{shard}.tsv"
    conda:
        "../../envs/scoring.yaml"
    threads: sources.scorer_threads
    resources:
        mem_mb=memory_of("score_continuations"),
        runtime=60,
        gpu=sources.scorer_gpus,
    params:
        scorer=sources.scorer_options,
        code=code_digest("tuning/score_continuations"),
    script:
        "../scripts/tuning/score_continuations.py"


rule steer_continuations:
    """Continue neutral prompts with the base model: greedily, and steered along a direction."""
    input:
        model=tuning.base_model,
        corpus="results/{model}/base/neutral.jsonl",
        direction=tuning.guide,
    output:
        STEERED,
    log:
        "logs/{model}/base/steer_continuations/{shard}.log",
    benchmark:
        "benchmarks/{model}/base/steer_continuations/{shard}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("steer_continuations"),
        runtime=1440,
        gpu=tuning.gpus,
    params:
        reading=tuning.steered_reading,
        settings=tuning.steering,
        code=code_digest("tuning/steer_continuations"),
    script:
        "../scripts/tuning/steer_continuations.py"


rule pair_preferences:
    """Bring pairs together: of samples, of steered continuations, or of a dataset."""
    input:
        model=tuning.base_model,
        sources=tuning.pair_sources(),
        measured=tuning.prompts_measured_on(),
    output:
        preferences="results/{model}/base/preferences.jsonl",
    log:
        "logs/{model}/base/pair_preferences.log",
    benchmark:
        "benchmarks/{model}/base/pair_preferences.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("pair_preferences"),
        runtime=10,
    params:
        settings=tuning.pairing(),
        code=code_digest("tuning/pair_preferences"),
    script:
        "../scripts/tuning/pair_preferences.py"


use rule pair_preferences as pair_unseen with:
    input:
        model=tuning.base_model,
        sources=tuning.pair_sources("evaluation"),
        measured=tuning.prompts_measured_on(),
    output:
        preferences=UNSEEN,
    log:
        "logs/{model}/base/pair_unseen.log",
    benchmark:
        "benchmarks/{model}/base/pair_unseen.tsv"
    params:
        settings=tuning.pairing(unseen=True),
        code=code_digest("tuning/pair_preferences"),


rule tune_model:
    """Tune the base model on the preference pairs."""
    input:
        model=tuning.base_model,
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
        gpu=tuning.tuning_gpus,
    params:
        settings=tuning.tuning,
        code=code_digest("tuning/tune_model"),
    script:
        "../scripts/tuning/tune_model.py"
