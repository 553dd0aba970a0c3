"""Measures of fluency. They see the continuation alone, never the prompt before it.

A measure of single continuations is a row of MEASURES; all that uses measures goes by these rows.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np


def repetition(text: str) -> float:
    """Return the share of a text's word pairs that repeat an earlier pair of the text.

    1 − distinct bigrams / bigrams, over lower-cased `\\w+` words. A text of fewer than two words
    repeats nothing and gets 0, as in the paper's code.
    """
    words = re.findall(r"\w+", text.lower())
    pairs = list(itertools.pairwise(words))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def token_f1(continuation: Iterable[int], reference: Iterable[int]) -> float:
    """Return the F1 score of two bags of token ids: a token counts as often as both hold it.

    The harmonic mean of precision (over the continuation) and recall (over the reference); 0 where
    they share no token. Raises ValueError for an empty reference, against which nothing compares.
    """
    generated, expected = Counter(continuation), Counter(reference)
    if not expected:
        raise ValueError("F1 needs a reference of at least one token")
    shared = (generated & expected).total()
    return 2 * shared / (generated.total() + expected.total())


class Measure(NamedTuple):
    """A number for each continuation of a corpus, made of these columns of its row."""

    corpus: str  # `prompts` or `articles`
    function: Callable[..., float]
    columns: tuple[str, ...]


MEASURES = {
    "repetition": Measure("prompts", repetition, ("text",)),
    "f1": Measure("articles", token_f1, ("tokens", "reference_tokens")),
}


def perplexity(nll: Sequence[float], tokens: Sequence[int]) -> float:
    """Return exp of the mean loss per predicted token.

    `nll` (windows,): the sum of the token losses of each window, in nats; `tokens` (windows,): how
    many tokens each predicted. Raises ValueError where no token was predicted.
    """
    total = int(np.sum(tokens))
    if total <= 0:
        raise ValueError("perplexity needs at least one predicted token")
    with np.errstate(over="ignore"):  # a wrecked model's perplexity may be infinite
        return float(np.exp(np.sum(nll) / total))
