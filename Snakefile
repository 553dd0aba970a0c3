"""How tuning changes a language model's neurons: run `snakemake --cores all`."""

from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"


wildcard_constraints:
    model=re.escape(config["model"]["name"]),
    tuned="|".join(map(re.escape, config["tuned"])),
    fetched="[^/]+",
    dataset="[^/]+",
    split="|".join(SPLITS),
    corpus="corpus|passages|neutral",
    state="|".join(STATES),
    shard="[0-9]+-of-[0-9]+",
    experiment="|".join(map(re.escape, config["experiments"])),
    scorer="|".join(map(re.escape, config["scorers"])),
    direction="|".join(map(re.escape, config["directions"])),
    features="[^/]+",


report: "workflow/report/workflow.rst"


include: "workflow/rules/sources.smk"
include: "workflow/rules/tuning.smk"
include: "workflow/rules/directions.smk"
include: "workflow/rules/attribution.smk"
include: "workflow/rules/experiments.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/estimate.smk"


rule all:
    """The whole study: tables and figures of every tuned version."""
    default_target: True
    input:
        study_targets,
