"""One row per attention head: what it writes before and after tuning, and how far it changed."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from neurondynamics.analysis.attribution import reduction_parts
from neurondynamics.analysis.changes import read_changes
from neurondynamics.analysis.directions import read_direction
from neurondynamics.analysis.significance import adjusted, p_values
from neurondynamics.data.compared import compared_stores
from neurondynamics.data.store import ActivationStore, common_to
from neurondynamics.data.tables import write_parquet
from neurondynamics.lm.loading import weight_digest
from neurondynamics.lm.weights import value_projections
from neurondynamics.runtime import file_digest, progress


def attribute_heads(
    base: list[str],
    tuned: list[str],
    same_text: list[str],
    base_model: str,
    tuned_model: str,
    direction: str,
    changes: str,
    heads: str,
    *,
    dtype: str,
) -> None:
    """Write the table of heads.

    Inputs and errors are those of `attribute_neurons`. What a head writes is the sum over its
    inputs of the output projection. `inputs_base` and `inputs_tuned` are what the head reads into
    it on average, each model on its own text: lists of head_width numbers. `p_value` is that of a
    head's reduction over prompts, `q_value` adjusted for all heads.
    """
    w = read_direction(direction).vector
    along, along_tuned = (
        value_projections(model, w, dtype, "attention").projections
        for model in (base_model, tuned_model)
    )  # (layers, heads · head_width)
    weights = {"base_weights": weight_digest(base_model)}
    weights["tuned_weights"] = weight_digest(tuned_model)
    tables = []
    with compared_stores(base, tuned, same_text, **weights) as stores:
        squares = read_changes(changes, weights | common_to(stores[0])).heads  # (layers, heads)
        for layer in progress(range(stores[0].layers), "attributing layers"):
            means = [store.mean(layer, "attention") for store in stores]
            table = head_table(layer, *means, along[layer], along_tuned[layer], squares[layer])
            reduction = table["reduction"].to_numpy()
            written = along[layer], along_tuned[layer]
            table["p_value"] = p_values_of(stores[0], stores[1], layer, *written, reduction)
            tables.append(table)
    made = weights | {"direction": file_digest(direction)}
    found = pd.concat(tables, ignore_index=True)
    found["q_value"] = adjusted(found["p_value"].to_numpy())
    write_parquet(heads, found, made)


def p_values_of(
    base: ActivationStore,
    tuned: ActivationStore,
    layer: int,
    along: np.ndarray,
    along_tuned: np.ndarray,
    reduction: np.ndarray,
) -> np.ndarray:
    """Return the p-value over prompts of the reduction of each head of one layer, (heads,)."""
    squares = np.zeros_like(reduction)
    blocks = (store.blocks(layer, module="attention") for store in (base, tuned))
    for before, after in zip(*blocks, strict=True):
        written = before * along - after * along_tuned  # (prompts, heads · head_width)
        of_heads = written.reshape(len(written), len(reduction), -1).sum(axis=2)
        squares += np.square(of_heads - reduction).sum(axis=0)
    return p_values(reduction, squares, len(base))


def head_table(
    layer: int,
    before: np.ndarray,
    after: np.ndarray,
    same: np.ndarray,
    along: np.ndarray,
    along_tuned: np.ndarray,
    squares: np.ndarray,
) -> pd.DataFrame:
    """Return the table of one layer's heads, with the parts of their reductions.

    All but `squares`, (heads,), are as `reduction_parts` takes them, of the inputs of all heads one
    after the other.
    """
    number = len(squares)
    parts = reduction_parts(before, after, same, along, along_tuned)
    return pd.DataFrame(
        {
            "layer": np.int32(layer),
            "head": np.arange(number, dtype=np.int32),
            **{name: part.reshape(number, -1).sum(1) for name, part in parts.items()},
            "change": np.sqrt(squares),
            "inputs_base": list(before.reshape(number, -1)),
            "inputs_tuned": list(after.reshape(number, -1)),
        }
    )


if __name__ == "__main__":
    attribute_heads(
        base=snakemake.input.base,
        tuned=snakemake.input.tuned,
        same_text=snakemake.input.tuned_on_base_text,
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        direction=snakemake.input.direction,
        changes=snakemake.input.changes,
        heads=snakemake.output.heads,
        dtype=snakemake.params.dtype,
    )
