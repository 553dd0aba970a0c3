"""The tokens of preference pairs: those that were written, or those of their texts."""

from __future__ import annotations

import pandas as pd
from transformers import PreTrainedTokenizerBase

from neurondynamics.lm.encoding import encode_continuations

SIDES = ("chosen", "rejected")
WRITTEN = [f"{side}_tokens" for side in SIDES]


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
