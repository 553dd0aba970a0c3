"""One row per neuron: cosine with the direction, activation and projection before and after."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import h5py
import numpy as np
import pandas as pd
from neurondynamics.analysis.attribution import GROUPS, classify, sum_by_group
from neurondynamics.analysis.directions import read_direction
from neurondynamics.data.records import replacing
from neurondynamics.data.store import ActivationStore
from neurondynamics.lm.weights import ValueProjections, value_projections
from neurondynamics.runtime import progress


def attribute_neurons(
    base: list[str],
    tuned: list[str],
    same_text: list[str],
    base_model: str,
    tuned_model: str,
    direction: str,
    neurons: str,
    prompts: str,
    *,
    dtype: str,
) -> None:
    """Write the neuron table and, per prompt, layer and group, the sums of the reduction.

    `base`, `tuned` and `same_text` are the stores of the base model, of the tuned model on its
    own text and of the tuned model on the base's text. Layers are read one by one and in blocks
    of prompts. Raises ValueError if the stores do not hold the same prompts.
    """
    w = read_direction(direction).vector
    of_base = value_projections(base_model, w, dtype)
    of_tuned = value_projections(tuned_model, w, dtype)
    with (
        ActivationStore(base) as a,
        ActivationStore(tuned) as b,
        ActivationStore(same_text) as c,
        replacing(prompts) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        check_same_prompts(a, b, c)
        if not np.array_equal(a.tokens, c.tokens):
            raise ValueError(
                f"{same_text[0]} was not read from the text of {base[0]}; delete it and run again"
            )
        shape = (len(a), a.layers, len(GROUPS))
        own = file.create_dataset("reduction", shape, "f8")
        same = file.create_dataset("reduction_same_text", shape, "f8")
        file.attrs["groups"] = GROUPS
        tables = []
        for layer in progress(range(a.layers), "attributing layers"):
            table = layer_table(layer, a, b, c, of_base, of_tuned)
            groups = pd.Categorical(table.group, GROUPS).codes
            before = group_sums(a, layer, of_base.projections[layer], groups)
            own[:, layer] = before - group_sums(b, layer, of_tuned.projections[layer], groups)
            same[:, layer] = before - group_sums(c, layer, of_tuned.projections[layer], groups)
            tables.append(table)
    with replacing(neurons) as temporary:
        pd.concat(tables, ignore_index=True).to_parquet(temporary, index=False)


def layer_table(
    layer: int,
    base: ActivationStore,
    tuned: ActivationStore,
    same_text: ActivationStore,
    of_base: ValueProjections,
    of_tuned: ValueProjections,
) -> pd.DataFrame:
    """Return the neuron table of one layer; each model's activations meet its own value vectors."""
    before, after, same = base.mean(layer), tuned.mean(layer), same_text.mean(layer)  # (d_mlp,)
    written_before = before * of_base.projections[layer]
    written_after = after * of_tuned.projections[layer]
    groups = classify(of_base.cosines[layer], before, after)
    return pd.DataFrame(
        {
            "layer": np.int32(layer),
            "neuron": np.arange(base.neurons, dtype=np.int32),
            "cosine": of_base.cosines[layer],
            "value_norm": of_base.norms[layer],
            "activation_base": before,
            "activation_tuned": after,
            "activation_same_text": same,
            "projection_base": written_before,
            "projection_tuned": written_after,
            "projection_same_text": same * of_tuned.projections[layer],
            "reduction": written_before - written_after,
            "group": np.asarray(GROUPS)[groups],
        }
    )


def group_sums(
    store: ActivationStore, layer: int, projections: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Return what each group of one layer writes per prompt, (prompts, groups)."""
    sums = [sum_by_group(block * projections, groups) for block in store.blocks(layer)]
    return np.concatenate(sums)


def check_same_prompts(first: ActivationStore, *others: ActivationStore) -> None:
    """Raise ValueError unless all stores hold the same prompts in the same order."""
    for other in others:
        if other.prompts != first.prompts:
            raise ValueError(
                f"the stores of the states {first.attributes['state']} and "
                f"{other.attributes['state']} hold different prompts; delete them and run again"
            )


if __name__ == "__main__":
    attribute_neurons(
        base=snakemake.input.base,
        tuned=snakemake.input.tuned,
        same_text=snakemake.input.tuned_on_base_text,
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        direction=snakemake.input.direction,
        neurons=snakemake.output.neurons,
        prompts=snakemake.output.prompts,
        dtype=snakemake.params.dtype,
    )
