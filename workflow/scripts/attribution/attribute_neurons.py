"""One row per neuron: cosine with the direction, activation, projection and how far it changed."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from neurondynamics.analysis.attribution import (
    GROUPS,
    classify,
    reduction_parts,
    sum_by_group,
)
from neurondynamics.analysis.changes import read_changes
from neurondynamics.analysis.directions import read_direction
from neurondynamics.analysis.reductions import create_reductions
from neurondynamics.analysis.significance import adjusted, p_values
from neurondynamics.data.compared import compared_stores
from neurondynamics.data.store import ActivationStore, common_to
from neurondynamics.data.tables import write_parquet
from neurondynamics.lm.loading import weight_digest
from neurondynamics.lm.weights import ValueProjections, value_projections
from neurondynamics.runtime import file_digest, progress


def attribute_neurons(
    base: list[str],
    tuned: list[str],
    same_text: list[str],
    base_model: str,
    tuned_model: str,
    direction: str,
    changes: str,
    neurons: str,
    reductions: str,
    *,
    dtype: str,
) -> None:
    """Write the neuron table and, per prompt, layer and group, the sums of the reduction.

    `p_value` is that of a neuron's reduction over prompts, `q_value` adjusted for all neurons.

    `base`, `tuned` and `same_text` are the stores of the base model, of the tuned model on its
    own text and of the tuned model on the base's text; `changes` says how far neurons changed
    there. Layers are read one by one and in blocks of prompts. Raises ValueError if the stores do
    not hold the same prompts, or anything is of other models or states.
    """
    w = read_direction(direction).vector
    of_base = value_projections(base_model, w, dtype)
    of_tuned = value_projections(tuned_model, w, dtype)
    weights = {"base_weights": weight_digest(base_model)}
    weights["tuned_weights"] = weight_digest(tuned_model)
    made = weights | {"direction": file_digest(direction)}
    with (
        compared_stores(base, tuned, same_text, **weights) as (a, b, c),
        create_reductions(reductions, len(a), a.layers, made) as sums,
    ):
        squares = read_changes(changes, weights | common_to(a)).neurons  # (layers, d_mlp)
        tables = []
        for layer in progress(range(a.layers), "attributing layers"):
            table = layer_table(layer, a, b, c, of_base, of_tuned)
            change = np.sqrt(squares[layer]) * of_base.norms[layer]
            table.insert(table.columns.get_loc("group"), "change", change)
            p = p_values_of(layer, a, b, of_base, of_tuned, table["reduction"].to_numpy())
            table.insert(table.columns.get_loc("group"), "p_value", p)
            groups = pd.Categorical(table.group, GROUPS).codes
            along, along_tuned = of_base.projections[layer], of_tuned.projections[layer]
            before, base_moved = group_sums(a, layer, [along, along - along_tuned], groups)
            after, tuned_moved = group_sums(c, layer, [along_tuned, along - along_tuned], groups)
            own_after = group_sums(b, layer, [along_tuned], groups)[0]
            sums.own_text[:, layer] = before - own_after
            sums.same_text[:, layer] = before - after
            sums.value[:, layer] = (base_moved + tuned_moved) / 2
            tables.append(table)
    found = pd.concat(tables, ignore_index=True)
    found["q_value"] = adjusted(found["p_value"].to_numpy())
    write_parquet(neurons, found, made)


def layer_table(
    layer: int,
    base: ActivationStore,
    tuned: ActivationStore,
    same_text: ActivationStore,
    of_base: ValueProjections,
    of_tuned: ValueProjections,
) -> pd.DataFrame:
    """Return the neuron table of one layer, with the parts of its reduction."""
    before, after, same = base.mean(layer), tuned.mean(layer), same_text.mean(layer)  # (d_mlp,)
    along, along_tuned = of_base.projections[layer], of_tuned.projections[layer]  # (d_mlp,)
    groups = classify(of_base.cosines[layer], before, after)
    return pd.DataFrame(
        {
            "layer": np.int32(layer),
            "neuron": np.arange(len(before), dtype=np.int32),
            "cosine": of_base.cosines[layer],
            "value_norm": of_base.norms[layer],
            "activation_base": before,
            "activation_tuned": after,
            "activation_same_text": same,
            **reduction_parts(before, after, same, along, along_tuned),
            "group": np.asarray(GROUPS)[groups],
        }
    )


def p_values_of(
    layer: int,
    base: ActivationStore,
    tuned: ActivationStore,
    of_base: ValueProjections,
    of_tuned: ValueProjections,
    reduction: np.ndarray,
) -> np.ndarray:
    """Return the p-value over prompts of each reduction of one layer, (d_mlp,)."""
    along, along_tuned = of_base.projections[layer], of_tuned.projections[layer]
    squares = np.zeros_like(reduction)
    for before, after in zip(base.blocks(layer), tuned.blocks(layer), strict=True):
        squares += np.square(before * along - after * along_tuned - reduction).sum(axis=0)
    return p_values(reduction, squares, len(base))


def group_sums(
    store: ActivationStore, layer: int, projections: list[np.ndarray], groups: np.ndarray
) -> np.ndarray:
    """Return what each group of one layer writes per prompt: (projections, prompts, groups).

    The activations are read once and meet every one of the projections, each (d_mlp,).
    """
    sums = [
        [sum_by_group(block * along, groups) for along in projections]
        for block in store.blocks(layer)
    ]
    return np.concatenate(sums, axis=1)


if __name__ == "__main__":
    attribute_neurons(
        base=snakemake.input.base,
        tuned=snakemake.input.tuned,
        same_text=snakemake.input.tuned_on_base_text,
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        direction=snakemake.input.direction,
        changes=snakemake.input.changes,
        neurons=snakemake.output.neurons,
        reductions=snakemake.output.reductions,
        dtype=snakemake.params.dtype,
    )
