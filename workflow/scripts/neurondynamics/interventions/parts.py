"""What an edit is, what it names in one layer, and what it comes to in that layer's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from neurondynamics.lm.anatomy import Layer

POSITIONS = ("new", "all")
Site = tuple[str, int]  # "mlp" or "attention", and the layer: what its units are the inputs of


@dataclass(frozen=True)
class Edit:
    """One act on a set of neurons, or on what the MLP of a layer writes.

    What `values` and `factor` mean, the act says. An act on what an MLP writes names its one layer
    in `layers`, and no neurons. `positions` are those edited while generating: "new", the positions
    whose outputs are the new tokens, or "all", the prompt's too.
    """

    act: str
    layers: np.ndarray  # (n,) layer of each neuron
    neurons: np.ndarray  # (n,) index of each neuron in its layer
    values: np.ndarray | None = None
    factor: float | None = None
    positions: str = "new"


@dataclass(frozen=True)
class Part:
    """What an edit names in one layer of a model."""

    number: int  # of the layer
    layer: Layer
    neurons: np.ndarray  # (n,)
    amounts: np.ndarray | None  # the values: (n,), or (d_model,) of an act on what the MLP writes
    factor: float | None
    heard: Mapping[Site, torch.Tensor]  # the followed model's activations, (..., d_mlp)

    @property
    def index(self) -> torch.Tensor:
        """The neurons, (n,), where the model is."""
        return torch.as_tensor(self.neurons, dtype=torch.long, device=self.layer.down.weight.device)

    def tensor(self, numbers) -> torch.Tensor:
        """Return numbers where the model is and in its precision."""
        weight = self.layer.down.weight
        return torch.as_tensor(numbers, device=weight.device).to(weight.dtype)

    def spread(self, numbers, elsewhere: float) -> torch.Tensor:
        """Return numbers at the neurons and another one at the rest, (d_mlp,)."""
        spread = self.layer.down.weight.new_full((self.layer.n_neurons,), elsewhere)
        spread[self.index] = self.tensor(numbers)
        return spread


@dataclass
class LayerChange:
    """What the edits come to in the weights of one layer, in float64.

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

    @property
    def adds_constants(self) -> bool:
        """Whether the layer writes something that does not depend on the text."""
        return bool(self.constants.any() or self.subtracted.any())
