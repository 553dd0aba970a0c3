"""Interventions baked into weights, so that a model acts as if edited wherever it is loaded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from neurondynamics.lm.anatomy import Layer, add_mlp_biases, dissect
from neurondynamics.lm.interventions import Edit, applied, needs_leader


@dataclass
class LayerChange:
    """What the edits come to in one layer, in float64.

    The neurons' activations m become scales·m + constants, what their key vectors k give, k·x,
    becomes keys·(k·x), and `subtracted` is taken from what the layer writes.
    """

    scales: np.ndarray  # (d_mlp,)
    constants: np.ndarray  # (d_mlp,)
    keys: np.ndarray  # (d_mlp,)
    subtracted: np.ndarray  # (d_model,)

    @classmethod
    def none(cls, layer: Layer) -> LayerChange:
        """Return the change that leaves a layer as it is."""
        n, width = layer.value_vectors().shape
        return cls(np.ones(n), np.zeros(n), np.ones(n), np.zeros(width))

    def add(self, edit: Edit, here: np.ndarray) -> None:
        """Let an edit act after those before it; `here` (n,) says which of its neurons are."""
        if edit.operation == "subtract":  # it names no neurons
            self.subtracted += edit.values
            return
        neurons = edit.neurons[here]
        if edit.operation == "scale_keys":
            self.keys[neurons] *= edit.factor
        elif edit.operation == "shift":
            self.constants[neurons] += edit.values[here]
        elif edit.operation == "scale":
            self.scales[neurons] *= edit.factor
            self.constants[neurons] *= edit.factor
        else:  # zero and set, which forget what came before
            self.scales[neurons] = 0.0
            self.constants[neurons] = 0.0 if edit.operation == "zero" else edit.values[here]

    @property
    def adds_constants(self) -> bool:
        """Whether the layer writes something that does not depend on the text."""
        return bool(self.constants.any() or self.subtracted.any())


def bake(model: PreTrainedModel, edits: Sequence[Edit]) -> PreTrainedModel:
    """Return a copy of a model whose weights do what the edits do at all positions.

    Raises ValueError if an edit is not one of this model's, or with the reason if weights cannot
    express it: a paired edit, or one that adds a constant where the family's down projection has
    no bias.
    """
    if needs_leader(edits):
        raise ValueError(
            "a paired patch cannot be exported: it takes the tuned model's activation at every "
            "position, which weights of one model do not know; export the patch with mode mean or "
            "shift, or use the tuned model itself"
        )
    anatomy = dissect(model)
    with applied(anatomy, edits):
        pass  # it checks operations, layers and neurons before anything runs
    changes = {}
    for edit in edits:
        for number in np.unique(edit.layers).tolist():
            if number not in changes:
                changes[number] = LayerChange.none(anatomy.layers[number])
            changes[number].add(edit, edit.layers == number)
    baked = copy.deepcopy(model)
    if any(change.adds_constants for change in changes.values()):
        try:
            add_mlp_biases(baked)
        except ValueError as error:
            raise ValueError(
                "the intervention adds a constant to what its neurons write and cannot be "
                f"exported: {error}. zero, scale and scale_keys can be exported for this model"
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
