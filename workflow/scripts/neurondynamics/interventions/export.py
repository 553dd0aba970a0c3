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
    express it: its act is none of weights, or adds a constant where the family's down or output
    projection has no bias.
    """
    anatomy = dissect(model)
    changes = {}
    for edit in edits:
        for part in parts(anatomy, edit, {}):
            site = part.module, part.number
            if site not in changes:
                changes[site] = LayerChange.none(part.layer, part.module)
            try:
                act_of(edit).bake(part, changes[site])
            except ValueError as error:
                raise ValueError(f"{edit.act} cannot be exported: {error}") from error
    baked = copy.deepcopy(model)
    for module in {module for (module, _), change in changes.items() if change.adds_constants}:
        try:
            add_biases(baked, module)
        except ValueError as error:
            units = {"mlp": "neurons", "attention": "heads"}[module]
            acts = ", ".join(
                n for n, act in ACTS.items() if act.multiplies and module in act.modules
            )
            raise ValueError(
                f"the intervention adds a constant to what its {units} write and cannot be "
                f"exported: {error}. What can be exported of {units} of this model: {acts}"
            ) from error
    layers = dissect(baked).layers
    for (module, number), change in changes.items():
        _change_weights(layers[number], module, change)
    return baked


@torch.no_grad()
def _change_weights(layer: Layer, module: str, change: LayerChange) -> None:
    vectors = layer.vectors(module)  # (inputs, d_model), a view on the weight

    def tensor(numbers: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(numbers, device=vectors.device)

    if change.adds_constants:
        added = tensor(change.constants) @ vectors.double() - tensor(change.subtracted)
        bias = layer.bias(module).double() + added  # (d_model,)
        layer.projection(module).bias.copy_(bias)
    vectors.copy_(vectors.double() * tensor(change.scales)[:, None])
    for keys in layer.key_vectors() if module == "mlp" else ():  # (d_mlp, d_model)
        keys.copy_(keys.double() * tensor(change.keys)[:, None])
