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


def load(folder) -> PreTrainedModel:
    """Load a model folder in float64, without fused attention."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    return model.eval().requires_grad_(False)


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """Return the blocks of a GPT-2 or of a model like Llama."""
    return list(model.transformer.h if hasattr(model, "transformer") else model.model.layers)


def down(block: nn.Module) -> nn.Module:
    """Return a block's down projection."""
    return block.mlp.c_proj if hasattr(block.mlp, "c_proj") else block.mlp.down_proj


def keys(block: nn.Module) -> list[nn.Module]:
    """Return what a block's nonlinearity reads."""
    gpt2 = hasattr(block.mlp, "c_fc")
    return [block.mlp.c_fc] if gpt2 else [block.mlp.gate_proj, block.mlp.up_proj]


def values(block: nn.Module) -> torch.Tensor:
    """Return a block's value vectors, (d_mlp, d_model): what each unit vector is sent to."""
    module = down(block)
    width = module.weight.shape[0] if hasattr(module, "nf") else module.in_features
    dtype = module.weight.dtype
    zero = module(torch.zeros(1, 1, width, dtype=dtype))
    return (module(torch.eye(width, dtype=dtype)[None]) - zero)[0]


@contextmanager
def changed(changes: Sequence[Change], start: int = 0):
    """Run with changes at the positions from `start` on, in their order."""
    with ExitStack() as stack:
        for module, site, function in changes:

            def before(_, inputs, function=function):
                head, tail = inputs[0][:, :start], inputs[0][:, start:]
                return (torch.cat([head, function(tail)], 1), *inputs[1:])

            def after(_, __, output, function=function):
                return torch.cat([output[:, :start], function(output[:, start:])], 1)

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
    with ExitStack() as stack:
        for index, module in enumerate(modules):

            def before(_, inputs, index=index):
                heard[index] = inputs[0]

            def after(_, __, output, index=index):
                heard[index] = output[0] if isinstance(output, tuple) else output

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
