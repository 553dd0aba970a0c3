"""One row per neuron: cosine with the direction, activation and projection before and after."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from neurondynamics.analysis.attribution import GROUPS, classify, sum_by_group
from neurondynamics.analysis.directions import read_direction
from neurondynamics.analysis.reductions import create_reductions
from neurondynamics.data.store import ActivationStore, check_same_prompts
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
    neurons: str,
    reductions: str,
    *,
    dtype: str,
) -> None:
    """Write the neuron table and, per prompt, layer and group, the sums of the reduction.

    `base`, `tuned` and `same_text` are the stores of the base model, of the tuned model on its
    own text and of the tuned model on the base's text. Layers are read one by one and in blocks
    of prompts. Raises ValueError if the stores do not hold the same prompts, or are of other models
    or states.
    """
    w = read_direction(direction).vector
    of_base = value_projections(base_model, w, dtype)
    of_tuned = value_projections(tuned_model, w, dtype)
    base_weights, tuned_weights = weight_digest(base_model), weight_digest(tuned_model)
    made = {"base_weights": base_weights, "tuned_weights": tuned_weights}
    made["direction"] = file_digest(direction)
    on_base_text = {"state": "tuned-on-base-text", "weight_digest": tuned_weights}
    with (
        ActivationStore(base, {"state": "base", "weight_digest": base_weights}) as a,
        ActivationStore(tuned, {"state": "tuned", "weight_digest": tuned_weights}) as b,
        ActivationStore(same_text, on_base_text) as c,
        create_reductions(reductions, len(a), a.layers, made) as sums,
    ):
        check_same_prompts(a, b, c)
        if not np.array_equal(a.tokens, c.tokens):
            raise ValueError(
                f"{same_text[0]} was not read from the text of {base[0]}; delete it and run again"
            )
        tables = []
        for layer in progress(range(a.layers), "attributing layers"):
            table = layer_table(layer, a, b, c, of_base, of_tuned)
            groups = pd.Categorical(table.group, GROUPS).codes
            along, along_tuned = of_base.projections[layer], of_tuned.projections[layer]
            before, base_moved = group_sums(a, layer, [along, along - along_tuned], groups)
            after, tuned_moved = group_sums(c, layer, [along_tuned, along - along_tuned], groups)
            own_after = group_sums(b, layer, [along_tuned], groups)[0]
            sums.own_text[:, layer] = before - own_after
            sums.same_text[:, layer] = before - after
            sums.value[:, layer] = (base_moved + tuned_moved) / 2
            tables.append(table)
    write_parquet(neurons, pd.concat(tables, ignore_index=True), made)


def layer_table(
    layer: int,
    base: ActivationStore,
    tuned: ActivationStore,
    same_text: ActivationStore,
    of_base: ValueProjections,
    of_tuned: ValueProjections,
) -> pd.DataFrame:
    """Return the neuron table of one layer; each model's activations meet its own value vectors.

    With activations m and u = v·w/‖w‖ of the base model (b), of the tuned model on the base's text
    (s) and of the tuned model on its own text (t), the reduction m_b·u_b − m_t·u_t is the sum of

        activation  (m_b − m_s)·(u_b + u_t)/2   what the neuron reads and so how far it opens
        value       (m_b + m_s)/2·(u_b − u_t)   its value vector turned or shrank
        context     (m_s − m_t)·u_t             the tuned model writes, and then reads, other text

    The first two share m_b·u_b − m_s·u_t, the reduction on one text. Changing the activation first
    or the value vector first gives different parts; each part here is the mean of the two orders,
    which is its Shapley value, so no order is preferred.
    """
    before, after, same = base.mean(layer), tuned.mean(layer), same_text.mean(layer)  # (d_mlp,)
    along, along_tuned = of_base.projections[layer], of_tuned.projections[layer]  # (d_mlp,)
    written_before, written_after = before * along, after * along_tuned
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
            "projection_same_text": same * along_tuned,
            "reduction": written_before - written_after,
            "reduction_activation": (before - same) * (along + along_tuned) / 2,
            "reduction_value": (before + same) / 2 * (along - along_tuned),
            "reduction_context": (same - after) * along_tuned,
            "group": np.asarray(GROUPS)[groups],
        }
    )


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
        neurons=snakemake.output.neurons,
        reductions=snakemake.output.reductions,
        dtype=snakemake.params.dtype,
    )
