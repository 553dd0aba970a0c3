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
    gate and up in a gated one; a projection of several times as many outputs as there are neurons
    holds them one after the other. `attention` and `mlp` are the modules whose outputs are added
    to the residual stream: in a family that normalises an output before adding it, that norm.
    `mlp_bias` is the switch of the configuration that gives keys and down projection biases, if
    the family has one. `refused` holds settings of the configuration, each with a value under
    which the parts are not what the row says, and the reason.
    """

    blocks: str
    final_norm: str
    keys: tuple[str, ...]
    down: str
    attention: str
    mlp: str
    mlp_bias: str | None = None
    refused: tuple[tuple[str, object, str], ...] = ()


_NO_SUM = (
    "its blocks normalise the residual stream itself, which then is not the sum of what attention "
    "and MLPs add to it"
)
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

# The norms behind attention and MLP are what the residual stream gets. Value vectors are those of
# the down projection, before that norm, as in the paper.
_GEMMA = replace(_LLAMA, attention="post_attention_layernorm", mlp="post_feedforward_layernorm")
_FALCON = Family(
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    keys=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    attention="self_attention",
    mlp="mlp",
)

# `model_type` of the Hugging Face configuration -> where its parts are
FAMILIES: dict[str, Family] = {
    # both modules of Bloom add the residual stream to what they return, so their last
    # projections are what is added to it
    "bloom": replace(
        _FALCON,
        attention="self_attention.dense",
        mlp="mlp.dense_4h_to_h",
        refused=(
            ("apply_residual_connection_post_layernorm", True, _NO_SUM),
            (
                "slow_but_exact",
                True,
                "its MLP then multiplies with slices of the down projection's weight and not "
                "through the module, where interventions act; set it to false in config.json",
            ),
        ),
    ),
    "falcon": _FALCON,
    "gemma2": _GEMMA,
    "gemma3_text": replace(
        _GEMMA,
        refused=(
            (
                "use_bidirectional_attention",
                True,
                "its attention reads what comes later too, so it does not write text",
            ),
        ),
    ),
    "gpt2": _GPT2,
    "gpt_neox": Family(
        blocks="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        keys=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        attention="attention",
        mlp="mlp",
    ),
    "gptj": replace(_GPT2, keys=("mlp.fc_in",), down="mlp.fc_out"),
    "llama": replace(_LLAMA, mlp_bias="mlp_bias"),
    "mistral": _LLAMA,
    "opt": Family(
        blocks="model.decoder.layers",
        final_norm="model.decoder.final_layer_norm",
        keys=("fc1",),
        down="fc2",
        attention="self_attn",
        mlp="fc2",
        refused=(("do_layer_norm_before", False, _NO_SUM),),
    ),
    "phi3": replace(_LLAMA, keys=("mlp.gate_up_proj",)),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}

# `model_type` -> why its models cannot be studied, where there is something to be done about it
REFUSED = {
    "gemma3": """they read images too. Save the language model alone, beside the tokenizer, with
    whole = AutoModelForCausalLM.from_pretrained(folder)
    text = Gemma3ForCausalLM(whole.config.text_config)
    text.model, text.lm_head = whole.model.language_model, whole.lm_head
    text.generation_config = whole.generation_config
    text.save_pretrained(another_folder)""",
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
        """Return the neurons' vectors in each key projection, (d_mlp, d_model), as views.

        A projection that holds several, one after the other, gives as many.
        """
        weights = ((key, key.weight.detach()) for key in self.keys)
        rows = (weight.T if isinstance(key, Conv1D) else weight for key, weight in weights)
        return tuple(vectors for row in rows for vectors in row.split(self.n_neurons))

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
        layers.append(Layer(block, keys, down, attention, mlp))
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
        part = attrgetter(path)(root)
        if part is None:
            raise AttributeError("it is None")
    except AttributeError as error:
        raise ValueError(
            f"a model of type {model_type!r} was expected to have the part {path!r} in its "
            f"{type(root).__name__}, but {error}; correct its row of FAMILIES in lm/anatomy.py"
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


def _check_widths(layer: Layer, family: Family, model_type: str) -> None:
    for path, vectors in zip(family.keys, layer.keys, strict=True):
        outputs = vectors.weight.numel() // layer.value_vectors().shape[1]
        if outputs % layer.n_neurons:
            raise ValueError(
                f"{path!r} of a model of type {model_type!r} has {outputs} outputs, which is no "
                f"multiple of the {layer.n_neurons} neurons that {family.down!r} reads; correct "
                "its row of FAMILIES in lm/anatomy.py"
            )


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
