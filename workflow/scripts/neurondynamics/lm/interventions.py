"""Interventions on neurons, applied by hooks alone: no weight and no tensor is edited in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from neurondynamics.lm.anatomy import Anatomy, Layer
from neurondynamics.lm.hooks import Hook, hooked

OPERATIONS = ("zero", "set", "shift", "paired", "scale", "scale_keys", "subtract")
POSITIONS = ("new", "all")


@dataclass(frozen=True)
class Edit:
    """One operation on a set of neurons, or on what the MLP of a layer writes.

    zero        the activation becomes 0
    set         the activation becomes `values`, one constant per neuron
    shift       `values` is added to the activation
    paired      the activation becomes the leader's at the same position of the same text, where
                `values` is 1, or moves as far the other way, where it is -1
    scale       the activation is multiplied by `factor`
    scale_keys  the key vectors are multiplied by `factor`: the pre-activation is, without its
                bias; in a gated MLP both the gate's and the up projection's are
    subtract    `values`, (d_model,), is subtracted from what the MLP adds to the residual stream;
                `layers` names the one layer, `neurons` is empty

    `positions` are those edited while generating: "new", the positions whose outputs are the new
    tokens, or "all", the prompt's too.
    """

    operation: str
    layers: np.ndarray  # (n,) layer of each neuron
    neurons: np.ndarray  # (n,) index of each neuron in its layer
    values: np.ndarray | None = None
    factor: float | None = None
    positions: str = "new"


@contextmanager
def applied(
    anatomy: Anatomy, edits: Sequence[Edit], leader: Anatomy | None = None
) -> Iterator[None]:
    """Run the block with the edits in force at every position that the model reads, in order.

    A paired edit takes its activations from `leader`, a model of the same shape that has to read
    the same tokens just before the edited one does.

    Raises ValueError before anything runs if an edit names a layer or neuron that the model has
    not, an unknown operation, or a leader that is not there. On leaving, both models are as they
    were.
    """
    heard: dict[int, torch.Tensor] = {}  # layer -> the leader's activations, (..., d_mlp)
    hooks = [hook for edit in edits for hook in _edit_hooks(anatomy, edit, heard)]
    followed = {int(layer) for edit in edits if edit.operation == "paired" for layer in edit.layers}
    if followed:
        if leader is None or len(leader.layers) != len(anatomy.layers):
            raise ValueError("a paired edit needs a leader with as many layers as the model")
        hooks += [_listen(leader.layers[layer], layer, heard) for layer in sorted(followed)]
    with hooked(hooks):
        yield


def needs_leader(edits: Sequence[Edit]) -> bool:
    """Return whether any of the edits takes activations from another model."""
    return any(edit.operation == "paired" for edit in edits)


def at_all_positions(edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits that also act on the positions of the prompt."""
    return [edit for edit in edits if edit.positions == "all"]


def count_neurons(edits: Sequence[Edit]) -> int:
    """Return how many different neurons a list of edits touches."""
    touched = {
        pair
        for edit in edits
        if edit.operation != "subtract"
        for pair in zip(edit.layers.tolist(), edit.neurons.tolist(), strict=True)
    }
    return len(touched)


def _listen(layer: Layer, index: int, heard: dict[int, torch.Tensor]) -> Hook:
    def listen(activation: torch.Tensor) -> None:
        heard[index] = activation

    return Hook(layer.down, "input", listen)


def _edit_hooks(anatomy: Anatomy, edit: Edit, heard: dict[int, torch.Tensor]) -> Iterator[Hook]:
    if edit.operation not in OPERATIONS:
        raise ValueError(f"unknown operation {edit.operation!r}; known are {', '.join(OPERATIONS)}")
    if edit.positions not in POSITIONS:
        raise ValueError(f"unknown positions {edit.positions!r}; known are {', '.join(POSITIONS)}")
    for index in np.unique(edit.layers):
        if not 0 <= index < len(anatomy.layers):
            raise ValueError(f"layer {index} was selected; the model has {len(anatomy.layers)}")
        layer = anatomy.layers[index]
        if edit.operation == "subtract":
            yield _subtract(layer, edit.values)
            continue
        here = edit.layers == index
        neurons = edit.neurons[here]
        if neurons.min() < 0 or neurons.max() >= layer.n_neurons:
            raise ValueError(
                f"a neuron outside 0..{layer.n_neurons - 1} was selected in layer {index}: "
                f"{neurons.min()}..{neurons.max()}"
            )
        values = None if edit.values is None else edit.values[here]
        yield from _layer_hooks(layer, edit, neurons, values, heard, int(index))


def _layer_hooks(
    layer: Layer,
    edit: Edit,
    neurons: np.ndarray,
    values: np.ndarray | None,
    heard: dict[int, torch.Tensor],
    number: int,
) -> Iterator[Hook]:
    weight = layer.down.weight
    index = torch.as_tensor(neurons, dtype=torch.long, device=weight.device)

    def per_neuron(numbers, elsewhere: float) -> torch.Tensor:  # (d_mlp,)
        spread = weight.new_full((layer.n_neurons,), elsewhere)
        spread[index] = torch.as_tensor(numbers, device=weight.device).to(weight.dtype)
        return spread

    if edit.operation == "zero":
        yield Hook(layer.down, "input", lambda m: m.index_fill(-1, index, 0.0))
    elif edit.operation == "set":
        constants = torch.as_tensor(values, device=weight.device).to(weight.dtype)
        yield Hook(layer.down, "input", _replace(index, constants))
    elif edit.operation == "shift":
        added = per_neuron(values, 0.0)
        yield Hook(layer.down, "input", lambda m: m + added)
    elif edit.operation == "paired":
        signs = per_neuron(values, 0.0)
        yield Hook(layer.down, "input", lambda m: _follow(m, heard[number], signs))
    else:
        factors = per_neuron(edit.factor, 1.0)
        if edit.operation == "scale":
            yield Hook(layer.down, "input", lambda m: m * factors)
        else:
            times = len(layer.key_vectors()) // len(layer.keys)  # in one projection
            for key in layer.keys:
                yield Hook(key, "output", _scale_key(key, factors.repeat(times)))


def _replace(index: torch.Tensor, constants: torch.Tensor) -> Callable:
    def replace(activation: torch.Tensor) -> torch.Tensor:  # (..., d_mlp)
        return activation.index_copy(
            -1, index, constants.expand(*activation.shape[:-1], len(index))
        )

    return replace


def _follow(m: torch.Tensor, target: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    # where() and not m + signs * (target - m): rounding would keep a followed neuron from target
    return torch.where(signs > 0, target, torch.where(signs < 0, 2 * m - target, m))


def _scale_key(key: nn.Module, factors: torch.Tensor) -> Callable:
    bias = None if key.bias is None else key.bias.detach()

    def scale(pre: torch.Tensor) -> torch.Tensor:  # (..., outputs)
        if bias is None:
            return pre * factors
        # k·x + b becomes f·(k·x) + b; written as a sum so that f = 1 leaves every bit
        return pre + (pre - bias) * (factors - 1)

    return scale


def _subtract(layer: Layer, values: np.ndarray) -> Hook:
    weight = layer.down.weight
    vector = torch.as_tensor(values, device=weight.device).to(weight.dtype)  # (d_model,)
    return Hook(layer.mlp, "output", lambda written: written - vector)
