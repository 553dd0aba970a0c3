"""How far a model is from another along given texts: divergence, agreement, log-probabilities.

All of them are worked out from hidden states, in float64 and in blocks of positions, so that
no more memory is taken for many positions, or for a large vocabulary.
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

ARRAYS = 5  # in float64 that a block holds at the same time


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
    readings = {name: hidden[mask] for name, hidden in readings.items()}
    kl = target.new_empty(len(readings), len(target), dtype=torch.float64)
    agree = torch.empty_like(kl)
    for block in _blocks(len(target), followed):
        logits = next_token_logits(followed, target[block])  # (block, vocabulary)
        best, log_p = logits.argmax(-1), logits.log_softmax(-1, dtype=torch.float64)
        p = log_p.exp()
        for number, hidden in enumerate(readings.values()):
            logits = next_token_logits(model, hidden[block])
            log_q = logits.log_softmax(-1, dtype=torch.float64)
            kl[number, block] = torch.sub(log_p, log_q, out=log_q).mul_(p).sum(-1)
            agree[number, block] = (logits.argmax(-1) == best).double()
    numbers = np.array([len(tokens) for tokens in continuations])
    found = {}
    for name, *values in zip(readings, kl, agree, strict=True):
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
    tokens = torch.tensor([token for tokens in continuations for token in tokens]).to(mask.device)
    found = hidden.new_empty(len(hidden), dtype=torch.float64)
    for block in _blocks(len(hidden), model):
        log_p = next_token_logits(model, hidden[block]).log_softmax(-1, dtype=torch.float64)
        found[block] = log_p.gather(-1, tokens[block, None]).squeeze(-1)
    _check_finite(found, mask, "log-probabilities")
    return _sums(found, mask)


def _blocks(positions: int, model: PreTrainedModel) -> Iterator[slice]:
    vocabulary = model.get_output_embeddings().weight.shape[0]
    step = max(1, LOGIT_BYTES // (ARRAYS * 8 * vocabulary))
    return (slice(start, start + step) for start in range(0, positions, step))


def _check_finite(values: torch.Tensor, mask: torch.Tensor, what: str) -> None:
    bad = torch.zeros_like(mask)
    bad[mask] = ~values.isfinite()
    if bad.any():
        raise NonFiniteError(bad.any(1).nonzero().flatten().tolist(), what)


def _sums(values: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    by_text = values.new_zeros(mask.shape)  # (batch, T)
    by_text[mask] = values
    return by_text.sum(1).cpu().numpy()
