"""Given texts read in one pass, behind their prompts or by themselves, and what a model expects
next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from neurondynamics.lm.caches import fork
from neurondynamics.lm.generation import Prefix, positions_of


@torch.inference_mode()
def read_new(
    model: PreTrainedModel, prefix: Prefix, continuations: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return the last hidden states at the new-token positions, (batch, T, d_model).

    These are the positions that `decode` runs while it generates the same continuations: the last
    prompt token and every new token but the last. T is the length of the longest continuation; of
    a shorter one, what stands behind its positions (`new_positions`) means nothing. Hidden states
    are the base model's, behind the final norm. The prefix stays as it was.
    """
    new = [torch.tensor(tokens[:-1], dtype=torch.long) for tokens in continuations]
    new = pad_sequence(new, batch_first=True).to(model.device)  # (batch, T - 1)
    ids = torch.cat([prefix.last[:, None], new], 1)
    mask = torch.cat([prefix.mask, new_positions(continuations).to(prefix.mask)], 1)
    output = model.base_model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions_of(mask)[:, -ids.shape[1] :],
        past_key_values=fork(prefix.cache, ids.shape[1]),
        use_cache=True,
    )
    return output.last_hidden_state


@torch.inference_mode()
def read_windows(
    model: PreTrainedModel, windows: torch.Tensor, leader: PreTrainedModel | None = None
) -> torch.Tensor:
    """Return the last hidden states that predict each window's tokens but its first,
    (windows, width - 1, d_model).

    `windows` is (windows, width) token ids; each is read on its own. A leader reads the same
    tokens first.
    """
    read = windows[:, :-1].to(model.device)
    if leader is not None:
        leader.base_model(input_ids=read, use_cache=False)
    return model.base_model(input_ids=read, use_cache=False).last_hidden_state


def new_positions(continuations: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return which new-token positions each continuation has, (batch, T) booleans on the CPU."""
    lengths = torch.tensor([len(tokens) for tokens in continuations])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def next_token_logits(
    model: PreTrainedModel, hidden: torch.Tensor, tokens: slice = slice(None)
) -> torch.Tensor:
    """Return the logits of some tokens, (..., tokens), that a model makes of its last hidden
    states, (..., d_model), which are those behind its final norm."""
    head = model.get_output_embeddings()
    logits = linear(hidden, head.weight[tokens], None if head.bias is None else head.bias[tokens])
    cap = getattr(model.config, "final_logit_softcapping", None)  # Gemma 2, arXiv 2408.00118
    return logits if cap is None else torch.tanh(logits / cap) * cap
