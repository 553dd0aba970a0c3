"""Where each model family keeps its parts. The only module that knows a family.

A neuron's activation is the input of the down projection; its value vector is its row of that
projection, its key vectors are what produces it. To add a family, add a row to `FAMILIES`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Family:
    """Module paths of one family: `blocks` and `final_norm` from the model, the rest from a block.

    `keys` are the projections whose outputs the neuron's nonlinearity reads: one in a plain MLP,
    gate and up in a gated one. `attention` and `mlp` are the modules whose outputs are added to
    the residual stream: in a family that normalises an output before adding it, that norm.
    `mlp_bias` is the switch of the configuration that gives keys and down projection biases, if
    the family has one.
    """

    blocks: str
    final_norm: str
    keys: tuple[str, ...]
    down: str
    attention: str
    mlp: str
    mlp_bias: str | None = None


_GPT2 = Family(
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    keys=("mlp.c_fc",),
    down="mlp.c_proj",
    attention="attn",
    mlp="mlp",
)
_LLAMA = Family(
    blocks="model.layers",
    final_norm="model.norm",
    keys=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    attention="self_attn",
    mlp="mlp",
)

# `model_type` of the Hugging Face configuration -> where its parts are
FAMILIES: dict[str, Family] = {
    "gpt2": _GPT2,
    "llama": replace(_LLAMA, mlp_bias="mlp_bias"),
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
}


@dataclass(frozen=True)
class Layer:
    """The parts of one block that recorders and interventions hook."""

    block: nn.Module
    keys: tuple[nn.Module, ...]
    down: nn.Module
    attention: nn.Module
    mlp: nn.Module

    def value_vectors(self) -> torch.Tensor:
        """Return the neurons' value vectors, (d_mlp, d_model), a view on the weight."""
        weight = self.down.weight.detach()
        return weight if isinstance(self.down, Conv1D) else weight.T

    def key_vectors(self) -> tuple[torch.Tensor, ...]:
        """Return the neurons' vectors in each key projection, (d_mlp, d_model), as views."""
        weights = ((key, key.weight.detach()) for key in self.keys)
        return tuple(weight.T if isinstance(key, Conv1D) else weight for key, weight in weights)

    def bias(self) -> torch.Tensor:
        """Return what the down projection adds beside its neurons, (d_model,), or zeros."""
        if self.down.bias is None:
            return torch.zeros_like(self.value_vectors()[0])
        return self.down.bias.detach()

    @property
    def n_neurons(self) -> int:
        """d_mlp of this layer."""
        return self.value_vectors().shape[0]


@dataclass(frozen=True)
class Anatomy:
    """The located parts of one loaded model."""

    layers: tuple[Layer, ...]
    final_norm: nn.Module
    unembedding: nn.Module


def dissect(model: nn.Module) -> Anatomy:
    """Locate the parts of a Hugging Face causal language model.

    Raises ValueError if the family is unknown, or if a part is not where the table says or has
    not the expected form; the message names the part and how to add the family.
    """
    model_type = model.config.model_type
    if model_type not in FAMILIES:
        raise ValueError(_unknown_family(model_type))
    family = FAMILIES[model_type]
    blocks = _part(model, family.blocks, model_type)
    layers = []
    for block in blocks:
        keys = tuple(_projection(block, path, model_type) for path in family.keys)
        down = _projection(block, family.down, model_type)
        attention = _part(block, family.attention, model_type)
        mlp = _part(block, family.mlp, model_type)
        layers.append(Layer(block, keys, down, attention, mlp))
    norm = _part(model, family.final_norm, model_type)
    return Anatomy(tuple(layers), norm, model.get_output_embeddings())


def add_mlp_biases(model: nn.Module) -> None:
    """Give the MLPs of a model biases of zero where they have none; nothing it computes changes.

    The configuration says so too, so that a saved folder loads. Raises ValueError if the family's
    down projections have no biases and its configuration cannot give them any.
    """
    layers = dissect(model).layers
    if all(layer.down.bias is not None for layer in layers):
        return
    model_type = model.config.model_type
    family = FAMILIES[model_type]
    if family.mlp_bias is None:
        raise ValueError(
            f"the down projection {family.down!r} of a model of type {model_type!r} has no bias, "
            "and its configuration has no switch that gives it one"
        )
    setattr(model.config, family.mlp_bias, True)
    for module in (module for layer in layers for module in (*layer.keys, layer.down)):
        if module.bias is None:
            module.bias = nn.Parameter(module.weight.new_zeros(module.out_features), False)


def _part(root: nn.Module, path: str, model_type: str) -> nn.Module:
    try:
        return attrgetter(path)(root)
    except AttributeError as error:
        raise ValueError(
            f"a model of type {model_type!r} was expected to have the part {path!r} in its "
            f"{type(root).__name__}, but {error}; correct its row of FAMILIES in lm/anatomy.py"
        ) from error


def _projection(block: nn.Module, path: str, model_type: str) -> nn.Module:
    module = _part(block, path, model_type)
    if not isinstance(module, nn.Linear | Conv1D):
        raise ValueError(
            f"{path!r} of a model of type {model_type!r} is a {type(module).__name__}; only "
            "torch.nn.Linear and the Conv1D of transformers store vectors that can be read"
        )
    return module


def _unknown_family(model_type: str) -> str:
    looked_for = sorted(
        {
            f"{family.blocks} (blocks), {family.down} (down projection), "
            f"{' and '.join(family.keys)} (keys), {family.attention} (attention), "
            f"{family.mlp} (mlp), {family.final_norm} (final norm)"
            for family in FAMILIES.values()
        }
    )
    return (
        f"models of type {model_type!r} are not known; known are {', '.join(sorted(FAMILIES))}. "
        f"The parts looked for are: {'; or '.join(looked_for)}. To add the family, add a row "
        f"{model_type!r}: Family(blocks, final_norm, keys, down, attention, mlp) to FAMILIES in "
        "lm/anatomy.py"
    )
