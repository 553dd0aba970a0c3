"""Store activations and attribute what tuning changed to neurons and layers."""


rule capture_base_activations:
    """Store the base model's activations while it continues the analysis prompts."""
    input:
        model=attribution.base_model,
        prompts="results/{model}/base/prompts/analysis.jsonl",
    output:
        "results/{model}/base/activations/base/{shard}.h5",
    log:
        "logs/{model}/base/capture_activations/base-{shard}.log",
    benchmark:
        "benchmarks/{model}/base/capture_activations/base-{shard}.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("capture_activations"),
        runtime=120,
        gpu=attribution.gpus,
    params:
        reading=attribution.reading(),
        settings=attribution.capture,
        code=code_digest("attribution/capture_activations"),
    script:
        "../scripts/attribution/capture_activations.py"


use rule capture_base_activations as capture_activations with:
    input:
        unpack(attribution.captured_inputs),
        model=attribution.captured_model,
        prompts="results/{model}/base/prompts/analysis.jsonl",
    output:
        "results/{model}/{tuned}/activations/{state}/{shard}.h5",
    log:
        "logs/{model}/{tuned}/capture_activations/{state}-{shard}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/capture_activations/{state}-{shard}.tsv"
    params:
        reading=attribution.reading(),
        settings=attribution.capture,
        code=code_digest("attribution/capture_activations"),


rule measure_change:
    """Measure how far every neuron and head moves on the base model's text."""
    input:
        unpack(attribution.compared_models),
        **attribution.stores("base"),
    output:
        changes="results/{model}/{tuned}/changes.h5",
    log:
        "logs/{model}/{tuned}/measure_change.log",
    benchmark:
        "benchmarks/{model}/{tuned}/measure_change.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("measure_change"),
        runtime=60,
        gpu=attribution.gpus,
    params:
        reading=attribution.reading(),
        code=code_digest("attribution/measure_change"),
    script:
        "../scripts/attribution/measure_change.py"


rule measure_gradients:
    """Predict how near to the tuned model each unit would bring the base model, moved alone."""
    input:
        unpack(attribution.compared_models),
        **attribution.stores("tuned"),
    output:
        units="results/{model}/{tuned}/units.parquet",
    log:
        "logs/{model}/{tuned}/measure_gradients.log",
    benchmark:
        "benchmarks/{model}/{tuned}/measure_gradients.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 8
    resources:
        mem_mb=memory_of("measure_gradients"),
        runtime=120,
        gpu=attribution.gpus,
    params:
        reading=attribution.reading(),
        settings=attribution.gradients(),
        code=code_digest("attribution/measure_gradients"),
    script:
        "../scripts/attribution/measure_gradients.py"


rule attribute_neurons:
    """Write one row per neuron: what it wrote toward toxicity before and after tuning."""
    input:
        unpack(attribution.compared_models),
        **attribution.stores(*COMPARED),
        direction=attribution.direction,
        changes="results/{model}/{tuned}/changes.h5",
    output:
        neurons="results/{model}/{tuned}/neurons.parquet",
        reductions="results/{model}/{tuned}/prompt_reductions.h5",
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
        code=code_digest("attribution/attribute_neurons"),
    script:
        "../scripts/attribution/attribute_neurons.py"


use rule attribute_neurons as attribute_direction with:
    input:
        unpack(attribution.compared_models),
        **attribution.stores(*COMPARED),
        direction="results/{model}/base/directions/{direction}.safetensors",
        changes="results/{model}/{tuned}/changes.h5",
    output:
        neurons="results/{model}/{tuned}/directions/{direction}/neurons.parquet",
        reductions="results/{model}/{tuned}/directions/{direction}/prompt_reductions.h5",
    log:
        "logs/{model}/{tuned}/attribute_direction/{direction}.log",
    benchmark:
        "benchmarks/{model}/{tuned}/attribute_direction/{direction}.tsv"


rule measure_nulls:
    """Attribute the reduction where there is nothing to find: along random directions, and swapped."""
    input:
        unpack(attribution.compared_models),
        **attribution.stores(*COMPARED),
        direction=attribution.direction,
    output:
        nulls="results/{model}/{tuned}/nulls.h5",
    log:
        "logs/{model}/{tuned}/measure_nulls.log",
    benchmark:
        "benchmarks/{model}/{tuned}/measure_nulls.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("measure_nulls"),
        runtime=60,
    params:
        settings=attribution.nulls(),
        code=code_digest("attribution/measure_nulls"),
    script:
        "../scripts/attribution/measure_nulls.py"


rule attribute_heads:
    """Write one row per attention head: what it wrote before and after tuning, and what it read."""
    input:
        unpack(attribution.compared_models),
        **attribution.stores(*COMPARED),
        direction=attribution.direction,
        changes="results/{model}/{tuned}/changes.h5",
    output:
        heads="results/{model}/{tuned}/heads.parquet",
    log:
        "logs/{model}/{tuned}/attribute_heads.log",
    benchmark:
        "benchmarks/{model}/{tuned}/attribute_heads.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("attribute_heads"),
        runtime=60,
    params:
        dtype=config["model"]["dtype"],
        code=code_digest("attribution/attribute_heads"),
    script:
        "../scripts/attribution/attribute_heads.py"


rule project_layers:
    """Project every layer's MLP output on the direction, for every state of the models."""
    input:
        unpack(attribution.compared_models),
        **attribution.stores(*STATES),
        direction=attribution.direction,
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
        states=attribution.states_by_model(),
        dtype=config["model"]["dtype"],
        statistics=attribution.statistics(),
        code=code_digest("attribution/project_layers"),
    script:
        "../scripts/attribution/project_layers.py"


rule decode_neurons:
    """Decode the neurons most along, most against the direction and most reducing to tokens."""
    input:
        model=attribution.base_model,
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        in_report("decoded_neurons"),
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
        code=code_digest("attribution/decode_neurons"),
    script:
        "../scripts/attribution/decode_neurons.py"


rule tabulate_weights:
    """Tabulate where tuning changed the weights, how far, and how low in rank."""
    input:
        unpack(attribution.compared_models),
    output:
        table=in_report("weights"),
    log:
        "logs/{model}/{tuned}/tabulate_weights.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_weights.tsv"
    conda:
        "../../envs/language-model.yaml"
    threads: 2
    resources:
        mem_mb=memory_of("tabulate_weights"),
        runtime=60,
    params:
        code=code_digest("attribution/tabulate_weights"),
    script:
        "../scripts/attribution/tabulate_weights.py"


rule summarize_groups:
    """Sum the reduction over the groups of neurons, with intervals over prompts."""
    input:
        reductions="results/{model}/{tuned}/prompt_reductions.h5",
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        table=in_report("groups"),
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
        statistics=attribution.statistics(),
        code=code_digest("attribution/summarize_groups"),
    script:
        "../scripts/attribution/summarize_groups.py"


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
        groups=attribution.groups(),
    output:
        table=in_report("direction_groups"),
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
        code=code_digest("attribution/tabulate_directions"),
    script:
        "../scripts/attribution/tabulate_directions.py"


rule compare_seeds:
    """Compare the attributions of the same tuning with several seeds."""
    input:
        unpack(attribution.attributions_by_seed),
    output:
        seeds=in_report("seeds"),
        overlap=in_report("seed_overlap"),
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
        seeds=attribution.seeds,
        statistics=attribution.statistics(),
        code=code_digest("attribution/compare_seeds"),
    script:
        "../scripts/attribution/compare_seeds.py"


rule tabulate_sources:
    """Split the reduction of groups into changed activations, value vectors and context."""
    input:
        reductions="results/{model}/{tuned}/prompt_reductions.h5",
    output:
        table=in_report("sources"),
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
        statistics=attribution.statistics(),
        code=code_digest("attribution/tabulate_sources"),
    script:
        "../scripts/attribution/tabulate_sources.py"


rule tabulate_group_categories:
    """Tabulate the shares of groups by category of prompt, beside random directions and others."""
    input:
        reductions="results/{model}/{tuned}/prompt_reductions.h5",
        nulls="results/{model}/{tuned}/nulls.h5",
        prompts="results/{model}/base/prompts/analysis.jsonl",
    output:
        table=in_report("group_categories"),
    log:
        "logs/{model}/{tuned}/tabulate_group_categories.log",
    benchmark:
        "benchmarks/{model}/{tuned}/tabulate_group_categories.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("tabulate_group_categories"),
        runtime=10,
    params:
        statistics=attribution.statistics(),
        code=code_digest("attribution/tabulate_group_categories"),
    script:
        "../scripts/attribution/tabulate_group_categories.py"


rule decompose_shift:
    """Split the shift of the final residual stream into what each layer adds to it."""
    input:
        unpack(attribution.compared_models),
        **attribution.stores("base", "tuned"),
        direction=attribution.direction,
    output:
        table=in_report("residual_shift"),
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
        gpu=attribution.gpus,
    params:
        reading=attribution.exact_reading(),
        statistics=attribution.statistics(),
        code=code_digest("attribution/decompose_shift"),
    script:
        "../scripts/attribution/decompose_shift.py"
