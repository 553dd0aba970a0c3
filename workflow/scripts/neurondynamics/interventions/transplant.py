"""Weights moved toward another model's: what tuning did to the named parts, and to nothing else."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from neurondynamics.lm.anatomy import QKV, Anatomy, Layer, Outputs, by_output, dissect

logger = logging.getLogger(__name__)

ROWS = 1024  # of a weight at a time, of which there are copies in float64
Pairs = Sequence[tuple[int, int]] | np.ndarray  # (n, 2), layer and number there


@dataclass(frozen=True)
class Transplant:
    """The parts whose weights are moved; one that is named twice is moved once.

    A neuron is its value vector and its vectors in all key projections, a head its queries' rows
    and its block of the output projection's inputs, a key/value head the rows of keys and values
    that one head or several share; each with its entries of those projections' biases.

    `attention` is all the parameters of a layer's attention, norms of queries and keys and the
    output projection's bias included, `mlp` those of a layer's key and down projections, `norms`
    what else a block has. Of attention, `queries`, `keys` and `values` are their rows and entries
    of biases, `attention_output` is the output projection; of the MLP, `mlp_input` is the key
    projections, which in a gated one are gate and up, `mlp_output` the down projection.
    `embeddings` are everything before the first block: tokens, learned positions, a norm.
    """

    neurons: Pairs = ()
    heads: Pairs = ()
    key_values: Pairs = ()
    attention: Sequence[int] = ()  # layers
    queries: Sequence[int] = ()
    keys: Sequence[int] = ()
    values: Sequence[int] = ()
    attention_output: Sequence[int] = ()
    mlp: Sequence[int] = ()
    mlp_input: Sequence[int] = ()
    mlp_output: Sequence[int] = ()
    norms: Sequence[int] = ()
    final_norm: bool = False
    embeddings: bool = False
    unembedding: bool = False

    @classmethod
    def whole(cls, layers: int) -> Transplant:
        """Return the transplant of everything in a model of so many layers."""
        inside = dict.fromkeys(("attention", "mlp", "norms"), range(layers))
        return cls(**inside, final_norm=True, embeddings=True, unembedding=True)


# parts of a layer that have weights of every neuron there, of every head
OF_NEURONS = {"mlp", "mlp_input", "mlp_output"}
OF_HEADS = {"attention", "queries", "attention_output"}


@dataclass(frozen=True)
class Move:
    """A transplant, `factor` times as far as the other model is; `neurons` and `heads` are how many
    of them it moves."""

    parts: Transplant
    factor: float
    neurons: int
    heads: int


@dataclass(frozen=True)
class _Rows:
    """Some rows of a parameter, seen as (outputs, inputs), its transpose or as what it is."""

    parameter: str
    projection: nn.Module | None = None
    of_inputs: bool = False
    rows: torch.Tensor | None = None  # all, if None

    def view(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the parameter, or the other model's in its place, with its rows first, a view."""
        if self.projection is None or weight.dim() == 1:
            return weight
        oriented = by_output(self.projection, weight)
        return oriented.T if self.of_inputs else oriented


def transplanted(
    model: PreTrainedModel,
    other: PreTrainedModel | Mapping[str, torch.Tensor],
    parts: Transplant,
    factor: float = 1.0,
) -> PreTrainedModel:
    """Return a copy of a model in which the named weights w are w + factor·(w_other - w).

    With factor 1 they are the other's to the bit. `other` may be its parameters by the names that
    transformers gives them, such as the `StoredWeights` of a folder, of which one is held at a
    time. What is not moved shares its memory with the given model, which is not changed: edit
    neither in place. Where embedding and unembedding share a weight and are not both moved to the
    same, they no longer do in the copy.

    Raises ValueError for a layer, neuron or head that the model has not, and if the other
    model's weights are not those of a model of the same shape.
    """
    theirs = _parameters(other) if isinstance(other, nn.Module) else other
    _check_alike(model, theirs)
    moves = list(_moves(model, dissect(model), parts))
    moved = {move.parameter for move in moves}
    kept = {
        id(parameter): nn.Parameter(parameter.detach(), parameter.requires_grad)
        for name, parameter in model.named_parameters()
        if name not in moved
    }
    copied = copy.deepcopy(model, kept)
    _untie_if_parted(copied, moved, theirs)
    original, found = _parameters(model), _parameters(copied)
    for name in sorted(moved):
        ours, source = original[name].detach(), theirs[name].detach()
        if source.shape != ours.shape:
            raise ValueError(
                f"the other model is not of the same shape: {name} is {list(source.shape)} there "
                f"and {list(ours.shape)} here"
            )
        for move in (one for one in moves if one.parameter == name):
            views = (move.view(tensor) for tensor in (found[name].detach(), ours, source))
            _move(*views, move.rows, factor)
    return copied


@torch.no_grad()
def _move(
    target: torch.Tensor,
    ours: torch.Tensor,
    theirs: torch.Tensor,
    rows: torch.Tensor | None,
    factor: float,
) -> None:
    chosen = torch.arange(len(ours)) if rows is None else rows
    for some in chosen.to(ours.device).split(ROWS):
        # in the precision of ours, whose rounding a factor would multiply
        end = theirs[some.to(theirs.device)].to(ours.device, ours.dtype)
        if factor != 1:
            start = ours[some].double()
            end = start + factor * (end.double() - start)
        target[some] = end.to(target.dtype)


def _parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters of a model; one that two parts share stands there under both names."""
    return dict(model.named_parameters(remove_duplicate=False))


def _check_alike(model: nn.Module, theirs: Mapping[str, torch.Tensor]) -> None:
    ours = _parameters(model)
    lacking, odd = set(ours) - set(theirs), set(theirs) - set(model.state_dict())
    if lacking or odd:
        raise ValueError(
            f"the other model is not of the same shape: it lacks {len(lacking)} of the weights, "
            f"such as {min(lacking, default='none')}, and {len(odd)} of its have no place, such as "
            f"{min(odd, default='none')}"
        )


def _untie_if_parted(
    copied: PreTrainedModel, moved: set[str], theirs: Mapping[str, torch.Tensor]
) -> None:
    """Give the unembedding a weight of its own if it shares one with the embedding and may not."""
    embedding, unembedding = copied.get_input_embeddings(), copied.get_output_embeddings()
    if embedding.weight is not unembedding.weight:
        return
    names = {module: name for name, module in copied.named_modules()}
    pair = [f"{names[module]}.weight" for module in (embedding, unembedding)]
    alone = [name for name in pair if name in moved]
    if not alone or (len(alone) == 2 and torch.equal(*(theirs[name] for name in pair))):
        return
    logger.info("embedding and unembedding share no weight any more: %s moved", " and ".join(alone))
    unembedding.weight = nn.Parameter(unembedding.weight.detach().clone(), False)
    for config in (copied.config, copied.config.get_text_config()):
        config.tie_word_embeddings = False


def _moves(model: nn.Module, anatomy: Anatomy, parts: Transplant) -> Iterator[_Rows]:
    names = {module: name for name, module in model.named_modules()}
    for module in _whole_modules(model, anatomy, parts):
        for name, _ in module.named_parameters(recurse=False):
            yield _Rows(f"{names[module]}.{name}")
    layers = anatomy.layers
    for layer, neurons in _by_layer(parts.neurons, layers, "n_neurons", "neuron"):
        for key in layer.keys:
            held = len(by_output(key, key.weight)) // layer.n_neurons  # one after the other
            rows = torch.cat([neurons + number * layer.n_neurons for number in range(held)])
            yield from _of_outputs(names, key, rows)
        yield _Rows(f"{names[layer.down]}.weight", layer.down, True, neurons)
    for layer, heads in _by_layer(parts.heads, layers, "heads", "head"):
        yield from _of_units(names, layer.qkv.queries, heads)
        inputs = heads[:, None] * layer.head_width + torch.arange(layer.head_width)
        yield _Rows(f"{names[layer.out]}.weight", layer.out, True, inputs.flatten())
    for layer, shared in _by_layer(parts.key_values, layers, "groups", "key/value head"):
        yield from _of_units(names, layer.qkv.keys, shared)
        yield from _of_units(names, layer.qkv.values, shared)
    for kind in QKV._fields:
        for number in getattr(parts, kind):
            outputs = getattr(_layer(layers, number).qkv, kind)
            yield from _of_units(names, outputs, torch.arange(len(outputs.index)))


def _of_units(
    names: Mapping[nn.Module, str], outputs: Outputs, units: torch.Tensor
) -> Iterator[_Rows]:
    return _of_outputs(names, outputs.projection, outputs.index[units].flatten())


def _of_outputs(
    names: Mapping[nn.Module, str], projection: nn.Module, rows: torch.Tensor
) -> Iterator[_Rows]:
    for name, _ in projection.named_parameters():  # weight and bias
        yield _Rows(f"{names[projection]}.{name}", projection, False, rows)


def _by_layer(
    pairs: Pairs, layers: Sequence[Layer], count: str, unit: str
) -> Iterator[tuple[Layer, torch.Tensor]]:
    """Yield each layer with the numbers, (n,), of what is named there."""
    listed = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    for number in np.unique(listed[:, 0]).tolist():
        layer = _layer(layers, number)
        here = np.unique(listed[listed[:, 0] == number, 1])
        if here[0] < 0 or here[-1] >= getattr(layer, count):
            raise ValueError(
                f"a {unit} outside 0..{getattr(layer, count) - 1} was selected in layer {number}: "
                f"{here[0]}..{here[-1]}"
            )
        yield layer, torch.as_tensor(here)


def _layer(layers: Sequence[Layer], number: int) -> Layer:
    if not 0 <= number < len(layers):
        raise ValueError(f"layer {number} was selected; the model has {len(layers)}")
    return layers[number]


def _whole_modules(model: nn.Module, anatomy: Anatomy, parts: Transplant) -> Iterator[nn.Module]:
    """Yield the modules all of whose own parameters are moved."""
    for number in parts.attention:
        yield from _layer(anatomy.layers, number).self_attention.modules()
    for number in parts.attention_output:
        yield _layer(anatomy.layers, number).out
    for number in parts.mlp:
        yield from _mlp(_layer(anatomy.layers, number))
    for number in parts.mlp_input:
        yield from _layer(anatomy.layers, number).keys
    for number in parts.mlp_output:
        yield _layer(anatomy.layers, number).down
    for number in parts.norms:
        layer = _layer(anatomy.layers, number)
        yield from _but(layer.block, [layer.self_attention, *_mlp(layer)])
    if parts.final_norm:
        yield from anatomy.final_norm.modules()
    if parts.embeddings:
        blocks = (layer.block for layer in anatomy.layers)
        yield from _but(model, [*blocks, anatomy.final_norm, anatomy.unembedding])
    if parts.unembedding:
        yield anatomy.unembedding


def _mlp(layer: Layer) -> list[nn.Module]:
    return [*layer.keys, layer.down]


def _but(whole: nn.Module, parts: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the modules of one that are in none of some others."""
    inside = {module for part in parts for module in part.modules()}
    yield from (module for module in whole.modules() if module not in inside)
