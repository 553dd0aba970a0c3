"""The tokens of preference pairs: those that were written, or those of their texts; which
pairs nothing sees, and how far pairs are read."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from neurondynamics.lm.encoding import (
    added_tokens,
    decode_continuations,
    encode_continuations,
    encode_prompts,
    encode_texts,
)

logger = logging.getLogger(__name__)

Row = dict[str, list[int] | float | bool]

SIDES = ("chosen", "rejected")
WRITTEN = [f"{side}_tokens" for side in SIDES]
HELD_OUT = 10  # of so many pairs one is held out at most


def with_tokens(
    pairs: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, digest: str
) -> pd.DataFrame:
    """Return pairs with lists `chosen_tokens` and `rejected_tokens`, and their tokenizer's digest.

    Tokens that stand beside a pair are kept if the digest there is this one: they are what the
    model wrote. The texts of other pairs are encoded with their prompts; tokens are None where
    that gives none (see `encode_continuations`).
    """
    own = [digest == other for other in pairs.get("tokenizer", [None] * len(pairs))]
    foreign = pairs[[not kept for kept in own]]
    columns = {}
    for side in SIDES:
        prompts, texts = foreign["prompt"].tolist(), foreign[side].tolist()
        encoded = iter(encode_continuations(tokenizer, prompts, texts))
        written = pairs.get(f"{side}_tokens", [None] * len(pairs))
        columns[f"{side}_tokens"] = [
            list(map(int, tokens)) if kept else next(encoded)
            for tokens, kept in zip(written, own, strict=True)
        ]
    return pairs.assign(**columns, tokenizer=digest)


def believed(pairs: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, digest: str) -> pd.DataFrame:
    """Return pairs of a file that claim this tokenizer only where their tokens bear that out.

    Those are tokens of this tokenizer, for which the model has embeddings, and they decode to the
    texts beside them: a person may have edited these, or a program have rewritten the file.
    """
    known = getattr(tokenizer, "embeddings", len(tokenizer))
    claimed = [digest == other for other in pairs["tokenizer"]]
    sound = np.array(claimed, dtype=bool)
    for side in SIDES:
        sound &= np.array([_are_tokens(tokens, known) for tokens in pairs[f"{side}_tokens"]], bool)
    some = pairs[sound]
    prompts, alike = encode_texts(tokenizer, some["prompt"].tolist()), []
    for side in SIDES:
        said = decode_continuations(tokenizer, prompts, some[f"{side}_tokens"].tolist())
        alike.append([one == text for one, text in zip(said, some[side], strict=True)])
    sound[sound] = np.all(alike, axis=0)
    lost = sum(claimed) - int(sound.sum())
    if lost:
        logger.warning("%d pairs have tokens that are not those of their texts, which count", lost)
    return pairs.assign(tokenizer=pairs["tokenizer"].where(sound, None))


def _are_tokens(tokens: object, known: int) -> bool:
    return (
        isinstance(tokens, (list, np.ndarray))
        and len(tokens) > 0
        and all(isinstance(one, (int, np.integer)) and 0 <= one < known for one in tokens)
    )


def kept_unseen(prompts: pd.Series, number: int, seed: int) -> pd.Series:
    """Return which pairs are held out, booleans: all those of a prompt or none, of `number` prompts
    and a tenth of the pairs at most, prompts being drawn with `seed`."""
    sizes = prompts.value_counts(sort=False)
    left, held = len(prompts) // HELD_OUT, set()
    for place in np.random.default_rng(seed).permutation(len(sizes)):
        if len(held) < number and sizes.iloc[place] <= left:
            held.add(sizes.index[place])
            left -= sizes.iloc[place]
    return prompts.isin(held)


def tokenise_pairs(
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[dict],
    max_tokens: int | None = None,
    *,
    prompt_tokens: int | None = None,
    continuation_tokens: int | None = None,
) -> list[Row]:
    """Return `prompt_ids`, `chosen_ids` and `rejected_ids` for each pair.

    Prompts are cut to the first `max_tokens`, as they are for sampling, and of those the last
    `prompt_tokens` are kept, beside the tokens that begin a text. Continuations are the tokens that
    a pair has, cut to the first `continuation_tokens`. No end-of-sequence token is added: a
    continuation that was cut at a length does not end there.
    """
    prompts = encode_prompts(tokenizer, [pair["prompt"] for pair in pairs], max_tokens)
    begins = len(added_tokens(tokenizer)[0])

    def ending(ids: list[int]) -> list[int]:
        if prompt_tokens is None or len(ids) - begins <= prompt_tokens:
            return ids
        return ids[:begins] + ids[-prompt_tokens:]

    return [
        {
            "prompt_ids": ending(prompt),
            "chosen_ids": pair["chosen_tokens"][:continuation_tokens],
            "rejected_ids": pair["rejected_tokens"][:continuation_tokens],
        }
        for prompt, pair in zip(prompts, pairs, strict=True)
    ]


def length_of_pairs(rows: list[Row]) -> dict[str, int]:
    """Return how many tokens the longest text of pairs has, by what it is called in a message."""
    texts = (row["prompt_ids"] + row[key] for row in rows for key in ("chosen_ids", "rejected_ids"))
    longest = max(map(len, texts), default=0)
    return {"prompt_tokens and continuation_tokens of the version, of the longest pair": longest}
