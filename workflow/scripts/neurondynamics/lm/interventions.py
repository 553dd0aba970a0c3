"""Interventions on neurons, applied by hooks alone: no weight and no tensor is edited in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from neurondynamics.lm.anatomy import Anatomy, Layer
from neurondynamics.lm.hooks import Hook, hooked

OPERATIONS = ("zero", "patch", "scale", "scale_keys")


@dataclass(frozen=True)
class Edit:
    """One operation on a set of neurons.

    zero        the activation becomes 0
    patch       the activation becomes `values`, one constant per neuron
    scale       the activation is multiplied by `factor`
    scale_keys  the key vectors are multiplied by `factor`: the pre-activation is, without its
                bias; in a gated MLP both the gate's and the up projection's are
    """

    operation: str
    layers: np.ndarray  # (n,) layer of each neuron
    neurons: np.ndarray  # (n,) index of each neuron in its layer
    values: np.ndarray | None = None  # (n,) for patch
    factor: float | None = None  # for scale and scale_keys


@contextmanager
def applied(anatomy: Anatomy, edits: list[Edit]) -> Iterator[None]:
    """Run the block with the edits in force at every position that the model reads, in order.

    Raises ValueError before anything runs if an edit names a layer or neuron that the model has
    not, or an unknown operation. On leaving, the model is as it was.
    """
    hooks = [hook for edit in edits for hook in _edit_hooks(anatomy, edit)]
    with hooked(hooks):
        yield


def count_neurons(edits: list[Edit]) -> int:
    """Return how many different neurons a list of edits touches."""
    touched = {
        pair for e in edits for pair in zip(e.layers.tolist(), e.neurons.tolist(), strict=True)
    }
    return len(touched)


def _edit_hooks(anatomy: Anatomy, edit: Edit) -> Iterator[Hook]:
    if edit.operation not in OPERATIONS:
        raise ValueError(f"unknown operation {edit.operation!r}; known are {', '.join(OPERATIONS)}")
    for index in np.unique(edit.layers):
        if not 0 <= index < len(anatomy.layers):
            raise ValueError(f"layer {index} was selected; the model has {len(anatomy.layers)}")
        layer = anatomy.layers[index]
        here = edit.layers == index
        neurons = edit.neurons[here]
        if neurons.min() < 0 or neurons.max() >= layer.n_neurons:
            raise ValueError(
                f"a neuron outside 0..{layer.n_neurons - 1} was selected in layer {index}: "
                f"{neurons.min()}..{neurons.max()}"
            )
        values = None if edit.values is None else edit.values[here]
        yield from _layer_hooks(layer, edit, neurons, values)


def _layer_hooks(
    layer: Layer, edit: Edit, neurons: np.ndarray, values: np.ndarray | None
) -> Iterator[Hook]:
    weight = layer.down.weight
    index = torch.as_tensor(neurons, dtype=torch.long, device=weight.device)
    if edit.operation == "zero":
        yield Hook(layer.down, "input", lambda m: m.index_fill(-1, index, 0.0))
    elif edit.operation == "patch":
        constants = torch.as_tensor(values, device=weight.device).to(weight.dtype)
        yield Hook(layer.down, "input", _replace(index, constants))
    else:
        factors = torch.ones(layer.n_neurons, dtype=weight.dtype, device=weight.device)
        factors[index] = edit.factor
        if edit.operation == "scale":
            yield Hook(layer.down, "input", lambda m: m * factors)
        else:
            for key in layer.keys:
                yield Hook(key, "output", _scale_key(key, factors))


def _replace(index: torch.Tensor, constants: torch.Tensor) -> Callable:
    def replace(activation: torch.Tensor) -> torch.Tensor:  # (..., d_mlp)
        return activation.index_copy(
            -1, index, constants.expand(*activation.shape[:-1], len(index))
        )

    return replace


def _scale_key(key: nn.Module, factors: torch.Tensor) -> Callable:
    bias = None if key.bias is None else key.bias.detach()

    def scale(pre: torch.Tensor) -> torch.Tensor:  # (..., d_mlp)
        if bias is None:
            return pre * factors
        # k·x + b becomes f·(k·x) + b; written as a sum so that f = 1 leaves every bit
        return pre + (pre - bias) * (factors - 1)

    return scale
