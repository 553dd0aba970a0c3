# The figures of the paper (arXiv 2411.06424), each as SVG for the report and as PNG.

# How the report shows each of them, by its number in the paper.
IN_REPORT = {
    number: {
        "caption": f"../report/{name}.rst",
        "category": "Figures",
        "labels": {"figure": f"{number}: {label}", "model": "{model}", "tuned": "{tuned}"},
    }
    for number, name, label in (
        ("1a", "layer_projection", "MLP output by layer"),
        ("1b", "cumulative_reduction", "reduction over ranked neurons"),
        ("2a", "group_shares", "shares of the groups"),
        ("2b", "group_stack", "groups among ranked neurons"),
        ("2c", "neuron_shifts", "shifts of single neurons"),
        ("3", "layer_groups", "reduction by layer and group"),
        ("4", "toxic_activations", f"activations of {config['behaviour']['adjective']} neurons"),
    )
}


rule draw_layer_projection:
    """Draw what each layer's MLP writes along the direction (figure 1a)."""
    input:
        layers="results/{model}/{tuned}/tables/layers.csv",
    output:
        svg=report("results/{model}/{tuned}/figures/layer_projection.svg", **IN_REPORT["1a"]),
        png="results/{model}/{tuned}/figures/layer_projection.png",
    log:
        "logs/{model}/{tuned}/figures/layer_projection.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/layer_projection.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_layer_projection"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        ablated=lookup(dpath="attribution/ablated", within=config),
        behaviour=config["behaviour"],
        code=code_digest("draw_layer_projection"),
    script:
        "../scripts/draw_layer_projection.py"


rule draw_cumulative_reduction:
    """Draw the reduction summed over ranked neurons (figure 1b)."""
    input:
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        svg=report("results/{model}/{tuned}/figures/cumulative_reduction.svg", **IN_REPORT["1b"]),
        png="results/{model}/{tuned}/figures/cumulative_reduction.png",
    log:
        "logs/{model}/{tuned}/figures/cumulative_reduction.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/cumulative_reduction.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_cumulative_reduction"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        code=code_digest("draw_cumulative_reduction"),
    script:
        "../scripts/draw_cumulative_reduction.py"


rule draw_group_shares:
    """Draw the shares of the four reducing groups (figure 2a)."""
    input:
        groups="results/{model}/{tuned}/tables/groups.csv",
    output:
        svg=report("results/{model}/{tuned}/figures/group_shares.svg", **IN_REPORT["2a"]),
        png="results/{model}/{tuned}/figures/group_shares.png",
    log:
        "logs/{model}/{tuned}/figures/group_shares.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/group_shares.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_group_shares"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        behaviour=config["behaviour"],
        code=code_digest("draw_group_shares"),
    script:
        "../scripts/draw_group_shares.py"


rule draw_group_stack:
    """Draw the reducing groups among ever more of the top-ranked neurons (figure 2b)."""
    input:
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        svg=report("results/{model}/{tuned}/figures/group_stack.svg", **IN_REPORT["2b"]),
        png="results/{model}/{tuned}/figures/group_stack.png",
    log:
        "logs/{model}/{tuned}/figures/group_stack.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/group_stack.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_group_stack"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        code=code_digest("draw_group_stack"),
    script:
        "../scripts/draw_group_stack.py"


rule draw_neuron_shifts:
    """Draw how tuning moved the neurons of largest reduction (figure 2c)."""
    input:
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        svg=report("results/{model}/{tuned}/figures/neuron_shifts.svg", **IN_REPORT["2c"]),
        png="results/{model}/{tuned}/figures/neuron_shifts.png",
    log:
        "logs/{model}/{tuned}/figures/neuron_shifts.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/neuron_shifts.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_neuron_shifts"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        behaviour=config["behaviour"],
        code=code_digest("draw_neuron_shifts"),
    script:
        "../scripts/draw_neuron_shifts.py"


rule draw_layer_groups:
    """Draw the reduction by layer and group (figure 3)."""
    input:
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        svg=report("results/{model}/{tuned}/figures/layer_groups.svg", **IN_REPORT["3"]),
        png="results/{model}/{tuned}/figures/layer_groups.png",
    log:
        "logs/{model}/{tuned}/figures/layer_groups.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/layer_groups.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_layer_groups"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        code=code_digest("draw_layer_groups"),
    script:
        "../scripts/draw_layer_groups.py"


rule draw_toxic_activations:
    """Draw the activations of the neurons of highest cosine (figure 4)."""
    input:
        neurons="results/{model}/{tuned}/neurons.parquet",
    output:
        svg=report("results/{model}/{tuned}/figures/toxic_activations.svg", **IN_REPORT["4"]),
        png="results/{model}/{tuned}/figures/toxic_activations.png",
    log:
        "logs/{model}/{tuned}/figures/toxic_activations.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/toxic_activations.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_toxic_activations"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        behaviour=config["behaviour"],
        code=code_digest("draw_toxic_activations"),
    script:
        "../scripts/draw_toxic_activations.py"


# Figures beyond the paper; the first four only where the configuration asks for what they show.
BEYOND = {
    key: {
        "caption": f"../report/{name}.rst",
        "category": "Figures",
        "labels": {"figure": label, "model": "{model}", "tuned": "{tuned}"},
    }
    for key, name, label in (
        ("learning", "learning_curve", "learning curve of the tuning"),
        ("seeds", "seed_shares", "shares of the groups by tuning seed"),
        ("curve", "cumulative_effect", "effect over the neurons edited"),
        ("modes", "patch_modes", "interventions and their controls"),
        ("scorers", "scorer_effects", "effects by different scorers"),
        ("residual", "residual_shift", "shift of the residual stream"),
        ("sources", "reduction_sources", "sources of the reduction"),
    )
}


rule draw_learning_curve:
    """Draw loss, accuracy and margin over the steps of tuning."""
    input:
        curve="results/{model}/{tuned}/tuning.csv",
    output:
        svg=report("results/{model}/{tuned}/figures/learning_curve.svg", **BEYOND["learning"]),
        png="results/{model}/{tuned}/figures/learning_curve.png",
    log:
        "logs/{model}/{tuned}/figures/learning_curve.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/learning_curve.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_learning_curve"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        version=tuned_version,
        code=code_digest("draw_learning_curve"),
    script:
        "../scripts/draw_learning_curve.py"


rule draw_seed_shares:
    """Draw the shares of the reducing groups for every tuning seed."""
    input:
        shares="results/{model}/{tuned}/tables/seeds.csv",
    output:
        svg=report("results/{model}/{tuned}/figures/seed_shares.svg", **BEYOND["seeds"]),
        png="results/{model}/{tuned}/figures/seed_shares.png",
    log:
        "logs/{model}/{tuned}/figures/seed_shares.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/seed_shares.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_seed_shares"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        seeds=tuning_seeds,
        code=code_digest("draw_seed_shares"),
    script:
        "../scripts/draw_seed_shares.py"


rule draw_cumulative_effect:
    """Draw effect and perplexity of an experiment over the number of neurons edited."""
    input:
        interventions="results/{model}/{tuned}/tables/interventions.csv",
    output:
        svg=report("results/{model}/{tuned}/figures/cumulative_effect.svg", **BEYOND["curve"]),
        png="results/{model}/{tuned}/figures/cumulative_effect.png",
    log:
        "logs/{model}/{tuned}/figures/cumulative_effect.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/cumulative_effect.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_cumulative_effect"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        experiment=lookup(dpath="curve", within=config, default=None),
        behaviour=config["behaviour"],
        code=code_digest("draw_cumulative_effect"),
    script:
        "../scripts/draw_cumulative_effect.py"


rule draw_patch_modes:
    """Draw the interventions that have controls beside those controls."""
    input:
        interventions="results/{model}/{tuned}/tables/interventions.csv",
    output:
        svg=report("results/{model}/{tuned}/figures/patch_modes.svg", **BEYOND["modes"]),
        png="results/{model}/{tuned}/figures/patch_modes.png",
    log:
        "logs/{model}/{tuned}/figures/patch_modes.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/patch_modes.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_patch_modes"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        behaviour=config["behaviour"],
        code=code_digest("draw_patch_modes"),
    script:
        "../scripts/draw_patch_modes.py"


rule draw_scorer_effects:
    """Draw the effects of the interventions by one scorer against those by another."""
    input:
        interventions="results/{model}/{tuned}/tables/interventions.csv",
        scorers="results/{model}/{tuned}/tables/scorers.csv",
    output:
        svg=report("results/{model}/{tuned}/figures/scorer_effects.svg", **BEYOND["scorers"]),
        png="results/{model}/{tuned}/figures/scorer_effects.png",
    log:
        "logs/{model}/{tuned}/figures/scorer_effects.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/scorer_effects.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_scorer_effects"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        behaviour=config["behaviour"],
        code=code_digest("draw_scorer_effects"),
    script:
        "../scripts/draw_scorer_effects.py"


rule draw_residual_shift:
    """Draw what each layer adds to the shift of the final residual stream."""
    input:
        shifts="results/{model}/{tuned}/tables/residual_shift.csv",
    output:
        svg=report("results/{model}/{tuned}/figures/residual_shift.svg", **BEYOND["residual"]),
        png="results/{model}/{tuned}/figures/residual_shift.png",
    log:
        "logs/{model}/{tuned}/figures/residual_shift.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/residual_shift.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_residual_shift"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        code=code_digest("draw_residual_shift"),
    script:
        "../scripts/draw_residual_shift.py"


rule draw_reduction_sources:
    """Draw which part of the reduction of each group comes from where."""
    input:
        sources="results/{model}/{tuned}/tables/sources.csv",
    output:
        svg=report("results/{model}/{tuned}/figures/reduction_sources.svg", **BEYOND["sources"]),
        png="results/{model}/{tuned}/figures/reduction_sources.png",
    log:
        "logs/{model}/{tuned}/figures/reduction_sources.log",
    benchmark:
        "benchmarks/{model}/{tuned}/figures/reduction_sources.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("draw_reduction_sources"),
        runtime=10,
    params:
        model="{model}",
        tuned="{tuned}",
        code=code_digest("draw_reduction_sources"),
    script:
        "../scripts/draw_reduction_sources.py"
