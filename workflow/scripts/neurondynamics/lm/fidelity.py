"""How far a model is from another along given texts: divergence, agreement, log-probabilities.

All of them are worked out from last hidden states in one go over the vocabulary, in blocks of it
and of positions: the memory that a block takes is bounded, whatever the number of both. Within a
block they are in float32, as logits are; over blocks they are put together in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from neurondynamics.limits import LOGIT_BYTES
from neurondynamics.lm.generation import NonFiniteError, prefill
from neurondynamics.lm.teacher_forcing import new_positions, next_token_logits, read_new

TOKENS = 2048  # of the vocabulary at once


@dataclass(frozen=True)
class Divergence:
    """How far a model is from the followed one on each text of a batch.

    `kl` (batch,) is KL(followed ‖ model) of the next token in nats, `agreement` (batch,) the share
    of positions at which the followed model's most likely token is the model's too: means over a
    text's new-token positions. `log_probability` (batch,) is the model's of the continuation, the
    sum over its tokens. All are in float64.
    """

    kl: np.ndarray
    agreement: np.ndarray
    log_probability: np.ndarray


@torch.inference_mode()
def divergences(
    followed: PreTrainedModel,
    target: torch.Tensor,
    model: PreTrainedModel,
    readings: Mapping[str, torch.Tensor],
    continuations: Sequence[Sequence[int]],
) -> dict[str, Divergence]:
    """Compare readings of a model, by their names, with the followed model's of the same texts.

    `target` and each reading are last hidden states at the new-token positions of continuations,
    (batch, T, d_model), as `read_new` returns them. Where they are the same bits, and the models'
    unembeddings too, `kl` is exactly 0. Raises NonFiniteError, with the name, where a
    log-probability is not finite.
    """
    mask, given = _given(continuations, target.device)
    target = target[mask]  # (positions, d_model)
    hidden = [reading[mask] for reading in readings.values()]
    compared = [
        _Comparison(
            _Reading(followed, target[block], given[block]),
            [_Reading(model, states[block], given[block]) for states in hidden],
        )
        for block in _blocks(len(target))
    ]
    for tokens in _vocabulary(followed):
        for block in compared:
            block.add(tokens)
    numbers = np.array([len(tokens) for tokens in continuations])
    found = {}
    for number, name in enumerate(readings):
        parts = [block.of(number) for block in compared]
        kl, same, given_ones = (torch.cat(part) for part in zip(*parts, strict=True))
        _check_finite(kl + given_ones, mask, f"{name}: log-probabilities")
        means = (_sums(values, mask) / numbers for values in (kl, same))
        found[name] = Divergence(*means, _sums(given_ones, mask))
    return found


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel, hidden: torch.Tensor, continuations: Sequence[Sequence[int]]
) -> np.ndarray:
    """Return the log-probability of each continuation, the sum over its tokens, (batch,) float64.

    `hidden` are the last hidden states at its new-token positions, (batch, T, d_model), as
    `read_new` returns them. Raises NonFiniteError where that is not finite.
    """
    mask, given = _given(continuations, hidden.device)
    hidden = hidden[mask]  # (positions, d_model)
    blocks = [_Reading(model, hidden[block], given[block]) for block in _blocks(len(hidden))]
    for tokens in _vocabulary(model):
        for block in blocks:
            block.add(tokens)
    found = torch.cat([block.log_probability for block in blocks])
    _check_finite(found, mask, "log-probabilities")
    return _sums(found, mask)


@torch.inference_mode()
def rounding(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
) -> np.ndarray:
    """Return KL, (batch,), of a model from itself where it reads the same texts in another batch
    size, in two halves or its one text beside itself: what rounding alone makes of `kl`."""

    def read(some: Sequence[Sequence[int]], new: Sequence[Sequence[int]]) -> torch.Tensor:
        return read_new(model, prefill(model, some), new)

    half = len(prompts) // 2
    if half:
        rows = [
            *read(prompts[:half], continuations[:half]),
            *read(prompts[half:], continuations[half:]),
        ]
    else:
        rows = read([*prompts, *prompts], [*continuations, *continuations])[:1]
    again = {"rounding": pad_sequence(list(rows), batch_first=True)}
    whole = read(prompts, continuations)
    return divergences(model, whole, model, again, continuations)["rounding"].kl


class _Logits(NamedTuple):
    """Logits of some tokens at a block of positions, and what was found beside them."""

    logits: torch.Tensor  # (block, tokens) float32
    p: torch.Tensor  # their softmax, of these tokens alone
    log_sum: torch.Tensor  # (block,) float64, of their exponentials
    largest: torch.Tensor  # (block,)
    leads: torch.Tensor  # (block,) whether it is larger than that of all tokens before


class _Reading:
    """What a model predicts at a block of positions, gathered over the vocabulary."""

    def __init__(self, model: PreTrainedModel, hidden: torch.Tensor, given: torch.Tensor):
        self._model, self._hidden, self._given = model, hidden, given
        # of the logits, (block,): the logarithm of the sum of exponentials, the largest, and that
        # of the token that is given
        self.log_sum = hidden.new_full((len(hidden),), -torch.inf, dtype=torch.float64)
        self._largest, self._own = self.log_sum, torch.zeros_like(self.log_sum)

    @property
    def log_probability(self) -> torch.Tensor:
        """Of the tokens that are given, (block,)."""
        return self._own - self.log_sum

    def add(self, tokens: slice) -> _Logits:
        """Take in some tokens."""
        logits = next_token_logits(self._model, self._hidden, tokens).float()
        p, largest = logits.softmax(-1), logits.amax(-1)
        # the largest of them is exp(0) / the sum of exp(logit - the largest one)
        log_sum = largest.double() - p.amax(-1).double().log()
        place, last = self._given - tokens.start, logits.shape[1] - 1
        of_place = logits.gather(-1, place.clamp(0, last)[:, None]).squeeze(-1)
        self._own = torch.where((place >= 0) & (place <= last), of_place.double(), self._own)
        leads = largest > self._largest
        self._largest = torch.maximum(largest, self._largest)
        self.log_sum = torch.logaddexp(self.log_sum, log_sum)
        return _Logits(logits, p, log_sum, largest, leads)


class _Comparison:
    """Readings of a block of positions beside the followed model's, gathered over the vocabulary.

    With a and b for the followed model's logits and another's, KL is E(a - b), the mean under the
    followed model's p, and the difference of both logarithms of sums.
    """

    def __init__(self, target: _Reading, readings: Sequence[_Reading]):
        self._target, self._readings = target, readings
        self._gaps = [torch.zeros_like(target.log_sum) for _ in readings]  # E(a - b)
        self._same = [torch.ones_like(gap, dtype=torch.bool) for gap in self._gaps]

    def add(self, tokens: slice) -> None:
        """Take in some tokens."""
        before = self._target.log_sum
        ours = self._target.add(tokens)
        kept = (before - self._target.log_sum).exp()  # of p, what all tokens before have
        share = (ours.log_sum - self._target.log_sum).exp()
        best = ours.logits.argmax(-1, keepdim=True)
        for number, reading in enumerate(self._readings):
            its = reading.add(tokens)
            same = its.logits.gather(-1, best).squeeze(-1) == its.largest
            # the most likely tokens so far are the same if both are new and so are, or neither is
            same = torch.where(ours.leads, same, self._same[number])
            self._same[number] = same & (ours.leads == its.leads)
            gap = torch.linalg.vecdot(ours.p, torch.sub(ours.logits, its.logits, out=its.logits))
            self._gaps[number] = kept * self._gaps[number] + share * gap.double()

    def of(self, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return a reading's KL, agreement and log-probability, each (block,) in float64."""
        reading = self._readings[number]
        kl = self._gaps[number] + (reading.log_sum - self._target.log_sum)
        return kl, self._same[number].double(), reading.log_probability


def _given(
    continuations: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which positions there are, (batch, T), and the tokens behind them, (positions,)."""
    tokens = torch.tensor([token for new in continuations for token in new], dtype=torch.long)
    return new_positions(continuations).to(device), tokens.to(device)


def _blocks(positions: int) -> Iterator[slice]:
    step = max(1, LOGIT_BYTES // (4 * TOKENS))
    return (slice(start, start + step) for start in range(0, positions, step))


def _vocabulary(model: PreTrainedModel) -> Iterator[slice]:
    size = model.get_output_embeddings().weight.shape[0]
    return (slice(start, start + TOKENS) for start in range(0, size, TOKENS))


def _check_finite(values: torch.Tensor, mask: torch.Tensor, what: str) -> None:
    bad = torch.zeros_like(mask)
    bad[mask] = ~values.isfinite()
    if bad.any():
        raise NonFiniteError(bad.any(1).nonzero().flatten().tolist(), what)


def _sums(values: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    by_text = values.new_zeros(mask.shape)  # (batch, T)
    by_text[mask] = values
    return by_text.sum(1).cpu().numpy()
