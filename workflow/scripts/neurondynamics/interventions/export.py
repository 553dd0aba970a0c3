"""Interventions baked into weights, so that a model acts as if edited wherever it is loaded."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from neurondynamics.interventions.edits import act_of, parts
from neurondynamics.interventions.operations import ACTS
from neurondynamics.interventions.parts import Edit, LayerChange
from neurondynamics.lm.anatomy import Layer, add_biases, dissect


def bake(model: PreTrainedModel, edits: Sequence[Edit]) -> PreTrainedModel:
    """Return a copy of a model whose weights do what the edits do at all positions.

    Raises ValueError if an edit is not one of this model's, or with the reason if weights cannot
    express it: its act is none of weights, or adds a constant where the family's down projection
    has no bias.
    """
    anatomy = dissect(model)
    changes = {}
    for edit in edits:
        for part in parts(anatomy, edit, {}):
            if part.number not in changes:
                changes[part.number] = LayerChange.none(part.layer)
            try:
                act_of(edit).bake(part, changes[part.number])
            except ValueError as error:
                raise ValueError(f"{edit.act} cannot be exported: {error}") from error
    baked = copy.deepcopy(model)
    if any(change.adds_constants for change in changes.values()):
        try:
            add_biases(baked, "mlp")
        except ValueError as error:
            anywhere = ", ".join(name for name, act in ACTS.items() if act.multiplies)
            raise ValueError(
                "the intervention adds a constant to what its neurons write and cannot be "
                f"exported: {error}. What can be exported for this model: {anywhere}"
            ) from error
    layers = dissect(baked).layers
    for number, change in changes.items():
        _change_weights(layers[number], change)
    return baked


@torch.no_grad()
def _change_weights(layer: Layer, change: LayerChange) -> None:
    values = layer.value_vectors()  # (d_mlp, d_model), a view on the weight

    def tensor(numbers: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(numbers, device=values.device)

    if change.adds_constants:
        added = tensor(change.constants) @ values.double() - tensor(change.subtracted)
        layer.down.bias.copy_(layer.bias().double() + added)  # (d_model,)
    values.copy_(values.double() * tensor(change.scales)[:, None])
    for vectors in layer.key_vectors():  # (d_mlp, d_model)
        vectors.copy_(vectors.double() * tensor(change.keys)[:, None])
