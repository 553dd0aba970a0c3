"""Interventions on neurons and heads, applied by hooks alone: no weight and no tensor is edited in
place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from neurondynamics.interventions.operations import ACTS, Act, entry
from neurondynamics.interventions.parts import POSITIONS, Edit, Heard, Part
from neurondynamics.lm.anatomy import Anatomy, Layer
from neurondynamics.lm.hooks import Hook, hooked


@contextmanager
def applied(
    anatomy: Anatomy, edits: Sequence[Edit], leader: Anatomy | None = None
) -> Iterator[None]:
    """Run the block with the edits in force at every position that the model reads, in order.

    A paired edit takes its activations from `leader`, a model of the same shape that has to read
    the same tokens just before the edited one does.

    Raises ValueError before anything runs as `parts`, or if there is no leader where one is needed.
    On leaving, both models are as they were.
    """
    heard: dict[tuple[str, int], torch.Tensor] = {}
    hooks = [
        hook
        for edit in edits
        for part in parts(anatomy, edit, heard)
        for hook in act_of(edit).hooks(part)
    ]
    followed = {
        (edit.module, int(layer)) for edit in edits if act_of(edit).follows for layer in edit.layers
    }
    if followed:
        if leader is None or len(leader.layers) != len(anatomy.layers):
            raise ValueError("a paired edit needs a leader with as many layers as the model")
        hooks += [_listen(leader.layers[site[1]], site, heard) for site in sorted(followed)]
    with hooked(hooks):
        yield


def act_of(edit: Edit) -> Act:
    """Return what an edit does.

    Raises ValueError if its act is unknown, or is one on MLPs alone and the edit is of heads.
    """
    act = entry(ACTS, "act", edit.act)
    if edit.module not in act.modules:
        raise ValueError(f"{edit.act} acts on neurons and MLPs, not on attention heads")
    return act


def parts(anatomy: Anatomy, edit: Edit, heard: Heard) -> Iterator[Part]:
    """Yield what an edit names in each of its layers.

    Raises ValueError as `act_of`, for unknown positions, and for a layer, neuron or head that the
    model has not.
    """
    of_units = act_of(edit).of_units
    if edit.positions not in POSITIONS:
        raise ValueError(f"unknown positions {edit.positions!r}; known are {', '.join(POSITIONS)}")
    for number in np.unique(edit.layers).tolist():
        if not 0 <= number < len(anatomy.layers):
            raise ValueError(f"layer {number} was selected; the model has {len(anatomy.layers)}")
        layer = anatomy.layers[number]
        inputs, values = edit.inputs, edit.values
        if of_units:
            here = edit.layers == number
            inputs, values = inputs[here], None if values is None else values[here]
            _check_inputs(edit, inputs, layer, number)
        yield Part(number, layer, edit.module, inputs, values, edit.factor, heard)


def needs_leader(edits: Sequence[Edit]) -> bool:
    """Return whether any of the edits takes activations from another model."""
    return any(act_of(edit).follows for edit in edits)


def at_all_positions(edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits that also act on the positions of the prompt."""
    return [edit for edit in edits if edit.positions == "all"]


def count_units(edits: Sequence[Edit]) -> tuple[int, int]:
    """Return how many different neurons, and how many different heads, a list of edits touches."""
    touched = {
        (edit.module, layer, number // edit.unit_width)
        for edit in edits
        if act_of(edit).of_units
        for layer, number in zip(edit.layers.tolist(), edit.inputs.tolist(), strict=True)
    }
    modules = [module for module, _, _ in touched]
    return modules.count("mlp"), modules.count("attention")


def _check_inputs(edit: Edit, inputs: np.ndarray, layer: Layer, number: int) -> None:
    kind = {"mlp": "neuron", "attention": "head"}[edit.module]
    units = len(layer.vectors(edit.module)) // edit.unit_width
    low, high = inputs.min() // edit.unit_width, inputs.max() // edit.unit_width
    if low < 0 or high >= units:
        raise ValueError(
            f"a {kind} outside 0..{units - 1} was selected in layer {number}: {low}..{high}"
        )


def _listen(
    layer: Layer, site: tuple[str, int], heard: dict[tuple[str, int], torch.Tensor]
) -> Hook:
    def listen(activation: torch.Tensor) -> None:
        heard[site] = activation

    return Hook(layer.projection(site[0]), "input", listen)
