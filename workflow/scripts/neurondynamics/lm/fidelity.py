"""How far a model is from another along given texts: divergence, agreement, log-probabilities.

All of them are worked out from last hidden states, in blocks of positions and of the vocabulary:
the memory that a block takes is bounded, whatever the number of both. Within a block they are in
float32, as logits are; over blocks they are summed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from neurondynamics.limits import LOGIT_BYTES
from neurondynamics.lm.generation import NonFiniteError
from neurondynamics.lm.teacher_forcing import new_positions, next_token_logits

TOKENS = 4096  # of the vocabulary at once
ARRAYS = 6  # in float32 that are held at the same time


@dataclass(frozen=True)
class Divergence:
    """How far a model is from the followed one on each text of a batch.

    `kl` (batch,) is KL(followed ‖ model) of the next token in nats, `agreement` (batch,) the share
    of positions at which both have the same most likely token: means over a text's new-token
    positions, in float64.
    """

    kl: np.ndarray
    agreement: np.ndarray


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
    mask = new_positions(continuations).to(target.device)
    target = target[mask]  # (positions, d_model)
    hidden = [reading[mask] for reading in readings.values()]
    kl = target.new_empty(len(hidden), len(target), dtype=torch.float64)
    agreement = torch.empty_like(kl)
    for block in _blocks(len(target)):
        first = _Prediction(target[block])
        for tokens, logits in _logits(followed, target[block]):
            first.add(tokens, logits)
        others = [_Prediction(states[block]) for states in hidden]
        gaps = torch.zeros_like(kl[:, block])  # Σ p (logits of the followed - those of the other)
        for tokens, logits in _logits(followed, target[block]):
            p = (logits - first.log_sum[:, None].float()).exp_()  # (block, tokens)
            for states, other, gap in zip(hidden, others, gaps, strict=True):
                its_own = next_token_logits(model, states[block], tokens).float()
                other.add(tokens, its_own)
                gap += torch.sub(logits, its_own, out=its_own).mul_(p).sum(-1, dtype=gap.dtype)
        for number, other in enumerate(others):
            kl[number, block] = gaps[number] + (other.log_sum - first.log_sum)
            agreement[number, block] = (other.best == first.best).double()
    numbers = np.array([len(tokens) for tokens in continuations])
    found = {}
    for name, *values in zip(readings, kl, agreement, strict=True):
        _check_finite(values[0], mask, f"{name}: log-probabilities")
        found[name] = Divergence(*(_sums(of_positions, mask) / numbers for of_positions in values))
    return found


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel, hidden: torch.Tensor, continuations: Sequence[Sequence[int]]
) -> np.ndarray:
    """Return the log-probability of each continuation, the sum over its tokens, (batch,) float64.

    `hidden` are the last hidden states at its new-token positions, (batch, T, d_model), as
    `read_new` returns them. Raises NonFiniteError where that is not finite.
    """
    mask = new_positions(continuations).to(hidden.device)
    hidden = hidden[mask]  # (positions, d_model)
    given = torch.tensor([token for new in continuations for token in new]).to(mask.device)
    found = hidden.new_empty(len(hidden), dtype=torch.float64)
    for block in _blocks(len(hidden)):
        whole, own = _Prediction(hidden[block]), torch.zeros_like(found[block])
        for tokens, logits in _logits(model, hidden[block]):
            whole.add(tokens, logits)
            place, last = given[block] - tokens.start, logits.shape[1] - 1
            of_place = logits.gather(-1, place.clamp(0, last)[:, None]).squeeze(-1)
            own = torch.where((place >= 0) & (place <= last), of_place.double(), own)
        found[block] = own - whole.log_sum
    _check_finite(found, mask, "log-probabilities")
    return _sums(found, mask)


class _Prediction:
    """What a model predicts at the positions of a block, gathered over the vocabulary."""

    def __init__(self, hidden: torch.Tensor):
        # of the logits, (block,): the logarithm of the sum of exponentials, and the largest
        self.log_sum = hidden.new_full((len(hidden),), -torch.inf, dtype=torch.float64)
        self._largest = self.log_sum
        self.best = torch.zeros_like(self.log_sum, dtype=torch.long)  # the first token that has it

    def add(self, tokens: slice, logits: torch.Tensor) -> None:
        """Take in the logits of some tokens, (block, tokens)."""
        largest, place = logits.max(-1)
        self.best = torch.where(largest > self._largest, tokens.start + place, self.best)
        self._largest = torch.maximum(largest, self._largest)
        self.log_sum = torch.logaddexp(self.log_sum, logits.logsumexp(-1).double())


def _blocks(positions: int) -> Iterator[slice]:
    step = max(1, LOGIT_BYTES // (ARRAYS * 4 * TOKENS))
    return (slice(start, start + step) for start in range(0, positions, step))


def _logits(model: PreTrainedModel, hidden: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield tokens of the vocabulary and their logits, (block, tokens), in float32."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    for start in range(0, vocabulary, TOKENS):
        tokens = slice(start, start + TOKENS)
        yield tokens, next_token_logits(model, hidden, tokens).float()


def _check_finite(values: torch.Tensor, mask: torch.Tensor, what: str) -> None:
    bad = torch.zeros_like(mask)
    bad[mask] = ~values.isfinite()
    if bad.any():
        raise NonFiniteError(bad.any(1).nonzero().flatten().tolist(), what)


def _sums(values: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    by_text = values.new_zeros(mask.shape)  # (batch, T)
    by_text[mask] = values
    return by_text.sum(1).cpu().numpy()
