# How the report shows the directions.
DIRECTIONS_IN_REPORT = {
    "table": {
        "caption": "../report/directions.rst",
        "category": "Tables",
        "labels": {"table": "directions", "model": "{model}", "tuned": ""},
    },
    "figure": {
        "caption": "../report/direction_cosines.rst",
        "category": "Figures",
        "labels": {"figure": "cosines of the directions", "model": "{model}", "tuned": ""},
    },
}


rule extract_features:
    """Read labelled texts with the base model and keep a vector of each after a block."""
    input:
        unpack(feature_inputs),
        model=base_model,
    output:
        features="results/{model}/base/features/{features}.safetensors",
    log:
        "logs/{model}/base/extract_features/{features}.log",
    benchmark:
        "benchmarks/{model}/base/extract_features/{features}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("extract_features"),
        runtime=240,
        gpu=gpus(),
    params:
        settings=feature_settings,
        code=code_digest("extract_features"),
    script:
        "../scripts/extract_features.py"


rule fit_direction:
    """Make a direction: fitted on labelled features, or of words, value vectors or a file."""
    input:
        unpack(direction_inputs),
        model=base_model,
    output:
        vector="results/{model}/base/directions/{direction}.safetensors",
        description="results/{model}/base/directions/{direction}.json",
    log:
        "logs/{model}/base/fit_direction/{direction}.log",
    benchmark:
        "benchmarks/{model}/base/fit_direction/{direction}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("fit_direction"),
        runtime=240,
    params:
        settings=direction_settings,
        code=code_digest("fit_direction"),
    script:
        "../scripts/fit_direction.py"


rule compare_directions:
    """Tabulate what each direction is worth, and how far they point the same way."""
    input:
        vectors=every_direction("safetensors"),
        descriptions=every_direction("json"),
    output:
        table=report("results/{model}/base/tables/directions.csv", **DIRECTIONS_IN_REPORT["table"]),
    log:
        "logs/{model}/base/compare_directions.log",
    benchmark:
        "benchmarks/{model}/base/compare_directions.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("compare_directions"),
        runtime=10,
    params:
        code=code_digest("compare_directions"),
    script:
        "../scripts/compare_directions.py"


rule draw_direction_cosines:
    """Draw the cosines of the directions with each other."""
    input:
        table="results/{model}/base/tables/directions.csv",
    output:
        svg=report(
            "results/{model}/base/figures/direction_cosines.svg", **DIRECTIONS_IN_REPORT["figure"]
        ),
        png="results/{model}/base/figures/direction_cosines.png",
    log:
        "logs/{model}/base/figures/direction_cosines.log",
    benchmark:
        "benchmarks/{model}/base/figures/direction_cosines.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_direction_cosines"),
        runtime=10,
    params:
        model="{model}",
        behaviour=config["behaviour"],
        code=code_digest("draw_direction_cosines"),
    script:
        "../scripts/draw_direction_cosines.py"
