"""Interventions on neurons, applied by hooks alone: no weight and no tensor is edited in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from neurondynamics.interventions.operations import ACTS, Act, entry
from neurondynamics.interventions.parts import POSITIONS, Edit, Part
from neurondynamics.lm.anatomy import Anatomy, Layer
from neurondynamics.lm.hooks import Hook, hooked


@contextmanager
def applied(
    anatomy: Anatomy, edits: Sequence[Edit], leader: Anatomy | None = None
) -> Iterator[None]:
    """Run the block with the edits in force at every position that the model reads, in order.

    A paired edit takes its activations from `leader`, a model of the same shape that has to read
    the same tokens just before the edited one does.

    Raises ValueError before anything runs if an edit names a layer or neuron that the model has
    not, an unknown act, or a leader that is not there. On leaving, both models are as they were.
    """
    heard: dict[int, torch.Tensor] = {}  # layer -> the leader's activations, (..., d_mlp)
    hooks = [
        hook
        for edit in edits
        for part in parts(anatomy, edit, heard)
        for hook in act_of(edit).hooks(part)
    ]
    followed = {int(layer) for edit in edits if act_of(edit).follows for layer in edit.layers}
    if followed:
        if leader is None or len(leader.layers) != len(anatomy.layers):
            raise ValueError("a paired edit needs a leader with as many layers as the model")
        hooks += [_listen(leader.layers[layer], layer, heard) for layer in sorted(followed)]
    with hooked(hooks):
        yield


def act_of(edit: Edit) -> Act:
    """Return what an edit does. Raises ValueError if its act is unknown."""
    return entry(ACTS, "act", edit.act)


def parts(anatomy: Anatomy, edit: Edit, heard: Mapping[int, torch.Tensor]) -> Iterator[Part]:
    """Yield what an edit names in each of its layers; `heard` holds what a leader's neurons do.

    Raises ValueError for an unknown act, unknown positions, and a layer or neuron that the model
    has not.
    """
    of_neurons = act_of(edit).of_neurons
    if edit.positions not in POSITIONS:
        raise ValueError(f"unknown positions {edit.positions!r}; known are {', '.join(POSITIONS)}")
    for number in np.unique(edit.layers).tolist():
        if not 0 <= number < len(anatomy.layers):
            raise ValueError(f"layer {number} was selected; the model has {len(anatomy.layers)}")
        layer = anatomy.layers[number]
        neurons, values = edit.neurons, edit.values
        if of_neurons:
            here = edit.layers == number
            neurons, values = neurons[here], None if values is None else values[here]
            _check_neurons(neurons, layer, number)
        yield Part(number, layer, neurons, values, edit.factor, heard)


def needs_leader(edits: Sequence[Edit]) -> bool:
    """Return whether any of the edits takes activations from another model."""
    return any(act_of(edit).follows for edit in edits)


def at_all_positions(edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits that also act on the positions of the prompt."""
    return [edit for edit in edits if edit.positions == "all"]


def count_neurons(edits: Sequence[Edit]) -> int:
    """Return how many different neurons a list of edits touches."""
    touched = {
        pair
        for edit in edits
        if act_of(edit).of_neurons
        for pair in zip(edit.layers.tolist(), edit.neurons.tolist(), strict=True)
    }
    return len(touched)


def _check_neurons(neurons: np.ndarray, layer: Layer, number: int) -> None:
    if neurons.min() < 0 or neurons.max() >= layer.n_neurons:
        raise ValueError(
            f"a neuron outside 0..{layer.n_neurons - 1} was selected in layer {number}: "
            f"{neurons.min()}..{neurons.max()}"
        )


def _listen(layer: Layer, index: int, heard: dict[int, torch.Tensor]) -> Hook:
    def listen(activation: torch.Tensor) -> None:
        heard[index] = activation

    return Hook(layer.down, "input", listen)
