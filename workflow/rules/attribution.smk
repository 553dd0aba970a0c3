# How the report shows the tables.
TABLE_OF_GROUPS = {
    "caption": "../report/groups.rst",
    "category": "Tables",
    "labels": {"table": "groups of neurons", "model": "{model}", "tuned": "{tuned}"},
}

TABLE_OF_DIRECTIONS = {
    "caption": "../report/direction_groups.rst",
    "category": "Tables",
    "labels": {"table": "groups by direction", "model": "{model}", "tuned": "{tuned}"},
}

TABLE_OF_TOKENS = {
    "caption": "../report/decoded_neurons.rst",
    "category": "Tables",
    "labels": {"table": "tokens of value vectors", "model": "{model}", "tuned": "{tuned}"},
}

TABLES_OF_SEEDS = {
    name: {
        "caption": f"../report/{name}.rst",
        "category": "Tables",
        "labels": {"table": label, "model": "{model}", "tuned": "{tuned}"},
    }
    for name, label in (
        ("seeds", "groups by tuning seed"),
        ("seed_overlap", "agreement of tuning seeds"),
    )
}

TABLE_OF_SOURCES = {
    "caption": "../report/sources.rst",
    "category": "Tables",
    "labels": {"table": "sources of the reduction", "model": "{model}", "tuned": "{tuned}"},
}

TABLE_OF_SHIFTS = {
    "caption": "../report/residual_shift_table.rst",
    "category": "Tables",
    "labels": {"table": "shift of the residual stream", "model": "{model}", "tuned": "{tuned}"},
}


rule attribute_neurons:
    """Write one row per neuron: what it wrote toward toxicity before and after tuning."""
    input:
        unpack(compared_models),
        **stores_of("base", "tuned", "tuned-on-base-text"),
        direction=DIRECTION,
    output:
        neurons="results/{model}/{tuned}/neurons.parquet",
        prompts="results/{model}/{tuned}/prompt_reductions.h5",
    log:
        "logs/{model}/{tuned}/attribute_neurons.log",
    benchmark:
        "benchmarks/{model}/{tuned}/attribute_neurons.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("attribute_neurons"),
        runtime=60,
    params:
        dtype=config["model"]["dtype"],
        code=code_digest("attribute_neurons"),
    script:
        "../scripts/attribute_neurons.py"


use rule attribute_neurons as attribute_direction with:
    input:
        unpack(compared_models),
        **stores_of("base", "tuned", "tuned-on-base-text"),
        direction="results/{model}/base/directions/{direction}.safetensors",
    output:
        neurons="results/{model}/{tuned}/directions/{direction}/neurons.parquet",
        prompts="results/{model}/{tuned}/directions/{direction}/prompt_reductions.h5",
    log:
        "logs/{model}/{tuned}/attribute_direction/{direction}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/attribute_direction/{direction}.tsv"


rule project_layers:
    """Project every layer's MLP output on the direction, for every state of the models."""
    input:
        unpack(compared_models),
        **stores_of("base", "base-ablated", "tuned", "tuned-on-base-text"),
        direction=DIRECTION,
    output:
        "results/{model}/{tuned}/tables/layers.csv",
    log:
        "logs/{model}/{tuned}/project_layers.log",
    benchmark:
        "benchmarks/{model}/{tuned}/project_layers.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("project_layers"),
        runtime=60,
    params:
        dtype=config["model"]["dtype"],
        statistics=config["statistics"] | {"seed": config["seed"]},
        code=code_digest("project_layers"),
    script:
        "../scripts/project_layers.py"


rule decode_neurons:
    """Decode the neurons most along, most against the direction and most reducing to tokens."""
    input:
        model=base_model,
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        report("results/{model}/{tuned}/tables/decoded_neurons.csv", **TABLE_OF_TOKENS),
    log:
        "logs/{model}/{tuned}/decode_neurons.log",
    benchmark:
        "benchmarks/{model}/{tuned}/decode_neurons.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("decode_neurons"),
        runtime=30,
    params:
        number=config["attribution"]["decoded"],
        dtype=config["model"]["dtype"],
        behaviour=config["behaviour"],
        code=code_digest("decode_neurons"),
    script:
        "../scripts/decode_neurons.py"


rule summarize_groups:
    """Sum the reduction over the groups of neurons, with intervals over prompts."""
    input:
        reductions="results/{model}/{tuned}/prompt_reductions.h5",
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        table=report("results/{model}/{tuned}/tables/groups.csv", **TABLE_OF_GROUPS),
    log:
        "logs/{model}/{tuned}/summarize_groups.log",
    benchmark:
        "benchmarks/{model}/{tuned}/summarize_groups.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("summarize_groups"),
        runtime=10,
    params:
        statistics=config["statistics"] | {"seed": config["seed"]},
        code=code_digest("summarize_groups"),
    script:
        "../scripts/summarize_groups.py"


use rule summarize_groups as summarize_direction with:
    input:
        reductions="results/{model}/{tuned}/directions/{direction}/prompt_reductions.h5",
        neurons="results/{model}/{tuned}/directions/{direction}/neurons.parquet",
    output:
        table="results/{model}/{tuned}/directions/{direction}/groups.csv",
    log:
        "logs/{model}/{tuned}/summarize_direction/{direction}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/summarize_direction/{direction}.tsv"


rule tabulate_directions:
    """Tabulate the groups of every direction that neurons are attributed along, side by side."""
    input:
        groups=attributed_groups(),
    output:
        table=report("results/{model}/{tuned}/tables/direction_groups.csv", **TABLE_OF_DIRECTIONS),
    log:
        "logs/{model}/{tuned}/tabulate_directions.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_directions.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("tabulate_directions"),
        runtime=10,
    params:
        directions=config["attribution"]["directions"],
        code=code_digest("tabulate_directions"),
    script:
        "../scripts/tabulate_directions.py"


rule compare_seeds:
    """Compare the attributions of the same tuning with several seeds."""
    input:
        unpack(attributions_by_seed),
    output:
        seeds=report("results/{model}/{tuned}/tables/seeds.csv", **TABLES_OF_SEEDS["seeds"]),
        overlap=report(
            "results/{model}/{tuned}/tables/seed_overlap.csv", **TABLES_OF_SEEDS["seed_overlap"]
        ),
    log:
        "logs/{model}/{tuned}/compare_seeds.log",
    benchmark:
        "benchmarks/{model}/{tuned}/compare_seeds.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("compare_seeds"),
        runtime=10,
    params:
        seeds=tuning_seeds,
        statistics=config["statistics"] | {"seed": config["seed"]},
        code=code_digest("compare_seeds"),
    script:
        "../scripts/compare_seeds.py"


rule tabulate_sources:
    """Split the reduction of groups into changed activations, value vectors and context."""
    input:
        reductions="results/{model}/{tuned}/prompt_reductions.h5",
    output:
        table=report("results/{model}/{tuned}/tables/sources.csv", **TABLE_OF_SOURCES),
    log:
        "logs/{model}/{tuned}/tabulate_sources.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_sources.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("tabulate_sources"),
        runtime=10,
    params:
        statistics=config["statistics"] | {"seed": config["seed"]},
        code=code_digest("tabulate_sources"),
    script:
        "../scripts/tabulate_sources.py"


rule decompose_shift:
    """Split the shift of the final residual stream into what each layer adds to it."""
    input:
        unpack(compared_models),
        **stores_of("base", "tuned"),
        direction=DIRECTION,
    output:
        table=report("results/{model}/{tuned}/tables/residual_shift.csv", **TABLE_OF_SHIFTS),
    log:
        "logs/{model}/{tuned}/decompose_shift.log",
    benchmark:
        "benchmarks/{model}/{tuned}/decompose_shift.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("decompose_shift"),
        runtime=60,
        gpu=gpus(),
    params:
        settings=shift_settings(),
        code=code_digest("decompose_shift"),
    script:
        "../scripts/decompose_shift.py"
