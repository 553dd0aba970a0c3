"""Project every layer's MLP output on the toxicity direction, per model state."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from neurondynamics.analysis.directions import read_direction
from neurondynamics.analysis.statistics import bootstrap_mean
from neurondynamics.data.records import replacing
from neurondynamics.data.store import ActivationStore
from neurondynamics.lm.weights import ValueProjections, value_projections


def project_layers(
    stores: dict[str, list[str]],
    base_model: str,
    tuned_model: str,
    direction: str,
    output: str,
    *,
    dtype: str,
    samples: int,
    confidence: float,
    seed: int,
) -> None:
    """Write the projection of each state and layer with its bootstrap interval over prompts.

    `stores` maps a state to its shards. A state whose name begins with `base` ran on the base
    model's weights, every other on the tuned model's.
    """
    w = read_direction(direction).vector
    models = {
        True: value_projections(base_model, w, dtype),
        False: value_projections(tuned_model, w, dtype),
    }
    tables = []
    for state, paths in stores.items():
        with ActivationStore(paths) as store:
            projections = mlp_projections(store, models[state.startswith("base")])
        interval = bootstrap_mean(projections, samples=samples, confidence=confidence, seed=seed)
        tables.append(
            pd.DataFrame(
                {
                    "state": state,
                    "layer": np.arange(projections.shape[1]),
                    "projection": interval.value,
                    "projection_low": interval.low,
                    "projection_high": interval.high,
                }
            )
        )
    with replacing(output) as temporary:
        pd.concat(tables).to_csv(temporary, index=False)


def mlp_projections(store: ActivationStore, weights: ValueProjections) -> np.ndarray:
    """Return Σᵢ pᵢ + b·w/‖w‖, the MLP output's projection, per prompt and layer."""
    columns = []
    for layer in range(store.layers):
        blocks = [block @ weights.projections[layer] for block in store.blocks(layer)]
        columns.append(np.concatenate(blocks) + weights.biases[layer])
    return np.stack(columns, axis=1)


if __name__ == "__main__":
    states = ("base", "base_ablated", "tuned", "tuned_on_base_text")
    project_layers(
        stores={state.replace("_", "-"): snakemake.input[state] for state in states},
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        direction=snakemake.input.direction,
        output=snakemake.output[0],
        dtype=snakemake.params.dtype,
        **snakemake.params.statistics,
    )
