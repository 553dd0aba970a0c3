"""What is continued and read under an experiment's interventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from neurondynamics.data.prompts import read_prompts
from neurondynamics.data.records import read_jsonl
from neurondynamics.lm.encoding import encode_prompts
from neurondynamics.lm.passages import neutral_passages


@dataclass(frozen=True)
class Item:
    """A text to continue: one of the prompts, or a passage with its true continuation."""

    corpus: str
    number: int
    text: str
    tokens: list[int]
    reference: list[int]


def read_texts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: str,
    corpus: str,
    continued: str,
    *,
    max_tokens: int,
    measures: Sequence[str],
    new_tokens: int,
    **passages: int,
) -> tuple[list[Item], np.ndarray]:
    """Return what is continued, and the windows, (windows, width), whose losses are measured."""
    records = read_prompts(prompts)
    encoded = encode_prompts(tokenizer, [record["text"] for record in records], max_tokens)
    windows, texts = neutral_passages(
        tokenizer,
        *([record["text"] for record in read_jsonl(path)] for path in (corpus, continued)),
        new_tokens=new_tokens,
        **passages,
    )
    items = [
        Item("prompts", record["prompt_id"], record["text"], ids, [])
        for record, ids in zip(records, encoded, strict=True)
    ]
    items = items if "behaviour" in measures else []
    if "damage" not in measures:
        return items, windows[:0]
    return items + passage_items(tokenizer, texts, new_tokens), windows


def passage_items(
    tokenizer: PreTrainedTokenizerBase, passages: list[list[int]], new_tokens: int
) -> list[Item]:
    """Split passages into what is continued and how the text itself goes on."""
    parts = [(ids[:-new_tokens], ids[-new_tokens:]) for ids in passages]
    return [
        Item("articles", number, tokenizer.decode(start), start, end)
        for number, (start, end) in enumerate(parts)
    ]
