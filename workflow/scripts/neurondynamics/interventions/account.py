"""The account of a tuning: how near each part of the other model brings a model to it, alone, and
how near all of the others do without it.

Base toward tuned. By activations, a part is what it writes into the residual stream: the units of
an attention or an MLP do what they do in the other model on the same text, at every position,
whatever made them. By weights, it is its parameters. Where a part lies in one layer, only what
comes after it is run: alone, from the residual stream of the model; without it, by activations,
nothing, since every later unit is clamped and the residual stream is a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from neurondynamics.interventions.transplant import Transplant, transplanted
from neurondynamics.lm.anatomy import Layer
from neurondynamics.lm.families import MODULES
from neurondynamics.lm.fidelity import Divergence, divergences
from neurondynamics.lm.hooks import Hook, hooked
from neurondynamics.lm.streams import Stream
from neurondynamics.runtime import progress

Tokens = Sequence[Sequence[int]]  # of each text of a batch
Units = Mapping[str, torch.Tensor]  # by module, what its output projection reads in one layer
CAUSAL, WEIGHTS = ("causal_alone", "causal_without"), ("weights_alone", "weights_without")
EMBEDDINGS, PROJECTIONS, NORMS = "embeddings", "output_projections", "norms"
FINAL_NORM, UNEMBEDDING, WHOLE = "final_norm", "unembedding", "whole"
OTHERS = "others"  # what a block has beside its output projections and the norms behind them
OF_BLOCKS = frozenset((*MODULES, NORMS))  # parts that have all parameters of a block


class Key(NamedTuple):
    """A part, of one layer or (None) of all, and the measure that is taken of it."""

    part: str
    layer: int | None
    measure: str

    def __str__(self) -> str:
        where = "" if self.layer is None else f" of layer {self.layer}"
        return f"{self.part}{where}, {self.measure}"


@dataclass(frozen=True)
class Mixture:
    """A model made of two: which parts of its blocks' `weights`, and which modules' `units`, are
    the other's, and whether what lies before (`start`) and behind (`end`) the blocks is."""

    weights: frozenset[str] = frozenset()
    units: frozenset[str] = frozenset()
    start: bool = False
    end: bool = False


def mixtures() -> dict[Key, Mixture]:
    """Return what is measured of parts that lie in all blocks."""
    both, written = frozenset(MODULES), frozenset([PROJECTIONS])
    found = {Key(WHOLE, None, CAUSAL[0]): Mixture(written, both, start=True, end=True)}
    for module in MODULES:
        alone, others = frozenset([module]), both - {module}
        found[Key(module, None, CAUSAL[0])] = Mixture(units=alone)
        found[Key(module, None, CAUSAL[1])] = Mixture(written, others, start=True, end=True)
    found[Key(PROJECTIONS, None, CAUSAL[0])] = Mixture(written)
    found[Key(PROJECTIONS, None, CAUSAL[1])] = Mixture(units=both, start=True, end=True)
    others = frozenset([OTHERS])
    found[Key(PROJECTIONS, None, WEIGHTS[1])] = Mixture(others, start=True, end=True)
    for part in sorted(OF_BLOCKS):
        alone = frozenset([part])
        found[Key(part, None, WEIGHTS[0])] = Mixture(alone)
        found[Key(part, None, WEIGHTS[1])] = Mixture(OF_BLOCKS - alone, start=True, end=True)
    return found


class Account:
    """The account of one batch of texts that the other model has written.

    `model` and `other` are of the same shape and in the same precision; a block of the one is run
    with parameters of the other.
    """

    def __init__(
        self, model: PreTrainedModel, other: PreTrainedModel, prompts: Tokens, continuations: Tokens
    ):
        self.own = Stream(model, prompts, continuations)
        self.other = Stream(other, prompts, continuations)
        self.continuations = continuations
        self._texts = prompts, continuations
        self.target = self.other.hidden(self.other.inputs[-1])
        self.layers = len(self.own.anatomy.layers)

    def measure(self) -> Iterator[tuple[Key, Divergence]]:
        """Yield how far from the other model each part leaves the model, alone and without it.

        Raises NonFiniteError, with the part, for log-probabilities that are not finite.
        """
        made = mixtures()
        streams = {
            key: (self.other if mixture.start else self.own).inputs[0]
            for key, mixture in made.items()
        }
        for number in progress(range(self.layers), "taking account of layers"):
            units = self._heard(number)
            streams = {
                key: self._through(number, stream, made[key].weights, made[key].units, units)
                for key, stream in streams.items()
            }
            for module in MODULES:
                yield from self._of_layer(number, module, units).items()
        by_end = {end: [key for key in made if made[key].end is end] for end in (False, True)}
        for end, keys in by_end.items():
            for key, found in self._compared({key: streams[key] for key in keys}, end).items():
                yield key, found
                if key == (PROJECTIONS, None, CAUSAL[0]):  # no unit is clamped: as by weights
                    yield key._replace(measure=WEIGHTS[0]), found
        yield from self._outside()
        yield from self._moved().items()

    def unedited(self) -> Divergence:
        """Return how far from the other model the model is as it is."""
        key = Key("nothing", None, "unedited")
        return self._compared({key: self.own.inputs[-1]}, False)[key]

    def _moved(self) -> dict[Key, Divergence]:
        """Return the measure of all weights at once: they are the whole of the other model, if both
        have one configuration."""
        key = Key(WHOLE, None, WEIGHTS[0])
        moved = transplanted(self.own.model, self.other.model, Transplant.whole(self.layers))
        stream = Stream(moved, *self._texts)
        return self._predicted({key: stream.hidden(stream.inputs[-1])}, stream)

    def _heard(self, number: int) -> Units:
        """Return what the other model's units do in a layer, by module."""
        heard: dict[str, torch.Tensor] = {}
        layer = self.other.anatomy.layers[number]

        def take(module: str) -> Hook:
            return Hook(layer.projection(module), "input", lambda x: heard.__setitem__(module, x))

        with hooked(map(take, MODULES)):
            self.other.through(number, self.other.inputs[number])
        return heard

    def _through(
        self,
        number: int,
        stream: torch.Tensor,
        weights: frozenset[str],
        clamped: frozenset[str],
        units: Units,
    ) -> torch.Tensor:
        """Run a block of the model with some parts of its weights, and some modules' units, of the
        other's."""
        layer, theirs = self.own.anatomy.layers[number], self.other.anatomy.layers[number]
        parameters = dict(theirs.block.named_parameters())
        of_part = parameters_of(layer)
        names = {name for part in weights for name in of_part[part]}
        with _clamped(layer, {module: units[module] for module in clamped}):
            return self.own.through(number, stream, {name: parameters[name] for name in names})

    def _of_layer(self, number: int, module: str, units: Units) -> dict[Key, Divergence]:
        """Return the four measures of one layer's attention or MLP."""
        own, other = self.own.inputs[number], self.other.inputs[number]
        nothing, alone = frozenset(), frozenset([module])
        keys = [Key(module, number, measure) for measure in (*CAUSAL, *WEIGHTS)]
        patched = self._through(number, own, nothing, alone, units)
        moved = self._through(number, own, alone, nothing, units)
        kept = self._through(number, other, OF_BLOCKS - alone, nothing, units)
        found = self._compared(
            {
                keys[0]: self.own.run_on(number + 1, patched),
                keys[2]: self.own.run_on(number + 1, moved),
            },
            end=False,
        )
        # what the module writes of its own on the other model's residual stream; all that comes
        # later writes what it writes there, so the difference stays what it is
        own_units = self._through(
            number, other, frozenset([PROJECTIONS]), frozenset(MODULES) - alone, units
        )
        left_out = self.other.inputs[-1] + (own_units - self.other.inputs[number + 1])
        without = {keys[1]: left_out, keys[3]: self.other.run_on(number + 1, kept)}
        return found | self._compared(without, end=True)

    def _compared(self, streams: Mapping[Key, torch.Tensor], end: bool) -> dict[Key, Divergence]:
        """Compare what final norms read, which with the unembedding are the other's or not."""
        reader = self.other if end else self.own
        hidden = {key: reader.hidden(stream) for key, stream in streams.items()}
        return self._predicted(hidden, reader)

    def _predicted(
        self, hidden: Mapping[Key, torch.Tensor], unembedding: Stream
    ) -> dict[Key, Divergence]:
        given = self.other.model, self.target, unembedding.model, hidden, self.continuations
        return divergences(*given)

    def _outside(self) -> Iterator[tuple[Key, Divergence]]:
        """Yield the measures of what lies before and behind the blocks, of which activations and
        weights say the same but where blocks read what others write."""
        own, other = self.own.inputs, self.other.inputs
        clamped = other[-1] + (own[0] - other[0])
        read = {  # the hidden states, and whose unembedding predicts from them
            (EMBEDDINGS, CAUSAL[0]): (self.own.hidden(self.own.run_on(0, other[0])), self.own),
            (EMBEDDINGS, CAUSAL[1]): (self.other.hidden(clamped), self.other),
            (EMBEDDINGS, WEIGHTS[1]): (
                self.other.hidden(self.other.run_on(0, own[0])),
                self.other,
            ),
            (FINAL_NORM, CAUSAL[0]): (self.other.hidden(own[-1]), self.own),
            (FINAL_NORM, CAUSAL[1]): (self.own.hidden(other[-1]), self.other),
            (UNEMBEDDING, CAUSAL[0]): (self.own.hidden(own[-1]), self.other),
            (UNEMBEDDING, CAUSAL[1]): (self.target, self.own),
        }
        for (part, measure), (hidden, unembedding) in read.items():
            key = Key(part, None, measure)
            found = self._predicted({key: hidden}, unembedding)[key]
            yield key, found
            same = WEIGHTS[CAUSAL.index(measure)] if measure in CAUSAL else measure
            if (part, same) not in read:
                yield key._replace(measure=same), found


def parameters_of(layer: Layer) -> dict[str, set[str]]:
    """Return the names within a block of the parameters of its attention, its MLP and its norms,
    which are all of them, of its output projections with the norms behind them, and of the others.
    """
    names = {id(parameter): name for name, parameter in layer.block.named_parameters()}

    def named(*modules: torch.nn.Module) -> set[str]:
        return {names[id(parameter)] for module in modules for parameter in module.parameters()}

    attention, mlp = named(layer.self_attention), named(*layer.keys, layer.down)
    behind = [
        added
        for added, projection in ((layer.attention, layer.out), (layer.mlp, layer.down))
        if projection not in added.modules()
    ]
    every, written = set(names.values()), named(layer.out, layer.down, *behind)
    parts = {"attention": attention, "mlp": mlp, NORMS: every - attention - mlp}
    return parts | {PROJECTIONS: written, OTHERS: every - written}


@contextmanager
def _clamped(layer: Layer, units: Units) -> Iterator[None]:
    """Run the block while modules' units of a layer do what is given."""

    def clamp(module: str) -> Hook:
        return Hook(layer.projection(module), "input", lambda _: units[module])

    with hooked(map(clamp, units)):
        yield
