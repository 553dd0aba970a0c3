"""What attribution needs of a model's weights: what neurons and heads write along a direction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.loading import load_model


@dataclass(frozen=True)
class ValueProjections:
    """Per layer and input of the down projection, a neuron, or of attention's output projection,
    in float64. v is the input's row of the projection: of a neuron the value vector.

    projections  (v·w)/‖w‖, in units of the residual stream per unit of activation
    cosines      cos(v, w)
    norms        ‖v‖
    biases       (b·w)/‖w‖ per layer, of the projection's bias
    """

    projections: np.ndarray  # (layers, inputs)
    cosines: np.ndarray  # (layers, inputs)
    norms: np.ndarray  # (layers, inputs)
    biases: np.ndarray  # (layers,)


def unit(direction: np.ndarray) -> np.ndarray:
    """Return w/‖w‖ in float64. Raises ValueError if w is zero or not finite."""
    direction = np.asarray(direction, dtype=np.float64)
    norm = np.linalg.norm(direction)
    if not np.isfinite(norm) or norm == 0:
        raise ValueError(f"the direction has the norm {norm}; it must be finite and not zero")
    return direction / norm


def cosines(values: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cos(v, w) and ‖v‖, both (d_mlp,), for value vectors (d_mlp, d_model).

    A value vector of zeros has cosine 0.
    """
    values = np.asarray(values, dtype=np.float64)
    norms = np.linalg.norm(values, axis=1)
    return values @ unit(direction) / np.where(norms > 0, norms, 1.0), norms


def value_projections(
    folder: str | Path, direction: np.ndarray, dtype: str, module: str = "mlp"
) -> ValueProjections:
    """Read a model's value vectors and project them on a direction, (d_model,), in float64; or,
    of the module `attention`, the heads' output vectors.

    The model is loaded on the CPU in `dtype`, which should be the one its weights are stored in.
    Raises ValueError if the direction has another size than the model's residual stream.
    """
    model = load_model(folder, dtype, "cpu")
    along = unit(direction)
    rows = []
    for layer in dissect(model).layers:
        values = layer.vectors(module).double().numpy()  # (inputs, d_model)
        if values.shape[1] != len(along):
            raise ValueError(
                f"the direction has {len(along)} components, the model {values.shape[1]}"
            )
        cosine, norms = cosines(values, along)
        bias = layer.bias(module).double().numpy()
        rows.append((values @ along, cosine, norms, float(bias @ along)))
    return ValueProjections(*(np.stack(column) for column in zip(*rows, strict=True)))


class Projections(NamedTuple):
    """Of every value vector v and direction w, in float64, (directions, layers, d_mlp)."""

    projections: np.ndarray  # (v·w)/‖w‖
    cosines: np.ndarray  # cos(v, w)


def projections_along(folder: str | Path, directions: np.ndarray, dtype: str) -> Projections:
    """Project a model's value vectors on directions, (directions, d_model).

    The model is loaded as `value_projections` does. Raises ValueError if the directions have
    another size than the model's residual stream.
    """
    model = load_model(folder, dtype, "cpu")
    units = np.stack([unit(direction) for direction in directions])
    written, turned = [], []
    for layer in dissect(model).layers:
        values = layer.value_vectors().double().numpy()  # (d_mlp, d_model)
        if values.shape[1] != units.shape[1]:
            raise ValueError(
                f"the directions have {units.shape[1]} components, the model {values.shape[1]}"
            )
        norms = np.linalg.norm(values, axis=1)
        written.append(units @ values.T)  # (directions, d_mlp)
        turned.append(written[-1] / np.where(norms > 0, norms, 1.0))
    return Projections(np.stack(written, 1), np.stack(turned, 1))
