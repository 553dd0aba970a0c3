"""Bake an intervention into the weights of a model, as a Hugging Face folder for use elsewhere."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import json
import logging
from pathlib import Path

import torch
from neurondynamics.analysis.directions import read_vectors
from neurondynamics.interventions.export import bake
from neurondynamics.interventions.plans import chosen_steps, plan_steps
from neurondynamics.interventions.units import Units
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.loading import (
    load_model,
    load_tokenizer,
    save_model,
    set_threads,
    weight_digest,
)
from neurondynamics.lm.stored import StoredWeights

logger = logging.getLogger(__name__)

CARD = """\
---
library_name: transformers
tags: [interpretability, model-editing]
---

# {model_name} with {intervention}

This is the model `{model_name}` (sha256 of its weights: {digest}) with the intervention
`{intervention}` of the experiment `{experiment}` baked into its weights. Neurons
edited: {neurons}. Attention heads edited: {heads}. The edits, as the study states them:

```yaml
{edits}
```

The edits act at every position that the model reads, the prompt's included, whatever `positions`
says above. The weights are stored as {dtype}.

## Loading

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "..."  # this folder
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```

## Content warning

The model was made to study what tuning changes in a language model. It can write text that is
offensive, more so where the intervention undoes the tuning. The licence of the model that it was
made from applies.
"""


def export_model(
    model: str,
    neurons: str,
    heads: str,
    directions: list[str],
    choice: str | None,
    folder: str,
    *,
    followed_model: str | None,
    steps: list[dict] | dict,
    state: str,
    model_name: str,
    experiment: str,
    intervention: str,
    threads: int,
    measured: str | None = None,
) -> None:
    """Write the folder of a model with an intervention in its weights, tokenizer and model card.

    `steps` are the intervention's, or {best_of: the interventions of a search}, of which the file
    `choice` says which one was chosen; `directions` are the files of what they subtract, by their
    names. `state` is the model's, `base` or `tuned`; `followed_model` the folder of the other one,
    if weights are moved toward it. The weights keep the dtype that they are stored in, or the wider
    one of both models' where some are moved. The names are for the card. Raises ValueError, naming
    the intervention, for a selection that does not fit the model and for an edit that weights
    cannot express.
    """
    set_threads(threads)
    steps = chosen_steps(steps, choice)
    lm = load_model(model, "auto", "cpu")
    key = f"experiments.{experiment}.interventions.{intervention}"
    units = Units.read(dissect(lm), neurons, heads, weight_digest(model), state, measured)
    try:
        made = plan_steps(units, steps, read_vectors(directions))
    except ValueError as error:
        raise ValueError(f"{key}{error}") from error
    try:
        other = StoredWeights(followed_model) if made.moves else None
        if other is not None:  # weights that are moved into a narrower precision are lost there
            lm = lm.to(torch.promote_types(lm.dtype, other.dtype))
        baked = bake(made.moved(lm, other), made.edits)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    touched = made.count()
    logger.info("%s is baked into %d neurons and %d heads", intervention, *touched)
    card = CARD.format(
        model_name=model_name,
        experiment=experiment,
        intervention=intervention,
        digest=weight_digest(model),
        dtype=str(baked.dtype).removeprefix("torch."),
        neurons=touched[0],
        heads=touched[1],
        # an edit in JSON is one in YAML too, and a line can be copied into a configuration
        edits="\n".join(f"- {json.dumps(step)}" for step in without_folders(steps)) or "[]",
    )
    save_model(baked, load_tokenizer(model), folder, card)


def without_folders(steps):
    """Return steps with the names of files only: where they lay means nothing elsewhere."""
    if isinstance(steps, list):
        return [without_folders(item) for item in steps]
    if isinstance(steps, dict):
        return {
            key: Path(value).name if key == "file" else without_folders(value)
            for key, value in steps.items()
        }
    return steps


if __name__ == "__main__":
    export_model(
        model=snakemake.input.model,
        neurons=snakemake.input.neurons,
        heads=snakemake.input.heads,
        measured=snakemake.input.get("measured"),
        followed_model=snakemake.input.get("followed_model"),
        directions=snakemake.input.get("directions", []),
        choice=snakemake.input.get("choice"),
        folder=snakemake.output.folder,
        threads=snakemake.threads,
        **snakemake.params.settings,
    )
