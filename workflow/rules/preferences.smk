SAMPLES = "results/{model}/base/continuations/{split}/{shard}.parquet"
SCORED = "results/{model}/base/continuations/{split}-scored/{shard}.parquet"
STEERED = "results/{model}/base/steered/{shard}.parquet"


rule sample_continuations:
    """Sample several continuations of each prompt from the base model."""
    input:
        model=base_model,
        prompts="results/{model}/base/prompts/{split}.jsonl",
    output:
        SAMPLES,
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
        gpu=gpus(),
    params:
        settings=sampling_settings(),
        code=code_digest("sample_continuations"),
    script:
        "../scripts/sample_continuations.py"


rule score_continuations:
    """Score sampled continuations, to label the direction's samples and to pair preferences."""
    input:
        scorer_folder,
        continuations=SAMPLES,
    output:
        scored=SCORED,
    log:
        "logs/{model}/base/score_continuations/{split}-{shard}.log",
    benchmark:
        "benchmarks/{model}/base/score_continuations/{split}-{shard}.tsv"
    conda:
        "../../envs/scoring.yaml"
    threads: scorer_threads
    resources:
        mem_mb=memory_of("score_continuations"),
        runtime=60,
        gpu=scorer_gpus,
    params:
        scorer=scorer_options,
        code=code_digest("score_continuations"),
    script:
        "../scripts/score_continuations.py"


rule steer_continuations:
    """Continue neutral prompts with the base model: greedily, and steered along a direction."""
    input:
        model=base_model,
        texts="results/{model}/base/neutral.jsonl",
        direction=guide,
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
        gpu=gpus(),
    params:
        settings=steered_settings,
        code=code_digest("steer_continuations"),
    script:
        "../scripts/steer_continuations.py"


rule pair_preferences:
    """Bring pairs together: of samples, of steered continuations, or of a dataset."""
    input:
        sources=pair_sources(),
        measured=prompts_measured_on(),
    output:
        preferences="results/{model}/base/preferences.jsonl",
    log:
        "logs/{model}/base/pair_preferences.log",
    benchmark:
        "benchmarks/{model}/base/pair_preferences.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("pair_preferences"),
        runtime=10,
    params:
        settings=pair_settings(),
        code=code_digest("pair_preferences"),
    script:
        "../scripts/pair_preferences.py"
