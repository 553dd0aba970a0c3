"""What an edit is, what it names in one layer, and what it comes to in that layer's weights.

What is edited are the inputs of the two projections that write into the residual stream: of the
MLP's down projection, which are neurons, and of attention's output projection, of which every head
has a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from neurondynamics.lm.anatomy import Layer

POSITIONS = ("new", "all")

Site = tuple[str, int]  # "mlp" or "attention", and the layer: what its units are the inputs of
# what the projections of a followed model read at the same positions, (..., inputs)
Heard = Mapping[Site, torch.Tensor]


@dataclass(frozen=True)
class Edit:
    """One act on a set of neurons or heads, or on what the MLP of a layer writes.

    What `values` and `factor` mean, the act says. An act on what an MLP writes names its one layer
    in `layers`, and no inputs. `positions` are those edited while generating: "new", the positions
    whose outputs are the new tokens, or "all", the prompt's too. `module` is "mlp" or "attention",
    and `unit_width` how many inputs, in a row, are one unit of it: of a neuron 1, of a head its
    width.
    """

    act: str
    layers: np.ndarray  # (n,) layer of each input
    inputs: np.ndarray  # (n,) index of each among the inputs of its layer's projection
    values: np.ndarray | None = None
    factor: float | None = None
    positions: str = "new"
    module: str = "mlp"
    unit_width: int = 1


@dataclass(frozen=True)
class Part:
    """What an edit names in one layer of a model."""

    number: int  # of the layer
    layer: Layer
    module: str
    inputs: np.ndarray  # (n,)
    amounts: np.ndarray | None  # the values: (n,), or (d_model,) of an act on what the MLP writes
    factor: float | None
    heard: Heard

    @property
    def projection(self) -> nn.Module:
        """The projection whose inputs these are."""
        return self.layer.projection(self.module)

    @property
    def target(self) -> torch.Tensor:
        """What the followed model's projection reads at the same positions, (..., inputs)."""
        return self.heard[self.module, self.number]

    @property
    def index(self) -> torch.Tensor:
        """The inputs, (n,), where the model is."""
        device = self.projection.weight.device
        return torch.as_tensor(self.inputs, dtype=torch.long, device=device)

    def tensor(self, numbers) -> torch.Tensor:
        """Return numbers where the model is and in its precision."""
        weight = self.projection.weight
        return torch.as_tensor(numbers, device=weight.device).to(weight.dtype)

    def spread(self, numbers, elsewhere: float) -> torch.Tensor:
        """Return numbers at these inputs and another one at the rest, (inputs,)."""
        width = len(self.layer.vectors(self.module))
        spread = self.projection.weight.new_full((width,), elsewhere)
        spread[self.index] = self.tensor(numbers)
        return spread


@dataclass
class LayerChange:
    """What the edits come to in the weights of one layer's MLP or attention, in float64.

    The inputs m of its projection become scales·m + constants, what the key vectors k of neurons
    give, k·x, becomes keys·(k·x), and `subtracted` is taken from what the projection writes.
    """

    scales: np.ndarray  # (inputs,)
    constants: np.ndarray  # (inputs,)
    keys: np.ndarray  # (inputs,)
    subtracted: np.ndarray  # (d_model,)

    @classmethod
    def none(cls, layer: Layer, module: str) -> LayerChange:
        """Return the change that leaves a layer's MLP or attention as it is."""
        n, width = layer.vectors(module).shape
        return cls(np.ones(n), np.zeros(n), np.ones(n), np.zeros(width))

    @property
    def adds_constants(self) -> bool:
        """Whether something is written that does not depend on the text."""
        return bool(self.constants.any() or self.subtracted.any())
