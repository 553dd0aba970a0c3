"""Which weights belong to a unit: what is summed over them, unit by unit.

A neuron has its row of every key projection with its entry of the bias, and its value vector; a
head its queries' rows and entries, and its block of the output projection; a key/value head, which
one head or several share, its rows and entries of keys and values. These are what a transplant of
the unit moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from neurondynamics.lm.anatomy import Anatomy, Layer, Outputs, by_output


class OfUnits(NamedTuple):
    """A number for every unit of a model."""

    neurons: torch.Tensor  # (layers, d_mlp)
    heads: torch.Tensor  # (layers, heads)
    key_values: torch.Tensor  # (layers, groups)

    @classmethod
    def zeros(cls, anatomy: Anatomy) -> OfUnits:
        """Return zeros in float64 on the CPU."""
        layer = anatomy.layers[0]
        sizes = layer.n_neurons, layer.heads, layer.groups
        return cls(*(torch.zeros(len(anatomy.layers), n, dtype=torch.float64) for n in sizes))


class Share(NamedTuple):
    """What some units have of one parameter: `sums` turns a tensor of its shape into the sum over
    each unit's part, (units,) in float64."""

    parameter: nn.Parameter
    units: str  # a field of OfUnits
    sums: Callable[[torch.Tensor], torch.Tensor]


def shares(layer: Layer) -> Iterator[Share]:
    """Yield what the units of a layer have of its parameters."""
    for key in layer.keys:  # several vectors of a neuron may stand in one, one after the other
        for parameter in key.parameters():
            yield Share(parameter, "neurons", _of_neurons(key, layer.n_neurons))
    yield Share(layer.down.weight, "neurons", _of_inputs(layer.down, layer.n_neurons))
    yield from _of_outputs(layer.qkv.queries, "heads")
    yield Share(layer.out.weight, "heads", _of_inputs(layer.out, layer.heads))
    yield from _of_outputs(layer.qkv.keys, "key_values")
    yield from _of_outputs(layer.qkv.values, "key_values")


def sum_over_weights(
    anatomy: Anatomy, of_parameter: Callable[[nn.Parameter], torch.Tensor]
) -> OfUnits:
    """Return for every unit the sum over its weights of what is given for each parameter, a tensor
    of its shape."""
    found = OfUnits.zeros(anatomy)
    for number, layer in enumerate(anatomy.layers):
        for parameter, units, sums in shares(layer):
            getattr(found, units)[number] += sums(of_parameter(parameter)).cpu()
    return found


def _by_output(projection: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Return sums over what each output of a projection has, (outputs,), of a weight or a bias."""
    if values.dim() == 1:
        return values.double()
    return by_output(projection, values).sum(1, dtype=torch.float64)


def _of_neurons(key: nn.Module, number: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: _by_output(key, values).view(-1, number).sum(0)


def _of_inputs(projection: nn.Module, units: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def sums(values: torch.Tensor) -> torch.Tensor:
        return by_output(projection, values).sum(0, dtype=torch.float64).view(units, -1).sum(1)

    return sums


def _of_outputs(outputs: Outputs, units: str) -> Iterator[Share]:
    projection, index = outputs

    def sums(values: torch.Tensor) -> torch.Tensor:
        return _by_output(projection, values)[index.to(values.device)].sum(1)

    for parameter in projection.parameters():
        yield Share(parameter, units, sums)
