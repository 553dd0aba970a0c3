"""Plain computations to compare with: one text at a time, no cache, no padding, own hooks.

Nothing of the project is imported here. Models are given in float64.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

# module, whether its input or its output, and what replaces it
Change = tuple[nn.Module, str, Callable[[torch.Tensor], torch.Tensor]]


def load(folder, attention: str = "eager") -> PreTrainedModel:
    """Load a model folder in float64, without fused attention."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation=attention
    )
    return model.eval().requires_grad_(False)


# What a kind of block calls its parts, written down from the source of transformers: the down
# projection, what the nonlinearity reads, what attention and the MLP add to the residual stream.
_GATED = ("mlp.down_proj", ("mlp.gate_proj", "mlp.up_proj"))
_FOUR = ("mlp.dense_4h_to_h", ("mlp.dense_h_to_4h",))
_BEHIND_NORMS = (*_GATED, "post_attention_layernorm", "post_feedforward_layernorm")
_PARTS = {
    "BloomBlock": (*_FOUR, "self_attention.dense", "mlp.dense_4h_to_h"),
    "FalconDecoderLayer": (*_FOUR, "self_attention", "mlp"),
    "GPT2Block": ("mlp.c_proj", ("mlp.c_fc",), "attn", "mlp"),
    "GPTJBlock": ("mlp.fc_out", ("mlp.fc_in",), "attn", "mlp"),
    "GPTNeoXLayer": (*_FOUR, "attention", "mlp"),
    "Gemma2DecoderLayer": _BEHIND_NORMS,
    "Gemma3DecoderLayer": _BEHIND_NORMS,
    "OPTDecoderLayer": ("fc2", ("fc1",), "self_attn", "fc2"),
    "Phi3DecoderLayer": ("mlp.down_proj", ("mlp.gate_up_proj",), "self_attn", "mlp"),
}
_LIKE_LLAMA = (*_GATED, "self_attn", "mlp")


def _part(block: nn.Module, index: int) -> nn.Module:
    return block.get_submodule(_PARTS.get(type(block).__name__, _LIKE_LLAMA)[index])


def _stack(model: PreTrainedModel) -> nn.Module:
    return getattr(model.base_model, "decoder", model.base_model)  # OPT's is in a decoder


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """Return the blocks of a model."""
    stack = _stack(model)
    return list(stack.h if hasattr(stack, "h") else stack.layers)


def final_norm(model: PreTrainedModel) -> nn.Module:
    """Return what normalises the residual stream before it is unembedded."""
    stack = _stack(model)
    names = ("ln_f", "norm", "final_layer_norm")
    return next(getattr(stack, name) for name in names if hasattr(stack, name))


def down(block: nn.Module) -> nn.Module:
    """Return a block's down projection."""
    return _part(block, 0)


def out(block: nn.Module) -> nn.Module:
    """Return a block's output projection of attention."""
    names = ("c_proj", "dense", "o_proj", "out_proj")
    inside = dict(block.named_modules())
    (found,) = (
        inside[f"{part}.{name}"]
        for part in ("attn", "attention", "self_attention", "self_attn")
        for name in names
        if f"{part}.{name}" in inside
    )
    return found


def keys(block: nn.Module) -> list[nn.Module]:
    """Return what a block's nonlinearity reads; gate and up may be one module's two halves."""
    names = _PARTS.get(type(block).__name__, _LIKE_LLAMA)[1]
    return [block.get_submodule(name) for name in names]


def attention(block: nn.Module) -> nn.Module:
    """Return the module whose output is what attention adds to the residual stream."""
    return _part(block, 2)


def mlp(block: nn.Module) -> nn.Module:
    """Return the module whose output is what the MLP adds to the residual stream."""
    return _part(block, 3)


def values(block: nn.Module) -> torch.Tensor:
    """Return a block's value vectors, (d_mlp, d_model)."""
    return vectors(down(block))


def vectors(module: nn.Module) -> torch.Tensor:
    """Return what a projection sends each unit vector to, (inputs, outputs)."""
    width = module.weight.shape[0] if hasattr(module, "nf") else module.in_features
    dtype = module.weight.dtype
    zero = module(torch.zeros(1, 1, width, dtype=dtype))
    return (module(torch.eye(width, dtype=dtype)[None]) - zero)[0]


@contextmanager
def changed(changes: Sequence[Change], start: int = 0):
    """Run with changes at the positions from `start` on, in their order.

    A change is given (1, tokens, width).
    """

    def replaced(tensor, function):
        whole = tensor if tensor.ndim == 3 else tensor[None]  # an OPT's MLP sees (tokens, width)
        return torch.cat([whole[:, :start], function(whole[:, start:])], 1).view(tensor.shape)

    with ExitStack() as stack:
        for module, site, function in changes:

            def before(_, inputs, function=function):
                return (replaced(inputs[0], function), *inputs[1:])

            def after(_, __, output, function=function):
                return replaced(output, function)

            if site == "input":
                handle = module.register_forward_pre_hook(before)
            else:
                handle = module.register_forward_hook(after)
            stack.callback(handle.remove)
        yield


@contextmanager
def listening(modules: Sequence[nn.Module], site: str):
    """Yield a list that holds, after a pass, what each module read or wrote."""
    heard: list[torch.Tensor | None] = [None] * len(modules)

    def listened(tensor):  # a copy: Falcon adds to what its MLP wrote in place
        return (tensor if tensor.ndim == 3 else tensor[None]).clone()  # (1, tokens, width)

    with ExitStack() as stack:
        for index, module in enumerate(modules):

            def before(_, inputs, index=index):
                heard[index] = listened(inputs[0])

            def after(_, __, output, index=index):
                heard[index] = listened(output[0] if isinstance(output, tuple) else output)

            if site == "input":
                handle = module.register_forward_pre_hook(before)
            else:
                handle = module.register_forward_hook(after)
            stack.callback(handle.remove)
        yield heard


def logits(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """Return the logits of one text, (tokens, vocabulary)."""
    return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def generate(
    model: PreTrainedModel,
    prompt: Sequence[int],
    new_tokens: int,
    ends: Sequence[int] = (),
    changes: Sequence[Change] = (),
) -> list[int]:
    """Continue one prompt greedily, reading the whole text anew for every token.

    `changes` act from the last prompt token on.
    """
    ids = list(prompt)
    for _ in range(new_tokens):
        with changed(changes, start=len(prompt) - 1):
            ids.append(int(logits(model, ids)[-1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def read(
    model: PreTrainedModel,
    prompt: Sequence[int],
    new: Sequence[int],
    modules: Sequence[nn.Module],
    site: str = "input",
    changes: Sequence[Change] = (),
) -> torch.Tensor:
    """Return what modules read or write at the new-token positions, (modules, T, width)."""
    start = len(prompt) - 1
    with changed(changes, start), listening(modules, site) as heard:
        logits(model, [*prompt, *new[:-1]])
    return torch.stack([tensor[0, start:] for tensor in heard])


def log_probability(model: PreTrainedModel, prompt: Sequence[int], new: Sequence[int]) -> float:
    """Return the log-probability of a continuation, token by token."""
    total = 0.0
    for position, token in enumerate(new):
        following = logits(model, [*prompt, *new[:position]])[-1].log_softmax(-1)
        total += float(following[token])
    return total
