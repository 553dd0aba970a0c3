"""Whether a tuned model is of the same kind as its base model, so that they can be compared."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from neurondynamics.lm.loading import load_config, load_tokenizer
from neurondynamics.lm.shape import read_shape

logger = logging.getLogger(__name__)

# texts on which tokenizers with one vocabulary part ways
TELLING = (
    "",
    "word",
    " word",
    "Word WORD wörd ﬁne Ångström İstanbul",
    "two  spaces,   three\tand a tab \n\n a blank line\r\n and  \n",
    "don't we'll I'M they'Re",
    "1 12 123 1234 12345 3.14 1,000,000",
    "a,b;c (d) [e] \"f\" 'g' — “h” … i/j\\k",
    "def f(x):\n    return x ** 2  # note\n",
    "日本語の文章 한국어 кириллица العربية हिन्दी 👩‍👩‍👧 e\u0301 \u00a0 \u200b",
)
TOKENS_IN_TEXT = 16
SHOWN = 60  # characters of a text in a message
# of a configuration, what does not change what the model computes
BESIDE = {"architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}

MAY_DIFFER = {"parameters", "positions"}  # of shapes: what is tied, and how far a model reads
CUT = (
    ". Rows for added tokens can be cut off: model.resize_token_embeddings({}), saved with the "
    "other's tokenizer"
)


def check_alike(base: str | Path, tuned: str | Path) -> None:
    """Raise ValueError unless two model folders have one family, shape, vocabulary and tokenizer.

    The error lists what differs, with both values. Other differences of their configurations, such
    as the base of rotary positions, are logged.
    """
    configs = [load_config(folder) for folder in (base, tuned)]
    differences = []
    if configs[0].model_type != configs[1].model_type:
        differences.append(_differ("family", *(config.model_type for config in configs)))
    else:
        first, second = read_shape(base), read_shape(tuned)
        for key in (key for key in first if first[key] != second[key] and key not in MAY_DIFFER):
            remedy = CUT.format(min(first[key], second[key])) if key == "vocabulary" else ""
            differences.append(_differ(key, first[key], second[key]) + remedy)
        differences += tokenizer_differences(load_tokenizer(base), load_tokenizer(tuned))
    if differences:
        listed = "".join(f"\n- {difference}" for difference in differences)
        raise ValueError(f"the tuned version cannot be compared with the base model:{listed}")
    one, other = (config.to_dict() for config in configs)
    for key in sorted((set(one) | set(other)) - BESIDE):
        if one.get(key) != other.get(key) and not key.startswith("_"):
            logger.warning("%s", _differ(f"config.json, {key}", one.get(key), other.get(key)))


def tokenizer_differences(
    base: PreTrainedTokenizerBase, tuned: PreTrainedTokenizerBase
) -> list[str]:
    """Return what differs between two tokenizers: entries of the vocabulary, or ids of texts.

    The texts are some that tell pre-tokenisers and normalisers apart, and the text of every token,
    several in a row, which tells merges apart. Files need not be equal: one tokenizer is written in
    many ways. Tokens that a model has no embedding for, such as a pad token that a trainer added,
    are passed over: no text that holds one can be read (see `refuse_unknown`).
    """
    known = min(getattr(tokenizer, "embeddings", math.inf) for tokenizer in (base, tuned))
    first, second = (
        {token: number for token, number in tokenizer.get_vocab().items() if number < known}
        for tokenizer in (base, tuned)
    )
    if first != second:
        wrong = sorted(token for token in first | second if first.get(token) != second.get(token))
        shown = ", ".join(
            f"{token!r} is {first.get(token, 'none')} and {second.get(token, 'none')}"
            for token in wrong[:3]
        )
        return [f"tokenizer: {len(wrong)} tokens of the vocabulary differ; {shown}"]
    texts = [*TELLING, *_vocabulary_as_texts(base, len(first))]
    for text, one, other in zip(texts, base(texts).input_ids, tuned(texts).input_ids, strict=True):
        if one != other:
            return [_differ(f"tokenizer: the text {text[:SHOWN]!r}", one[:12], other[:12])]
    return []


def _vocabulary_as_texts(tokenizer: PreTrainedTokenizerBase, number: int) -> list[str]:
    pieces = tokenizer.batch_decode([[token] for token in range(number)])
    return [
        "".join(pieces[start : start + TOKENS_IN_TEXT])
        for start in range(0, len(pieces), TOKENS_IN_TEXT)
    ]


def _differ(what: str, base: object, tuned: object) -> str:
    return f"{what}: {base} in the base model, {tuned} in the tuned version"
