"""What interventions can do. Nothing else knows an act or an operation by its name.

An *operation* is what a configuration asks for: it makes an edit of named units. An *act* is what
that edit does, by hooks and in weights. To add one, write its `Act`, name it in `ACTS`, and name
the operation that leads to it in `OPERATIONS` and in the schema.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from neurondynamics.interventions.parts import Edit, LayerChange, Part
from neurondynamics.interventions.selection import select
from neurondynamics.interventions.transplant import OF_HEADS, OF_NEURONS, Move, Transplant
from neurondynamics.interventions.units import Named, Units
from neurondynamics.limits import PARTS_OF_LAYERS, layers_of
from neurondynamics.lm.families import MODULES
from neurondynamics.lm.hooks import Hook
from neurondynamics.lm.weights import unit

Entry = TypeVar("Entry")


class Act(ABC):
    """What an edit does in one layer; by itself one that weights cannot express."""

    of_units = True  # neurons or heads; or of what the layer's MLP writes
    modules = ("mlp",)  # whose units it can be of
    follows = False  # takes activations from another model, the leader
    multiplies = False  # in weights, and no more: any family can express it
    beyond_weights = "it is no matter of multiplying activations and adding constants"

    @abstractmethod
    def hooks(self, part: Part) -> Iterator[Hook]:
        """Yield the hooks under which a model acts as edited."""

    def bake(self, part: Part, change: LayerChange) -> None:
        """Let the act follow on what a change does already. Raises ValueError with the reason if
        weights cannot express it."""
        raise ValueError(self.beyond_weights)


class OnActivations(Act):
    """An act that changes activations where the down or output projection reads them."""

    modules = MODULES

    def hooks(self, part):
        yield Hook(part.projection, "input", self.moved(part))

    @abstractmethod
    def moved(self, part: Part) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what becomes of what the projection reads, (..., inputs)."""


class Zero(OnActivations):
    """The activation becomes 0."""

    multiplies = True

    def moved(self, part):
        index = part.index
        return lambda m: m.index_fill(-1, index, 0.0)

    def bake(self, part, change):
        change.scales[part.inputs] = 0.0  # what came before is forgotten
        change.constants[part.inputs] = 0.0


class Set(OnActivations):
    """The activation becomes `values`, one constant per input."""

    def moved(self, part):
        index, constants = part.index, part.tensor(part.amounts)
        return lambda m: m.index_copy(-1, index, constants.expand(*m.shape[:-1], len(index)))

    def bake(self, part, change):
        change.scales[part.inputs] = 0.0  # what came before is forgotten
        change.constants[part.inputs] = part.amounts


class Shift(OnActivations):
    """`values` is added to the activation."""

    def moved(self, part):
        added = part.spread(part.amounts, 0.0)
        return lambda m: m + added

    def bake(self, part, change):
        change.constants[part.inputs] += part.amounts


class Paired(OnActivations):
    """The activation becomes the leader's at the same position of the same text, where `values` is
    1, or moves as far the other way, where it is -1."""

    follows = True
    beyond_weights = (
        "it takes the other model's activation at every position, which weights of one model do "
        "not know; export the patch with mode mean or shift, or use the other model itself"
    )

    def moved(self, part):
        signs = part.spread(part.amounts, 0.0)

        def follow(m: torch.Tensor) -> torch.Tensor:
            target = part.target
            # where() and not m + signs * (target - m): rounding would keep a followed input from
            # its target
            return torch.where(signs > 0, target, torch.where(signs < 0, 2 * m - target, m))

        return follow


class Scale(OnActivations):
    """The activation is multiplied by `factor`."""

    multiplies = True

    def moved(self, part):
        factors = part.spread(part.factor, 1.0)
        return lambda m: m * factors

    def bake(self, part, change):
        change.scales[part.inputs] *= part.factor
        change.constants[part.inputs] *= part.factor


class ScaleKeys(Act):
    """The key vectors are multiplied by `factor`: the pre-activation is, without its bias; in a
    gated MLP both the gate's and the up projection's are."""

    multiplies = True

    def hooks(self, part):
        layer = part.layer
        times = len(layer.key_vectors()) // len(layer.keys)  # in one projection
        factors = part.spread(part.factor, 1.0).repeat(times)
        for key in layer.keys:
            yield Hook(key, "output", _scale_key(key, factors))

    def bake(self, part, change):
        change.keys[part.inputs] *= part.factor


def _scale_key(key: nn.Module, factors: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    bias = None if key.bias is None else key.bias.detach()

    def scale(pre: torch.Tensor) -> torch.Tensor:  # (..., outputs)
        if bias is None:
            return pre * factors
        # k·x + b becomes f·(k·x) + b; written as a sum so that f = 1 leaves every bit
        return pre + (pre - bias) * (factors - 1)

    return scale


class Subtract(Act):
    """`values`, (d_model,), is subtracted from what the MLP adds to the residual stream."""

    of_units = False

    def hooks(self, part):
        vector = part.tensor(part.amounts)
        yield Hook(part.layer.mlp, "output", lambda written: written - vector)

    def bake(self, part, change):
        change.subtracted += part.amounts


ACTS: dict[str, Act] = {
    "zero": Zero(),
    "set": Set(),
    "shift": Shift(),
    "paired": Paired(),
    "scale": Scale(),
    "scale_keys": ScaleKeys(),
    "subtract": Subtract(),
}


def entry(table: Mapping[str, Entry], kind: str, name: str) -> Entry:
    """Return a table's entry. Raises ValueError, with the known names, if there is none."""
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; known are {', '.join(table)}")
    return table[name]


Directions = Mapping[str, np.ndarray]  # name -> vector, (d_model,)


def _of_its_name(step: dict, units: Units, directions: Directions) -> list[Edit]:
    """The act has the operation's name, and takes a factor or nothing."""
    chosen = select(units, step["select"])
    return [_edit(step["operation"], named, factor=step.get("factor")) for named in chosen.named()]


def _patch(step: dict, units: Units, directions: Directions) -> list[Edit]:
    """Move units toward the other model; with `shuffle_signs`, a seed, a random half of them moves
    as far the other way."""
    move = entry(PATCHES, "mode", step.get("mode", "mean"))
    shuffle, edits = step.get("shuffle_signs"), []
    for named in select(units, step["select"]).named():
        signs = np.ones(len(named))
        if shuffle is not None:
            chosen = np.random.default_rng(shuffle).permutation(len(named))[: len(named) // 2]
            signs[chosen] = -1
        edits.append(_edit(*move(named, np.repeat(signs, named.unit_width))))
    return edits


def _to_mean(named: Named, signs: np.ndarray) -> tuple[str, Named, np.ndarray]:
    own, other = named.mean(named.units.edited), named.mean(named.units.other)
    return "set", named, np.where(signs > 0, other, 2 * own - other)


def _by_shift(named: Named, signs: np.ndarray) -> tuple[str, Named, np.ndarray]:
    own, other = named.mean(named.units.edited), named.mean(named.units.other)
    return "shift", named, signs * (other - own)


def _as_paired(named: Named, signs: np.ndarray) -> tuple[str, Named, np.ndarray]:
    return "paired", named, signs


# an identity is paired with the edited model itself, which `Plan` says
PATCHES = {"mean": _to_mean, "shift": _by_shift, "paired": _as_paired, "identity": _as_paired}


def _rescale(step: dict, units: Units, directions: Directions) -> list[Edit]:
    """Move units' means in the base model to `factor` times what they are.

    `mean` is the paper's tuning-free editing, the constant (1 ± alpha)·mean; `shift` moves the
    mean as far and leaves what varies about it.
    """
    factor = step["factor"]
    modes = {"mean": ("set", factor), "shift": ("shift", factor - 1)}
    act, times = entry(modes, "mode", step.get("mode", "mean"))
    chosen = select(units, step["select"])
    return [_edit(act, named, times * named.mean("base")) for named in chosen.named()]


def _subtract(step: dict, units: Units, directions: Directions) -> list[Edit]:
    """Subtract a direction, at the length `scale`, from what a layer's MLP writes."""
    vector = step["scale"] * unit(entry(directions, "direction", step["direction"]))
    layer = units.neurons.layer.max() if step["layer"] == "last" else step["layer"]
    return [Edit("subtract", np.array([layer]), np.array([], dtype=int), vector)]


def _transplant(step: dict, units: Units, directions: Directions) -> list[Move]:
    """Move the weights of units, or of whole parts of the model, `factor` times as far as tuning
    moved them."""
    factor = step.get("factor", 1.0)
    if "select" in step:
        chosen = select(units, step["select"])
        neurons = chosen.neurons[["layer", "neuron"]].to_numpy()
        heads, shared = (
            [] if table is None else table[["layer", name]].to_numpy()
            for table, name in ((chosen.heads, "head"), (chosen.key_values, "key_value"))
        )
        return [Move(Transplant(neurons, heads, shared), factor, len(neurons), len(heads))]
    number, neurons, heads = units.sizes
    layers, parts = layers_of(step.get("layers", (0, number - 1)), number), set(step["parts"])
    named = {part: layers if part in PARTS_OF_LAYERS else True for part in parts}
    touched = (neurons * bool(OF_NEURONS & parts), heads * bool(OF_HEADS & parts))
    return [Move(Transplant(**named), factor, *(len(layers) * each for each in touched))]


def _edit(
    act: str, named: Named, values: np.ndarray | None = None, factor: float | None = None
) -> Edit:
    return Edit(
        act,
        named.layers,
        named.inputs,
        values,
        factor,
        module=named.module,
        unit_width=named.unit_width,
    )


# operation -> what makes edits or moves of its step, the tables of units and the directions
OPERATIONS: dict[str, Callable[[dict, Units, Directions], list[Edit | Move]]] = {
    "zero": _of_its_name,
    "patch": _patch,
    "scale": _of_its_name,
    "scale_keys": _of_its_name,
    "rescale": _rescale,
    "subtract": _subtract,
    "transplant": _transplant,
}
