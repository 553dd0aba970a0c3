"""Measure how near interventions bring a model to the other one of the pair.

The other model has continued some prompts; the edited model reads these texts, and so does the
other one, whose activations paired patches take. Nothing is generated.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from neurondynamics.analysis.directions import read_vectors
from neurondynamics.data.provenance import check_made
from neurondynamics.data.tables import read_parquet, write_parquet
from neurondynamics.interventions.following import measure_fidelity as read_under
from neurondynamics.interventions.plans import Plan, resolve_interventions
from neurondynamics.interventions.units import Units
from neurondynamics.limits import FOLLOWED_TEXTS
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.generation import NonFiniteError, part_of_shard, sorted_batches
from neurondynamics.lm.loading import Reading, tokenizer_digest, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.runtime import file_digest, progress
from transformers import PreTrainedModel

COLUMNS = dict.fromkeys(["experiment", "intervention"], "str")
COLUMNS |= dict.fromkeys(["prompt_id", "neurons", "heads", "tokens"], "int64")
COLUMNS |= dict.fromkeys(["kl", "agreement", "kl_unedited", "agreement_unedited"], "float64")
COLUMNS |= {"kl_noise": "float64"}


def measure_fidelity(
    model: str,
    followed_model: str,
    texts: str,
    neurons: str,
    heads: str,
    directions: list[str],
    choices: list[str],
    fidelity: str,
    *,
    experiment: str,
    shard: str,
    reading: Reading,
    interventions: dict[str, list[dict] | dict],
    state: str,
) -> None:
    """Write a row per intervention and text of a shard, which may hold none.

    `texts` is what the followed model wrote; `interventions` and `choices` are as
    `resolve_interventions` takes them, `state` the edited model's, `base` or `tuned`. Columns:
    `neurons` and `heads` edited, `tokens` read, `kl`, `agreement` and the unedited model's, and
    `kl_noise` of the followed model against itself in another batch size. Raises ValueError, naming
    the intervention, for a selection that does not fit the model and for outputs that are not
    finite; and for texts of another model.
    """
    edited, followed = reading.load(model), reading.load(followed_model)
    units = Units.read(dissect(edited), neurons, heads, weight_digest(model), state)
    plans = resolve_interventions(
        units, interventions, choices, read_vectors(directions), experiment
    )
    written = read_parquet(texts)
    made = {"weight_digest": weight_digest(followed_model)}
    made["tokenizer_digest"] = tokenizer_digest(followed_model)
    check_made(texts, written.attrs, made)
    lengths = [len(tokens) for tokens in written["prompt_tokens"]]
    batches = part_of_shard(list(sorted_batches(lengths, FOLLOWED_TEXTS)), shard)
    tables = [pd.DataFrame(columns=list(COLUMNS))]

    def measure(rows: np.ndarray) -> pd.DataFrame:
        return measure_batch(edited, followed, written.iloc[rows], plans)

    for batch in progress(batches, f"reading under {len(plans)} interventions"):
        tables += [part for _, part in halving(batch, measure)]
    measured = pd.concat(tables[1:] or tables)
    order = {name: place for place, name in enumerate(plans)}
    measured = measured.assign(order=measured["intervention"].map(order))
    measured = measured.sort_values(["order", "prompt_id"])
    made = {"experiment": experiment, "shard": shard, "weight_digest": weight_digest(model)}
    made["texts"] = file_digest(texts)
    # a shard without texts has columns of the same types
    measured = measured.assign(experiment=experiment)[list(COLUMNS)].astype(COLUMNS)
    write_parquet(fidelity, measured, made)


def measure_batch(
    model: PreTrainedModel,
    followed: PreTrainedModel,
    texts: pd.DataFrame,
    interventions: dict[str, Plan],
) -> pd.DataFrame:
    """Return a row per intervention and text of a batch, columns as COLUMNS but the experiment."""
    prompts, new = ([*map(list, texts[name])] for name in ("prompt_tokens", "tokens"))
    try:
        read = read_under(model, followed, prompts, new, interventions)
    except NonFiniteError as error:
        culprit = texts.iloc[error.rows[0]]
        raise ValueError(
            f"{error}; prompt {culprit['prompt_id']}: {culprit['prompt']!r}"
        ) from error
    tables = []
    for name, divergence in read.edited.items():
        touched = interventions[name].count()
        columns = {
            "intervention": name,
            "prompt_id": texts["prompt_id"].to_numpy(),
            "neurons": touched[0],
            "heads": touched[1],
            "tokens": [len(tokens) for tokens in new],
            "kl": divergence.kl,
            "agreement": divergence.agreement,
            "kl_unedited": read.unedited.kl,
            "agreement_unedited": read.unedited.agreement,
            "kl_noise": read.noise.kl,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables)


if __name__ == "__main__":
    measure_fidelity(
        model=snakemake.input.model,
        followed_model=snakemake.input.followed_model,
        texts=snakemake.input.texts,
        neurons=snakemake.input.neurons,
        heads=snakemake.input.heads,
        directions=snakemake.input.get("directions", []),
        choices=snakemake.input.get("choices", []),
        fidelity=snakemake.output.fidelity,
        experiment=snakemake.wildcards.experiment,
        shard=snakemake.wildcards.shard,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )
