"""Neutral text as windows for perplexity and as passages to continue."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurondynamics.lm.encoding import added_tokens, encode_texts, refuse_unknown


def neutral_passages(
    tokenizer: PreTrainedTokenizerBase,
    articles: list[str],
    continued: list[str],
    *,
    windows: int,
    window_tokens: int,
    continuations: int,
    passage_tokens: int,
    new_tokens: int,
    seed: int,
) -> tuple[np.ndarray, list[list[int]]]:
    """Cut articles into windows (windows, window_tokens) and passages with true continuations.

    No window crosses two articles, and each begins as the tokenizer begins a text. A passage of
    passage_tokens + new_tokens tokens begins where a paragraph of the articles `continued` does.
    Both are drawn with the seed. Raises ValueError, naming the key, if the articles do not hold as
    many.
    """
    generator = np.random.default_rng(seed)
    begin, _ = added_tokens(tokenizer)
    width = window_tokens - len(begin)
    pieces = []
    encoded = tokenizer(articles, add_special_tokens=False).input_ids
    refuse_unknown(tokenizer, articles, encoded)
    for ids in encoded:
        ends = range(width, len(ids) + 1, width)
        pieces += [begin + ids[end - width : end] for end in ends]
    paragraphs = [line for article in continued for line in article.split("\n") if line.strip()]
    needed = passage_tokens + new_tokens
    starts = [ids[:needed] for ids in encode_texts(tokenizer, paragraphs) if len(ids) >= needed]
    chosen_pieces = _draw(generator, pieces, windows, "corpus.windows")
    return np.array(chosen_pieces), _draw(generator, starts, continuations, "corpus.continuations")


def _draw(generator: np.random.Generator, pieces: list, number: int, key: str) -> list:
    if number > len(pieces):
        raise ValueError(f"{key}: {number} were asked for, but the text yields {len(pieces)}")
    return [pieces[i] for i in generator.choice(len(pieces), number, replace=False)]
