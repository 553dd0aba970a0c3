"""Project every layer's MLP output on the toxicity direction, per model state."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from neurondynamics.analysis.directions import read_direction
from neurondynamics.analysis.statistics import Statistics
from neurondynamics.data.store import ActivationStore
from neurondynamics.data.tables import write_csv
from neurondynamics.lm.loading import weight_digest
from neurondynamics.lm.weights import ValueProjections, value_projections


def project_layers(
    base_model: str,
    tuned_model: str,
    of_base: dict[str, list[str]],
    of_tuned: dict[str, list[str]],
    direction: str,
    output: str,
    *,
    dtype: str,
    statistics: Statistics,
) -> None:
    """Write the projection of each state and layer with its bootstrap interval over prompts.

    `of_base` and `of_tuned` map the states that ran on a model's weights to their shards.
    """
    w = read_direction(direction).vector
    tables = []
    for model, states in ((base_model, of_base), (tuned_model, of_tuned)):
        weights = value_projections(model, w, dtype)
        digest = weight_digest(model)
        for state, shards in states.items():
            made = {"state": state, "weight_digest": digest}
            with ActivationStore(shards, made) as store:
                projections = mlp_projections(store, weights)
            interval = statistics.mean(projections)
            tables.append(
                pd.DataFrame(
                    {
                        "state": state,
                        "layer": np.arange(projections.shape[1]),
                        "n": len(projections),
                        "projection": interval.value,
                        "projection_low": interval.low,
                        "projection_high": interval.high,
                    }
                )
            )
    write_csv(output, pd.concat(tables))


def mlp_projections(store: ActivationStore, weights: ValueProjections) -> np.ndarray:
    """Return Σᵢ pᵢ + b·w/‖w‖, the MLP output's projection, per prompt and layer."""
    columns = []
    for layer in range(store.layers):
        blocks = [block @ weights.projections[layer] for block in store.blocks(layer)]
        columns.append(np.concatenate(blocks) + weights.biases[layer])
    return np.stack(columns, axis=1)


if __name__ == "__main__":
    stores = {
        model: {state: snakemake.input[name] for state, name in states.items()}
        for model, states in snakemake.params.states.items()
    }
    project_layers(
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        of_base=stores["base"],
        of_tuned=stores["tuned"],
        direction=snakemake.input.direction,
        output=snakemake.output[0],
        dtype=snakemake.params.dtype,
        statistics=Statistics(**snakemake.params.statistics),
    )
