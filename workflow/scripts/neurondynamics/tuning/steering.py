"""Writing toward a class: PPLM, guided by a direction of the residual stream.

Plug and Play Language Models (Dathathri et al., arXiv 1912.02164) move the keys and values of what
was read, before each new token, so that a classifier of the text expects the class. The rows of a
batch do not touch each other: a row is written as it would be alone, but for rounding, which steps
of a fixed length make larger from one to the next where they are too long for a model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import softplus
from transformers import DynamicCache, PreTrainedModel

from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.generation import (
    PADDING,
    Continuations,
    check_finite,
    end_tokens,
    inverse_cdf,
    pad_left,
    positions_of,
)
from neurondynamics.lm.hooks import Hook, hooked

SMALL = 1e-15  # added to norms, which are zero where nothing was read yet


@dataclass(frozen=True)
class Guide:
    """A classifier of texts: sigmoid(x·w + b) is the probability of the class.

    x is the mean of the residual stream after block `layer` over a text's tokens, without those
    that are `ignored`, which begin texts.
    """

    layer: int
    vector: np.ndarray  # w, (d_model,)
    intercept: float  # b
    ignored: tuple[int, ...] = ()


@dataclass(frozen=True)
class Strength:
    """How far PPLM goes.

    step_size    length of a step, of the keys and values of a layer together
    iterations   steps before each token
    gamma        a gradient is divided by its norm to this power
    horizon      tokens that the classifier reads beyond the newest one, each as the mean of the
                 embeddings that the model expects there
    kl_scale     weight of the divergence from what the unmoved model expects
    gm_scale     weight of the moved model in the geometric mean of both that is drawn from
    temperature  divides the moved model's logits
    top_k        only the most probable tokens are drawn
    """

    step_size: float
    iterations: int
    gamma: float
    horizon: int
    kl_scale: float
    gm_scale: float
    temperature: float
    top_k: int


def steer(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    uniforms: np.ndarray,
    guide: Guide,
    strength: Strength,
) -> Continuations:
    """Continue prompts, which are token lists, steered toward the guide's class.

    Token t is drawn by uniforms[:, t], (batch, T) in [0, 1); a text ends after a token that ends
    texts. Raises NonFiniteError if logits are not finite.
    """
    return _Writer(model, guide, strength).write(prompts, uniforms)


def class_probabilities(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], guide: Guide
) -> np.ndarray:
    """Return the guide's probability of the class for each text, a token list: (texts,)."""
    classifier = _Classifier(model, guide)
    ids, mask = pad_left(texts, model.device)
    with torch.no_grad(), hooked([classifier.hook]):
        model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=False
        )
    return classifier.scores(*classifier.total(ids, mask)).sigmoid().cpu().double().numpy()


class _Classifier:
    """The guide, which listens to a model's residual stream."""

    def __init__(self, model: PreTrainedModel, guide: Guide):
        self.residual: torch.Tensor | None = None  # of the latest pass, (batch, tokens, d_model)
        self.hook = Hook(dissect(model).layers[guide.layer].block, "output", self._keep)
        self._vector = torch.as_tensor(guide.vector, dtype=torch.float32, device=model.device)
        self._intercept = guide.intercept
        self._ignored = torch.tensor(guide.ignored, device=model.device)

    def _keep(self, residual: torch.Tensor) -> None:
        self.residual = residual

    def total(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latest pass's sum over the tokens that count, (batch, d_model), and their
        number, (batch,)."""
        counts = (mask == 1) & ~torch.isin(ids, self._ignored)  # (batch, tokens)
        return torch.where(counts[:, :, None], self.residual.float(), 0.0).sum(1), counts.sum(1)

    def newest(self) -> torch.Tensor:
        """Return what the latest pass's last token gave, (batch, d_model)."""
        return self.residual[:, -1].float()

    def scores(self, total: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """Return x·w + b, (batch,), where x is the mean of so many tokens with this sum."""
        return (total / number[:, None]) @ self._vector + self._intercept


class _Writer:
    """Writes a batch; a mask has the columns of all that was read, with the newest token."""

    def __init__(self, model: PreTrainedModel, guide: Guide, strength: Strength):
        self._model = model
        self._strength = strength
        self._classifier = _Classifier(model, guide)
        embedding = model.get_input_embeddings()
        # through the module, which may scale what it stores
        every = torch.arange(embedding.num_embeddings, device=model.device)
        self._embeddings = embedding(every).detach()  # (vocabulary, d_model)

    @torch.no_grad()
    def write(self, prompts: Sequence[Sequence[int]], uniforms: np.ndarray) -> Continuations:
        ids, mask = pad_left(prompts, self._model.device)
        last = ids[:, -1:]
        ends = torch.tensor(end_tokens(self._model), device=ids.device)
        tokens = torch.full(uniforms.shape, PADDING, device=ids.device)
        alive = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        with hooked([self._classifier.hook]):
            clean = self._prefill(ids[:, :-1], mask[:, :-1])
            total, number = self._classifier.total(ids[:, :-1], mask[:, :-1])
            moved = _shifted(clean)
            for step in range(uniforms.shape[1]):
                plain = self._read(clean, mask, input_ids=last)  # (batch, vocabulary)
                newest = self._classifier.newest()
                moved = self._move(moved, clean, mask, last, plain, (total, number))
                total, number = total + newest, number + 1
                logits = self._read(moved, mask, input_ids=last)
                check_finite(logits, alive)
                chosen = self._draw(logits, plain, uniforms[:, step])  # (batch,)
                tokens[:, step] = torch.where(alive, chosen, PADDING)
                alive = alive & ~torch.isin(chosen, ends)
                if not alive.any():
                    break
                last = chosen[:, None]
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        rows = tokens.cpu().numpy().astype(np.int32)
        return Continuations(rows, (rows != PADDING).sum(1).astype(np.int32))

    def _prefill(self, ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache:
        """Read the prompts without their last tokens."""
        cache = DynamicCache(config=self._model.config)
        if not ids.shape[1]:
            self._classifier.residual = self._embeddings.new_zeros(*ids.shape, 1)
            return cache
        self._model.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions_of(mask),
            past_key_values=cache,
            use_cache=True,
        )
        return cache

    def _read(self, cache: DynamicCache, mask: torch.Tensor, **token) -> torch.Tensor:
        """Read one token more into a cache and return the logits, (batch, vocabulary)."""
        positions = mask.sum(1, keepdim=True) - 1
        return self._model(
            **token,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]

    def _move(self, past, clean, mask, last, plain, before) -> DynamicCache:
        """Return the past with keys and values moved toward the class.

        `clean` is the unmoved cache and holds the newest token too; `before` are the sum of the
        unmoved residuals and their number, without it.
        """
        if mask.shape[1] == 1:
            return past  # nothing was read before the only token
        strength = self._strength
        expected = plain.float().log_softmax(-1)  # (batch, vocabulary)
        offsets = [
            torch.zeros_like(states, dtype=torch.float32)
            for layer in past.layers
            for states in (layer.keys, layer.values)
        ]
        for _ in range(strength.iterations):
            with torch.enable_grad():
                leaves = [offset.requires_grad_() for offset in offsets]
                loss = self._loss(_shifted(past, leaves), clean, mask, last, expected, before)
                gradients = torch.autograd.grad(loss, leaves)
            offsets = []
            for pair in zip(
                leaves[::2], leaves[1::2], gradients[::2], gradients[1::2], strict=True
            ):
                offsets += self._step(*pair, mask[:, :-1])
        return _shifted(past, offsets)

    def _step(self, keys, values, of_keys, of_values, mask) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's offsets one step down their gradients."""
        read = mask[:, None, -keys.shape[-2] :, None] == 1  # a sliding window forgets the others
        of_keys, of_values = (torch.where(read, slope, 0.0) for slope in (of_keys, of_values))
        squares = of_keys.square().sum((1, 2, 3)) + of_values.square().sum((1, 2, 3))  # (batch,)
        lengths = (squares.sqrt() + SMALL) ** self._strength.gamma
        factor = (self._strength.step_size / lengths)[:, None, None, None]
        return keys.detach() - factor * of_keys, values.detach() - factor * of_values

    def _loss(self, moved, clean, mask, last, expected, before) -> torch.Tensor:
        """Return the sum over rows of -log p(class) and of the weighted divergence."""
        found = self._read(moved, mask, input_ids=last).float().log_softmax(-1)
        divergence = (found.exp() * (found - expected)).sum(-1)  # (batch,)
        total, number = before
        total = total + self._classifier.newest().detach()
        ahead, probabilities = _shifted(clean), found.exp()
        for _ in range(self._strength.horizon):
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            mixture = probabilities.to(self._embeddings.dtype) @ self._embeddings
            logits = self._read(ahead, mask, inputs_embeds=mixture[:, None])
            total = total + self._classifier.newest()
            probabilities = logits.float().softmax(-1)
        scores = self._classifier.scores(total, number + 1 + self._strength.horizon)
        return (softplus(-scores) + self._strength.kl_scale * divergence).sum()

    def _draw(self, moved: torch.Tensor, plain: torch.Tensor, uniforms: np.ndarray):
        """Draw from the geometric mean of what the moved and the unmoved model expect."""
        strength = self._strength
        fused = strength.gm_scale * (moved.float() / strength.temperature).log_softmax(-1)
        fused = fused + (1 - strength.gm_scale) * plain.float().log_softmax(-1)
        best = fused.topk(min(strength.top_k, fused.shape[-1]))
        kept = torch.full_like(fused, -torch.inf).scatter(-1, best.indices, best.values)
        return inverse_cdf(kept, uniforms)


def _shifted(cache: DynamicCache, offsets: Sequence[torch.Tensor] = ()) -> DynamicCache:
    """Return a cache that grows on its own, with offsets added to each layer's keys and values.

    The offsets are float32, whatever the precision of the cache.
    """
    shifted = copy.copy(cache)
    shifted.layers = [copy.copy(layer) for layer in cache.layers]
    for layer, keys, values in zip(shifted.layers, offsets[::2], offsets[1::2], strict=False):
        layer.keys = (layer.keys + keys).to(layer.keys.dtype)
        layer.values = (layer.values + values).to(layer.values.dtype)
    return shifted
