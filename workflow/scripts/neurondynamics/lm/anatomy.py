"""The parts of a loaded model, found where the row of its family says.

A neuron's activation is the input of the down projection; its value vector is its row of that
projection, its key vectors are what produces it. An attention head's activations are its block of
inputs of the output projection, and its output vectors their rows of that projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from neurondynamics.lm.families import FAMILIES, MODULES, REFUSED, Family

CORRECT = "correct its row of FAMILIES in lm/families.py"


class Outputs(NamedTuple):
    """The outputs of a projection that are the queries, keys or values of each head or group."""

    projection: nn.Module
    index: torch.Tensor  # (heads or groups, head_width)


class QKV(NamedTuple):
    """What attention reads the residual stream by."""

    queries: Outputs  # of the heads
    keys: Outputs  # of the groups of heads that share them
    values: Outputs


@dataclass(frozen=True)
class Layer:
    """The parts of one block that recorders and interventions hook.

    `attention` and `mlp` are what is added to the residual stream, `self_attention` the module
    that has all of attention's parameters.
    """

    block: nn.Module
    keys: tuple[nn.Module, ...]
    down: nn.Module
    attention: nn.Module
    mlp: nn.Module
    self_attention: nn.Module
    qkv: QKV
    out: nn.Module

    def projection(self, module: str) -> nn.Module:
        """Return the projection that the MLP's neurons or attention's heads write by."""
        return {"mlp": self.down, "attention": self.out}[module]

    def vectors(self, module: str) -> torch.Tensor:
        """Return what each input of that projection writes, (inputs, d_model), as a view."""
        projection = self.projection(module)
        return by_output(projection, projection.weight.detach()).T

    def value_vectors(self) -> torch.Tensor:
        """Return the neurons' value vectors, (d_mlp, d_model), a view on the weight."""
        return self.vectors("mlp")

    def output_vectors(self) -> torch.Tensor:
        """Return the heads' output vectors, (heads · head_width, d_model), a view on the weight."""
        return self.vectors("attention")

    def key_vectors(self) -> tuple[torch.Tensor, ...]:
        """Return the neurons' vectors in each key projection, (d_mlp, d_model), as views.

        A projection that holds several, one after the other, gives as many.
        """
        rows = (by_output(key, key.weight.detach()) for key in self.keys)
        return tuple(vectors for row in rows for vectors in row.split(self.n_neurons))

    def bias(self, module: str = "mlp") -> torch.Tensor:
        """Return what the projection adds beside what its inputs write, (d_model,), or zeros."""
        bias = self.projection(module).bias
        return torch.zeros_like(self.vectors(module)[0]) if bias is None else bias.detach()

    @property
    def n_neurons(self) -> int:
        """d_mlp of this layer."""
        return self.value_vectors().shape[0]

    @property
    def heads(self) -> int:
        """The number of attention heads, each with queries of its own."""
        return len(self.qkv.queries.index)

    @property
    def groups(self) -> int:
        """The number of groups of heads that share keys and values; at most that of heads."""
        return len(self.qkv.keys.index)

    @property
    def head_width(self) -> int:
        """The inputs of the output projection that belong to one head."""
        return self.qkv.queries.index.shape[1]


@dataclass(frozen=True)
class Anatomy:
    """The located parts of one loaded model."""

    layers: tuple[Layer, ...]
    final_norm: nn.Module
    unembedding: nn.Module


def dissect(model: nn.Module) -> Anatomy:
    """Locate the parts of a Hugging Face causal language model.

    Raises ValueError if the family is unknown, if a setting of the model's makes its parts other
    than the table says, or if a part is not where the table says or has not the expected form;
    the message names the setting or part, the reason, and how to add a family.
    """
    model_type = model.config.model_type
    if model_type in REFUSED:
        raise ValueError(f"models of type {model_type!r} cannot be studied: {REFUSED[model_type]}")
    if model_type not in FAMILIES:
        raise ValueError(_unknown_family(model_type))
    family = FAMILIES[model_type]
    for setting, value, reason in family.refused:
        if getattr(model.config, setting) == value:
            raise ValueError(
                f"a model of type {model_type!r} with {setting}: {value} cannot be studied: "
                f"{reason}"
            )
    blocks = _part(model, family.blocks, model_type)
    layers = []
    for block in blocks:
        keys = tuple(_projection(block, path, model_type) for path in family.keys)
        down = _projection(block, family.down, model_type)
        attention = _part(block, family.attention, model_type)
        mlp = _part(block, family.mlp, model_type)
        whole = _part(block, family.out.rpartition(".")[0], model_type)
        out = _projection(block, family.out, model_type)
        qkv = _qkv(block, out, model.config.num_attention_heads, family, model_type)
        layers.append(Layer(block, keys, down, attention, mlp, whole, qkv, out))
        _check_widths(layers[-1], family, model_type)
    norm = _part(model, family.final_norm, model_type)
    unembedding = model.get_output_embeddings()
    width, read = layers[0].value_vectors().shape[1], unembedding.weight.shape[1]
    if read != width:
        raise ValueError(
            f"the residual stream of this model of type {model_type!r} is {width} wide, but its "
            f"unembedding reads {read}: what lies between them cannot be studied"
        )
    return Anatomy(tuple(layers), norm, unembedding)


def by_output(projection: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight of the projection's kind as (outputs, inputs), a view."""
    return weight.T if isinstance(projection, Conv1D) else weight


def add_biases(model: nn.Module, module: str) -> None:
    """Give the MLPs or attentions of a model biases of zero where they have none; nothing that it
    computes changes.

    The configuration says so too, so that a saved folder loads. Raises ValueError if the family's
    projections have no biases and its configuration cannot give them any.
    """
    layers = dissect(model).layers
    if all(layer.projection(module).bias is not None for layer in layers):
        return
    model_type = model.config.model_type
    family = FAMILIES[model_type]
    paths = {"mlp": family.down, "attention": family.out}
    switches = {"mlp": family.mlp_bias, "attention": family.attention_bias}
    if switches[module] is None:
        raise ValueError(
            f"the projection {paths[module]!r} of a model of type {model_type!r} has no bias, and "
            "its configuration has no switch that gives it one"
        )
    setattr(model.config, switches[module], True)
    switched = [name for name in MODULES if switches[name] == switches[module]]
    for projection in (p for layer in layers for name in switched for p in _biased(layer, name)):
        if projection.bias is None:
            outputs = len(by_output(projection, projection.weight))
            projection.bias = nn.Parameter(projection.weight.new_zeros(outputs), False)


def _biased(layer: Layer, module: str) -> Iterator[nn.Module]:
    """Yield the projections to which one switch gives biases."""
    yield from layer.keys if module == "mlp" else (part.projection for part in layer.qkv)
    yield layer.projection(module)


def _part(root: nn.Module, path: str, model_type: str) -> nn.Module:
    try:
        part = attrgetter(path)(root)
        if part is None:
            raise AttributeError("it is None")
    except AttributeError as error:
        raise ValueError(
            f"a model of type {model_type!r} was expected to have the part {path!r} in its "
            f"{type(root).__name__}, but {error}; {CORRECT}"
        ) from error
    return part


def _projection(block: nn.Module, path: str, model_type: str) -> nn.Module:
    module = _part(block, path, model_type)
    if not isinstance(module, nn.Linear | Conv1D):
        raise ValueError(
            f"{path!r} of a model of type {model_type!r} is a {type(module).__name__}; only "
            "torch.nn.Linear and the Conv1D of transformers store vectors that can be read"
        )
    return module


def _qkv(block: nn.Module, out: nn.Module, heads: int, family: Family, model_type: str) -> QKV:
    """Find which outputs of which projections are the queries, keys and values of a block.

    How many key/value groups there are is worked out from the widths.
    """
    projections = [_projection(block, path, model_type) for path in family.qkv]
    outputs = [len(by_output(projection, projection.weight)) for projection in projections]
    inputs = by_output(out, out.weight).shape[1]
    width, rest = divmod(inputs, heads)
    shared = 0 if rest else (outputs[-1] - (heads * width if family.fused else 0)) // width
    groups = shared // 2 if family.fused else shared
    own = [(heads + 2 * groups) * width] if family.fused else [inputs, *[groups * width] * 2]
    if rest or groups < 1 or heads % groups or outputs != own:
        raise ValueError(
            f"the projections {', '.join(map(repr, family.qkv))} of a model of type "
            f"{model_type!r} have {', '.join(map(str, outputs))} outputs, which are not the "
            f"queries, keys and values of {heads} heads where {family.out!r} has {inputs} inputs; "
            f"{CORRECT}"
        )
    queries, keys, values = _layout(family.fused, heads, groups)
    modules = projections * 3 if family.fused else projections
    columns = torch.arange(width, device="cpu")
    found = zip(modules, (queries, keys, values), strict=True)
    return QKV(*(Outputs(module, slots[:, None] * width + columns) for module, slots in found))


def _layout(fused: str | None, heads: int, groups: int) -> tuple[torch.Tensor, ...]:
    """Return where queries, (heads,), keys and values, (groups,), begin in the outputs of their
    projection, in head widths."""
    head, group = torch.arange(heads, device="cpu"), torch.arange(groups, device="cpu")
    if fused is None:
        return head, group, group
    if fused == "sections":
        return head, heads + group, heads + groups + group
    each = heads // groups  # queries in a group, before its key and its value
    return head + 2 * (head // each), group * (each + 2) + each, group * (each + 2) + each + 1


def _check_widths(layer: Layer, family: Family, model_type: str) -> None:
    width = layer.value_vectors().shape[1]
    for path, vectors in zip(family.keys, layer.keys, strict=True):
        outputs = vectors.weight.numel() // width
        if outputs % layer.n_neurons:
            raise ValueError(
                f"{path!r} of a model of type {model_type!r} has {outputs} outputs, which is no "
                f"multiple of the {layer.n_neurons} neurons that {family.down!r} reads; {CORRECT}"
            )
    written = layer.output_vectors().shape[1]
    if written != width:
        raise ValueError(
            f"{family.out!r} of a model of type {model_type!r} writes {written} numbers, and "
            f"{family.down!r} {width}; {CORRECT}"
        )


def _unknown_family(model_type: str) -> str:
    looked_for = sorted(
        {
            f"{family.blocks} (blocks), {family.down} (down projection), "
            f"{' and '.join(family.keys)} (keys), {family.attention} (attention), "
            f"{family.mlp} (mlp), {family.out} (output projection), "
            f"{' and '.join(family.qkv)} (queries, keys, values), "
            f"{family.final_norm} (final norm)"
            for family in FAMILIES.values()
        }
    )
    return (
        f"models of type {model_type!r} are not known; known are {', '.join(sorted(FAMILIES))}. "
        f"The parts looked for are: {'; or '.join(looked_for)}. To add the family, add a row "
        f"{model_type!r}: Family(blocks, final_norm, keys, down, attention, mlp, out, qkv) to "
        "FAMILIES in lm/families.py"
    )
