"""Attribute what tuning changed where there is nothing to find: along random directions, and with
base and tuned model swapped on a random half of the prompts."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
from neurondynamics.analysis.directions import read_direction
from neurondynamics.analysis.nulls import Draws, balanced_flips, write_nulls
from neurondynamics.data.compared import compared_stores
from neurondynamics.data.store import common_to
from neurondynamics.lm.loading import weight_digest
from neurondynamics.lm.weights import projections_along
from neurondynamics.runtime import progress


def measure_nulls(
    base: list[str],
    tuned: list[str],
    same_text: list[str],
    base_model: str,
    tuned_model: str,
    direction: str,
    nulls: str,
    *,
    dtype: str,
    draws: int,
    seed: int,
) -> None:
    """Write `draws` of each null, as `attribute_neurons` attributes each model on its own text.

    Inputs and errors are those of `attribute_neurons`. A random direction is one of any, drawn from
    a normal distribution; a swap takes half of the prompts.
    """
    w = read_direction(direction).vector
    generator = np.random.default_rng(seed)
    directions = np.vstack([generator.normal(size=(draws, len(w))), w])
    of_base, of_tuned = (
        projections_along(model, directions, dtype) for model in (base_model, tuned_model)
    )
    weights = {"base_weights": weight_digest(base_model)}
    weights["tuned_weights"] = weight_digest(tuned_model)
    with compared_stores(base, tuned, same_text, **weights) as (before, after, _):
        made = weights | common_to(before)
        flips = balanced_flips(generator, draws, len(before))
        found = Draws(flips, before.layers, of_base.cosines.shape[2])
        for layer in progress(range(before.layers), "attributing where there is nothing to find"):
            read = (
                np.concatenate(list(store.blocks(layer))).astype(np.float64)
                for store in (before, after)
            )
            parts = of_base.cosines, of_base.projections, of_tuned.projections
            found.add(layer, *read, *((part[:-1, layer], part[-1, layer]) for part in parts))
    cosines = of_base.cosines
    write_nulls(nulls, found.finish((cosines[:-1], cosines[-1])), made)


if __name__ == "__main__":
    measure_nulls(
        base=snakemake.input.base,
        tuned=snakemake.input.tuned,
        same_text=snakemake.input.tuned_on_base_text,
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        direction=snakemake.input.direction,
        nulls=snakemake.output.nulls,
        **snakemake.params.settings,
    )
