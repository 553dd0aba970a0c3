"""Where text meets tokens: what a model reads of a text, and the text that it wrote.

encode(a) + encode(b) is not encode(a + b), and decode(a) + decode(b) not decode(a + b): tokenizers
merge over the border, put a space before every text, or add tokens at either end. So what a model
wrote is kept as tokens, and a text that follows another is encoded and decoded together with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Models round their embeddings up to a multiple of 64 or so and reserve some, a few per cent of a
# real vocabulary (a third of one of bytes alone); a tokenizer of another model has 30,000 for
# 250,000, or a handful.
LEAST = 0.5  # of a model's embeddings that its tokenizer has tokens for
ORDINARY = (
    *("the", "people", "of", "house", "said", "that", "a", "good", "word", "was", "in", "there"),
)
PROBES = ("a", " a", "A", "1", ".", "the")  # a vocabulary of words may lack some


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, embeddings: int, folder: object) -> None:
    """Raise ValueError if a tokenizer has tokens for less than half of a model's embeddings,
    or cannot read ordinary words.

    A warning is logged if most of some English ones are unknown to it, or no token at all: texts
    that hold only such words are all alike to the model. `folder` is whose it is.
    """
    numbers = {number for number in tokenizer.get_vocab().values() if number < embeddings}
    if len(numbers) < LEAST * embeddings:
        raise ValueError(
            f"{folder}: the tokenizer has {len(numbers)} tokens for the {embeddings} embeddings of "
            "the model, less than half: they are of different models, take the tokenizer that "
            "belongs to the weights"
        )
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    named = getattr(model, "unk_token", None)
    unknown = {tokenizer.unk_token_id, tokenizer.get_vocab().get(named)}
    try:
        encoded = tokenizer(list(ORDINARY), add_special_tokens=False).input_ids
    except Exception as error:  # whatever parts that do not go together raise
        raise ValueError(
            f"{folder}: the tokenizer cannot read ordinary words ({error}): tokenizer_class in "
            "tokenizer_config.json is of another kind than the tokenizer's files, or their "
            "vocabulary lacks the unknown token that they name"
        ) from error
    lost = [
        word
        for word, ids in zip(ORDINARY, encoded, strict=True)
        if not ids or unknown.intersection(ids)
    ]
    if len(lost) > len(ORDINARY) / 2:
        logger.warning(
            "%s: the tokenizer does not know %d of %d ordinary English words, such as %r; if the "
            "texts are English, it is of another model or damaged",
            *(folder, len(lost), len(ORDINARY), lost[0]),
        )


@lru_cache
def added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before every text, and those it puts behind it.

    Raises ValueError if it does something else to a text than that.
    """
    for probe in (*PROBES, *map(str, tokenizer.get_vocab())):
        own = tokenizer(probe, add_special_tokens=False).input_ids
        if own:
            break
    else:
        raise ValueError("the tokenizer gives no text a token")
    whole = tokenizer(probe).input_ids
    for start in range(len(whole) - len(own) + 1):
        if whole[start : start + len(own)] == own:
            return whole[:start], whole[start + len(own) :]
    raise ValueError(
        f"the tokenizer turns the text {probe!r} into {whole} with the tokens that it adds and "
        f"into {own} without: only tokenizers that add tokens at the ends of a text can be used"
    )


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of texts, with those that begin every text.

    Those that a tokenizer puts behind a text are left out: they say that nothing follows, and what
    is read here is continued, or cut. Raises ValueError as `refuse_unknown`.
    """
    _, behind = added_tokens(tokenizer)
    encoded = tokenizer(list(texts)).input_ids if texts else []
    refuse_unknown(tokenizer, texts, encoded)
    return [ids[: len(ids) - len(behind)] for ids in encoded]


def refuse_unknown(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], encoded: Sequence[Sequence[int]]
) -> None:
    """Raise ValueError naming a text, and its token, that the model has no embedding for."""
    known = getattr(tokenizer, "embeddings", None)
    if known is None or known >= len(tokenizer):
        return
    for text, ids in zip(texts, encoded, strict=True):
        if max(ids, default=0) >= known:
            token = tokenizer.convert_ids_to_tokens(max(ids))
            raise ValueError(
                f"the text {text[:80]!r} holds {token!r}, token {max(ids)} of the tokenizer, and "
                f"the model has {known} embeddings: leave the text out, or remove {token!r} from it"
            )


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_tokens: int | None
) -> list[list[int]]:
    """Tokenise prompts and keep the first `max_tokens` tokens of each, or all of them.

    Raises ValueError naming a prompt that has no token at all.
    """
    encoded = [ids[:max_tokens] for ids in encode_texts(tokenizer, prompts)]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not ids:
            raise ValueError(f"the prompt {prompt!r} has no token")
    return encoded


def encode_continuations(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], texts: Sequence[str]
) -> list[list[int] | None]:
    """Return the tokens of texts that follow prompts: those of both together behind the prompt's.

    None for a text of no token, and where the tokens of both together do not begin with those of
    the prompt, since a token reaches over the border.
    """
    together = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    continued = []
    for prompt, whole in zip(
        encode_texts(tokenizer, prompts), encode_texts(tokenizer, together), strict=True
    ):
        new = whole[len(prompt) :]
        continued.append(new if new and whole[: len(prompt)] == prompt else None)
    return continued


def decode_continuations(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> list[str]:
    """Return the texts that new tokens add to the texts of their prompts.

    Special tokens have no text. Where a prompt ends within a character that its continuation
    completes, the text is that of the new tokens alone.
    """
    if not continuations:
        return []
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    wholes = [[*prompt, *new] for prompt, new in zip(prompts, continuations, strict=True)]
    before = tokenizer.batch_decode(list(prompts), **options)
    together = tokenizer.batch_decode(wholes, **options)
    alone = tokenizer.batch_decode(list(continuations), **options)
    return [
        whole.removeprefix(prompt) if whole.startswith(prompt) else own
        for prompt, whole, own in zip(before, together, alone, strict=True)
    ]
