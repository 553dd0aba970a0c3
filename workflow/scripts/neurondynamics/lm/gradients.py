"""What moving each unit toward the other model would do to the divergence from it, to first order.

The other model has continued some prompts, and KL is read along these texts as in `fidelity`: the
mean over a text's new-token positions. Two first-order predictions of by how much it falls are
made. For a patch of a unit's activations it is -∇KL · Δm with the gradient at the model as it is
(attribution patching, Nanda 2023; arXiv 2310.10348). For a transplant of its weights it is
-∇KL · ΔW with the gradient averaged over the path from one model to the other (integrated
gradients, Sundararajan et al., arXiv 1703.01365).

No gradient of a whole model is held: as soon as a parameter has its own, it is summed to units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from neurondynamics.limits import LOGITS_OF_GRADIENTS
from neurondynamics.lm.anatomy import Anatomy, dissect
from neurondynamics.lm.hooks import Hook, head_sites, hooked, neuron_sites
from neurondynamics.lm.teacher_forcing import next_token_logits
from neurondynamics.lm.unit_weights import OfUnits, shares

Tokens = Sequence[Sequence[int]]  # of each text of a batch


@dataclass(frozen=True)
class Batch:
    """Prompts with their continuations, padded on the right, where no token sees it."""

    ids: torch.Tensor  # (batch, width)
    mask: torch.Tensor  # (batch, width)
    places: torch.Tensor  # (batch, width) the new-token positions
    rows: torch.Tensor  # (positions,) the text of each

    @classmethod
    def of(cls, prompts: Tokens, continuations: Tokens, device: torch.device) -> Batch:
        """Join each prompt with its continuation but the last token, which is an output alone."""
        pairs = list(zip(prompts, continuations, strict=True))
        texts = [torch.tensor([*prompt, *new[:-1]], dtype=torch.long) for prompt, new in pairs]
        ids = pad_sequence(texts, batch_first=True)
        lengths = torch.tensor([len(text) for text in texts])
        starts = torch.tensor([len(prompt) - 1 for prompt in prompts])
        columns = torch.arange(ids.shape[1])
        mask = columns < lengths[:, None]
        places = mask & (columns >= starts[:, None])
        return cls(*(x.to(device) for x in (ids, mask.long(), places, places.nonzero()[:, 0])))

    def read(self, model: PreTrainedModel) -> torch.Tensor:
        """Return a model's last hidden states at the new-token positions, (positions, d_model)."""
        positions = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        output = model.base_model(
            input_ids=self.ids, attention_mask=self.mask, position_ids=positions, use_cache=False
        )
        return output.last_hidden_state[self.places]

    def at_places(self, values: torch.Tensor) -> torch.Tensor:
        """Return what stands at the new-token positions, (positions, inputs), of what a projection
        reads."""
        return values.reshape(-1, values.shape[-1])[self.places.flatten()]

    def weights(self) -> torch.Tensor:
        """Return one over the number of positions of each position's text, (positions,) float64."""
        return (1 / self.places.sum(1).double())[self.rows]


def divergence(
    followed: PreTrainedModel,
    target: torch.Tensor,
    model: PreTrainedModel,
    hidden: torch.Tensor,
    batch: Batch,
) -> tuple[np.ndarray, torch.Tensor]:
    """Return KL(followed ‖ model) of each text in nats per token, (batch,) float64, and the
    gradient of their sum by the model's last hidden states, (positions, d_model).

    `target` and `hidden` are both models' last hidden states at the new-token positions.
    """
    weights, gradient = batch.weights(), torch.empty_like(hidden)
    kl = torch.zeros(len(batch.ids), dtype=torch.float64, device=hidden.device)
    step = max(1, LOGITS_OF_GRADIENTS // model.get_output_embeddings().weight.shape[0])
    for start in range(0, len(hidden), step):
        block = slice(start, start + step)
        with torch.no_grad():
            expected = next_token_logits(followed, target[block])
            expected = expected.to(_precise(expected)).log_softmax(-1)  # (block, vocabulary)
        with torch.enable_grad():
            states = hidden[block].detach().requires_grad_()
            found = next_token_logits(model, states)
            found = found.to(_precise(found)).log_softmax(-1)
            apart = (expected.exp() * (expected - found)).sum(-1)
            (apart * weights[block].to(apart.dtype)).sum().backward()
        gradient[block] = states.grad
        kl.index_add_(0, batch.rows[block], apart.detach().double() * weights[block])
    return kl.cpu().numpy(), gradient


def transplant_gradients(
    model: PreTrainedModel,
    start: Mapping[str, torch.Tensor],
    followed: PreTrainedModel,
    target: torch.Tensor,
    batch: Batch,
) -> OfUnits:
    """Return -∇KL · ΔW of every unit, summed over the texts of a batch, at a model between two.

    `start` are the weights, by their names, of the one that is moved, `followed` is the other one,
    ΔW what lies between them; `target` is the other's last hidden states.
    """
    found = OfUnits.zeros(dissect(model))
    end = dict(followed.named_parameters(remove_duplicate=False))

    def fold(name: str, parameter: nn.Parameter, some: list) -> None:
        moved = -parameter.grad * (end[name].detach() - start[name].detach().to(parameter))
        parameter.grad = None  # before the next parameter has its own
        for number, share in some:
            getattr(found, share.units)[number] += share.sums(moved).cpu()

    with _watched(model, fold), torch.enable_grad():
        hidden = batch.read(model)
        hidden.backward(divergence(followed, target, model, hidden, batch)[1])
    return found


@torch.no_grad()
def moved_toward(model: PreTrainedModel, followed: PreTrainedModel, part: float) -> PreTrainedModel:
    """Move all weights of a model, in place, a part of the way to those of the followed one."""
    end = dict(followed.named_parameters(remove_duplicate=False))
    for name, parameter in model.named_parameters():
        parameter.lerp_(end[name].to(parameter), part)
    return model


@contextmanager
def _watched(model: PreTrainedModel, fold: Callable[[str, nn.Parameter, list], None]):
    """Run the block while every parameter that units have a share of hands its gradient on."""
    held: dict[nn.Parameter, list] = {}
    for number, layer in enumerate(dissect(model).layers):
        for share in shares(layer):
            held.setdefault(share.parameter, []).append((number, share))
    names = {parameter: name for name, parameter in model.named_parameters()}
    handles = []
    try:
        for parameter, some in held.items():
            parameter.requires_grad_(True)

            def hand_on(parameter: nn.Parameter, some: list = some) -> None:
                fold(names[parameter], parameter, some)

            handles.append(parameter.register_post_accumulate_grad_hook(hand_on))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in held:
            parameter.requires_grad_(False)


def patch_gradients(
    model: PreTrainedModel, followed: PreTrainedModel, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return -∇KL · Δm of every neuron, (batch, layers, d_mlp), and head, (batch, layers, heads),
    on each text, in float64 on the CPU; Δm is what the other model's unit does more.

    Texts and positions are those of the batch; the gradient is at the model as it is.
    """
    heard: dict[int, torch.Tensor] = {}  # by site, (positions, inputs)
    found: dict[int, torch.Tensor] = {}

    def hear(site: int, values: torch.Tensor) -> None:
        heard[site] = batch.at_places(values)

    def watch(site: int, values: torch.Tensor) -> None:
        change = heard.pop(site) - batch.at_places(values.detach())

        def meet(gradient: torch.Tensor) -> None:
            moved = -(batch.at_places(gradient).double() * change)  # (positions, inputs)
            total = moved.new_zeros(len(batch.ids), moved.shape[1])
            found[site] = total.index_add_(0, batch.rows, moved).cpu()

        values.register_hook(meet)

    with torch.no_grad(), hooked(_at_sites(dissect(followed), hear)):
        target = batch.read(followed)
    # so that what the blocks read has a gradient, while no weight has
    start = Hook(model.get_input_embeddings(), "output", lambda read: read.requires_grad_())
    anatomy = dissect(model)
    with hooked([start, *_at_sites(anatomy, watch)]), torch.enable_grad():
        hidden = batch.read(model)
        hidden.backward(divergence(followed, target, model, hidden, batch)[1])
    layers, heads = len(anatomy.layers), anatomy.layers[0].heads
    neurons, inputs = (
        torch.stack([found[site] for site in range(first, first + layers)], 1)
        for first in (0, layers)
    )
    return neurons, inputs.unflatten(2, (heads, -1)).sum(3)


def _at_sites(anatomy: Anatomy, function: Callable[[int, torch.Tensor], None]) -> list[Hook]:
    """Return hooks that call a function with the number of each site, the neurons' first."""
    sites = [*neuron_sites(anatomy), *head_sites(anatomy)]

    def at(number: int) -> Callable[[torch.Tensor], None]:
        return lambda values: function(number, values)

    return [Hook(module, site, at(number)) for number, (module, site) in enumerate(sites)]


def _precise(values: torch.Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
