"""Interventions on neurons and heads, applied by hooks alone: no weight and no tensor is edited in
place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from neurondynamics.interventions.operations import ACTS, Act, entry
from neurondynamics.interventions.parts import POSITIONS, Edit, Heard, Part, Site
from neurondynamics.lm.anatomy import Anatomy, Layer
from neurondynamics.lm.hooks import Hook, hooked


@contextmanager
def applied(anatomy: Anatomy, edits: Sequence[Edit], heard: Heard | None = None) -> Iterator[None]:
    """Run the block with the edits in force at every position that the model reads, in order.

    A paired edit takes its activations from `heard`, what the followed model's units do at the
    positions that the edited model reads, which `listening` fills before it does.

    Raises ValueError before anything runs as `parts`, or if an edit follows a model that nobody
    listens to. On leaving, the model is as it was.
    """
    if heard is None and needs_leader(edits):
        raise ValueError("a paired edit needs a leader: what it follows has to be heard")
    hooks = [
        hook
        for edit in edits
        for part in parts(anatomy, edit, {} if heard is None else heard)
        for hook in act_of(edit).hooks(part)
    ]
    with hooked(hooks):
        yield


@contextmanager
def listening(
    leader: Anatomy, sites: Iterable[Site], heard: dict[Site, torch.Tensor]
) -> Iterator[None]:
    """Run the block while `heard` takes in what a model's units do at some sites, (..., width).

    It holds what the model read last. Raises ValueError before anything runs for a site that the
    model has not. On leaving, the model is as it was.
    """
    hooks = []
    for module, number in sorted(sites):
        if number >= len(leader.layers):
            raise ValueError(
                f"layer {number} is followed; the followed model has {len(leader.layers)}"
            )
        take_in = partial(heard.__setitem__, (module, number))
        hooks.append(Hook(leader.layers[number].projection(module), "input", take_in))
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


def followed_sites(edits: Iterable[Edit]) -> set[Site]:
    """Return the sites at which edits take activations from another model."""
    followed = (edit for edit in edits if act_of(edit).follows)
    return {(edit.module, layer) for edit in followed for layer in np.unique(edit.layers).tolist()}


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
