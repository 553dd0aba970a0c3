"""Batched generation that equals generating each prompt alone.

The work is split where interventions need it: `prefill` runs every prompt token but the last,
which no intervention at the new-token positions touches and several can share; `decode` runs
the new-token positions (the last prompt token and every new token but the last).

A `leader` is a second model that reads the same tokens one step ahead of the first, so that hooks
can hand its activations over.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from neurondynamics.lm.caches import can_stack, fork, stack
from neurondynamics.lm.hooks import PositionMeans

T = TypeVar("T")

PREFILL_ROWS = 32  # prompts padded to one length on a CPU, which more do not fill better
PADDING = -1  # fills stored tokens after a continuation's end; never fed to a model


class NonFiniteError(ValueError):
    """A model's output is NaN or infinite; `rows` says for which rows of the batch."""

    def __init__(self, rows: Sequence[int], what: str):
        super().__init__(f"{what} are NaN or infinite in rows {list(rows)} of the batch")
        self.rows = list(rows)


@dataclass(frozen=True)
class Prefix:
    """A batch of prompts run through the model up to, and without, their last token."""

    cache: Cache
    leader: Cache | None  # the leader's cache of the same tokens
    mask: torch.Tensor  # (batch, width - 1) 1 where a prompt token stands
    last: torch.Tensor  # (batch,) the last prompt tokens
    lengths: torch.Tensor  # (batch,) prompt lengths

    def repeat(self, times: int) -> Prefix:
        """Repeat every row `times` times in place: rows 0, 0, 1, 1, ... for two samples each."""
        cache = copy.deepcopy(self.cache)
        if self.mask.shape[1]:
            cache.batch_repeat_interleave(times)
        repeated = (x.repeat_interleave(times, 0) for x in (self.mask, self.last, self.lengths))
        return Prefix(cache, None, *repeated)


@dataclass(frozen=True)
class Continuations:
    """New tokens of a batch: `tokens` (batch, T) int32 with PADDING after `lengths` (batch,)."""

    tokens: np.ndarray
    lengths: np.ndarray

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]], new_tokens: int) -> Continuations:
        """Pad lists of at most `new_tokens` tokens."""
        tokens = np.full((len(lists), new_tokens), PADDING, dtype=np.int32)
        for row, values in enumerate(lists):
            tokens[row, : len(values)] = values
        return cls(tokens, np.array([len(values) for values in lists], dtype=np.int32))

    def lists(self) -> list[list[int]]:
        """Return the tokens of each continuation as a list."""
        pairs = zip(self.tokens, self.lengths, strict=True)
        return [row[:length].tolist() for row, length in pairs]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
    """Yield index batches in order of length, the longest first, so that little is padded."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def shard_batches(lengths: Sequence[int], batch_size: int, shard: str) -> list[np.ndarray]:
    """Return the batches of one shard. Raises ValueError for more shards than batches.

    They are some of the batches of all texts, so what is computed in one does not depend on the
    number of shards.
    """
    batches = list(sorted_batches(lengths, batch_size))
    total = int(shard.split("-of-")[1])
    if total > len(batches):
        raise ValueError(
            f"{len(lengths)} texts in batches of {batch_size} make {len(batches)} batches, too few "
            f"for {total} shards; lower shards or generation.batch_size"
        )
    return part_of_shard(batches, shard)


def part_of_shard(items: Sequence[T], shard: str) -> Sequence[T]:
    """Return a shard's part of items: "2-of-4" is the second of four runs in their order.

    The runs' lengths differ by one at most.
    """
    number, total = (int(part) for part in shard.split("-of-"))
    return items[len(items) * (number - 1) // total : len(items) * number // total]


def pad_left(
    sequences: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask, both (batch, width). The mask comes from lengths, never ids."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence)
        mask[row, width - len(sequence) :] = 1
    return ids.to(device), mask.to(device)


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Position ids that count only real tokens, (batch, width); models with learned positions
    (GPT-2) shift every padded prompt without them."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


@torch.inference_mode()
def prefill(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    leader: PreTrainedModel | None = None,
) -> Prefix:
    """Run all prompt tokens but the last of each prompt; prompts are token lists.

    Prompts of similar length should stand together: on a CPU, a few at a time are padded to one
    length. A GPU reads all at once.
    """
    ids, mask = pad_left(prompts, model.device)
    in_parts = ids.device.type == "cpu" and can_stack(DynamicCache(config=model.config))
    step = PREFILL_ROWS if in_parts else len(prompts)
    least = min(2, ids.shape[1])  # so that each part has a cache, if any has
    parts = []
    for start in range(0, len(prompts), step):
        width = max(least, *map(len, prompts[start : start + step]))
        some = mask[start : start + step, -width:-1]
        tokens = {
            "input_ids": ids[start : start + step, -width:-1],
            "attention_mask": some,
            "position_ids": positions_of(some),
        }
        parts.append([_prefilled(reader, tokens) for reader in (leader, model)])  # leader first
    ahead, cache = (stack(caches, ids.shape[1] - 1) for caches in zip(*parts, strict=True))
    return Prefix(cache, ahead, mask[:, :-1], ids[:, -1], mask.sum(1))


def _prefilled(reader: PreTrainedModel | None, tokens: dict[str, torch.Tensor]) -> Cache | None:
    if reader is None:
        return None
    cache = DynamicCache(config=reader.config)
    if tokens["input_ids"].shape[1]:
        reader.base_model(**tokens, past_key_values=cache, use_cache=True)
    return cache


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prefix: Prefix,
    new_tokens: int,
    *,
    uniforms: np.ndarray | None = None,
    temperature: float = 1.0,
    recorder: PositionMeans | None = None,
    leader: PreTrainedModel | None = None,
) -> Continuations:
    """Generate up to `new_tokens` tokens for each row of a prefix, which stays as it was.

    Greedy, or sampled at `temperature` where `uniforms` (batch, T) in [0, 1) are given: token t
    is the inverse of the cumulative distribution at uniforms[:, t], so that a row's sample does
    not depend on the rows beside it. A row ends after its end-of-sequence token, which counts as
    one of its tokens. Raises NonFiniteError if logits are not finite.
    """
    cache = fork(prefix.cache, new_tokens)
    ahead = None if leader is None else fork(prefix.leader, new_tokens)
    batch = len(prefix.last)
    ends = torch.tensor(end_tokens(model), device=model.device)
    tokens = torch.full((batch, new_tokens), PADDING, device=model.device)
    alive = torch.ones(batch, dtype=torch.bool, device=model.device)
    mask, current = prefix.mask, prefix.last
    for step in range(new_tokens):
        if recorder is not None:
            recorder.count(alive[:, None])
        mask = torch.cat([mask, mask.new_ones(batch, 1)], 1)
        read = {
            "input_ids": current[:, None],
            "attention_mask": mask,
            "position_ids": (prefix.lengths - 1 + step)[:, None],
            "use_cache": True,
        }
        if leader is not None:
            leader.base_model(**read, past_key_values=ahead)
        logits = model(**read, past_key_values=cache).logits[:, -1]  # (batch, vocabulary)
        check_finite(logits, alive)
        if uniforms is None:
            chosen = logits.argmax(-1)
        else:
            chosen = inverse_cdf(logits.float() / temperature, uniforms[:, step])
        tokens[:, step] = torch.where(alive, chosen, PADDING)
        alive = alive & ~torch.isin(chosen, ends)
        current = chosen
        if not alive.any():
            break
    tokens = tokens.cpu().numpy().astype(np.int32)
    return Continuations(tokens, (tokens != PADDING).sum(1).astype(np.int32))


def end_tokens(model: PreTrainedModel) -> list[int]:
    """Return the token ids that end a text, from the model's generation configuration."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        return []
    return list(ends) if isinstance(ends, list) else [ends]


def inverse_cdf(logits: torch.Tensor, uniforms: np.ndarray) -> torch.Tensor:
    """Return per row the token, (batch,), at which the cumulative probability passes a uniform."""
    cumulative = logits.double().softmax(-1).cumsum(-1)  # (batch, vocabulary)
    targets = torch.as_tensor(uniforms, device=logits.device)[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, targets, right=True).squeeze(-1)
    return chosen.clamp(max=logits.shape[-1] - 1)


def check_finite(values: torch.Tensor, counts: torch.Tensor) -> None:
    """Raise NonFiniteError for logits, (batch, vocabulary), of the rows that count, (batch,)."""
    bad = counts & ~values.sum(-1).isfinite()  # one pass: a sum is finite only if its terms are
    if bad.any():
        raise NonFiniteError(bad.nonzero().flatten().tolist(), "logits")


def sampling_uniforms(seed: int, prompt: str, samples: int, new_tokens: int) -> np.ndarray:
    """Return the uniforms for a prompt's samples, (samples, T).

    They depend on the seed and the prompt's text alone, not on its batch or its split.
    """
    digest = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8])
    return np.random.default_rng([seed, digest]).random((samples, new_tokens))


@torch.inference_mode()
def read_continuations(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    recorder: PositionMeans,
) -> None:
    """Run given texts through the model, recording at their new-token positions.

    The positions are those that `decode` runs while it generates the same continuations.
    """
    ids, mask = pad_left(prompts, model.device)
    longest = max(len(tokens) for tokens in continuations)
    new = torch.zeros(len(prompts), longest, dtype=torch.long)
    counts = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, tokens in enumerate(continuations):
        new[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        counts[row, : len(tokens)] = 1
    new, counts = new.to(model.device), counts.to(model.device)
    # the last new token is an output, not an input: the positions end one before it
    ids = torch.cat([ids, new[:, :-1]], 1)
    mask = torch.cat([mask, counts[:, :-1]], 1)
    recorder.count(counts.bool())
    model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=False
    )
