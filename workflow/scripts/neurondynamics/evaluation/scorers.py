"""Scorers: how strongly each text shows the behaviour under study, between 0 and 1.

A scorer is a function `score(texts) -> float64 array (n,)`. A text that cannot be scored gets NaN,
never 0, so that an empty continuation does not count as a harmless one.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from neurondynamics.evaluation.lexicon import Lexicon
from neurondynamics.runtime import progress

logger = logging.getLogger(__name__)

Scorer = Callable[[Sequence[str]], np.ndarray]


class Classifier(Protocol):
    """What a kind of scorer provides; it only ever sees distinct texts with visible characters."""

    def readable(self, texts: list[str]) -> np.ndarray:
        """Tell which texts hold something that the classifier can read, bool (n,)."""

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Score readable texts, float64 (n,)."""


def make_scorer(kind: str, **options) -> Scorer:
    """Build the scorer of a kind; nothing is downloaded. The options are the configuration's.

    profanity-check : a linear model of words; option `batch_size`.
    lexicon : a list of terms with severities (see `Lexicon`); option `folder`.
    detoxify : a checkpoint in Detoxify's format (see `networks.load_detoxify`); options `folder`,
        `label` (the class that is the score, default toxicity), `batch_size`, and `device`, on
        which the network runs.
    classifier : a text classifier in Hugging Face's format (see `networks.load_classifier`);
        options `folder`, `label`, `batch_size`, `device`.

    `folder` holds in `source` the list, the checkpoint or the files of the classifier, and for
    detoxify in `configuration` config.json and the tokenizer of the model it was trained from.

    The scorer scores equal texts once. It returns NaN for a text that is empty, white space, or
    without a single token for the classifier, and raises ValueError, naming the text, where the
    classifier's answer for any other text is not a number between 0 and 1.

    Raises ValueError for an unknown kind, an unknown or missing option, and for files that are
    missing, damaged, of another kind, or hold more than data.
    """
    if kind not in CLASSIFIERS:
        raise ValueError(f"unknown scorer kind {kind!r}; the kinds are {', '.join(CLASSIFIERS)}")
    accepted = inspect.signature(CLASSIFIERS[kind]).parameters
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ValueError(
            f"scorer {kind!r} has no option {', '.join(unknown)}; it has {', '.join(accepted)}"
        )
    needed = [name for name, option in accepted.items() if option.default is option.empty]
    missing = [name for name in needed if name not in options]
    if missing:
        raise ValueError(f"scorer {kind!r} needs the option {', '.join(missing)}")
    classifier = CLASSIFIERS[kind](**options)

    def score(texts: Sequence[str]) -> np.ndarray:
        return _score_distinct(classifier, list(texts))

    return score


def _score_distinct(classifier: Classifier, texts: list[str]) -> np.ndarray:
    distinct = [text for text in dict.fromkeys(texts) if text.strip()]
    if distinct:
        readable = classifier.readable(distinct)
        distinct = [text for text, kept in zip(distinct, readable, strict=True) if kept]
    answers = classifier.probabilities(distinct) if distinct else np.empty(0)
    for text, answer in zip(distinct, answers, strict=True):
        if not 0 <= answer <= 1:
            raise ValueError(
                f"the scorer gave {answer} instead of a number between 0 and 1 "
                f"for text {texts.index(text)}: {text!r}"
            )
    known = dict(zip(distinct, answers, strict=True))
    scores = np.array([known.get(text, np.nan) for text in texts], dtype=np.float64)  # (n,)
    logger.info(
        "scored %d texts (%d distinct); %d could not be scored",
        len(texts),
        len(distinct),
        np.isnan(scores).sum(),
    )
    return scores


class ProfanityCheck:
    """alt-profanity-check: a linear model over words, trained on human-labelled comments."""

    def __init__(self, batch_size: int = 256):
        from profanity_check import predict_prob

        self._predict = predict_prob
        self._batch_size = batch_size

    def readable(self, texts: list[str]) -> np.ndarray:
        return np.ones(len(texts), dtype=bool)

    def probabilities(self, texts: list[str]) -> np.ndarray:
        starts = range(0, len(texts), self._batch_size)
        batches = [
            self._predict(texts[start : start + self._batch_size])
            for start in progress(starts, "scoring with profanity-check")
        ]
        return np.concatenate(batches).astype(np.float64)  # (n,)


def _lexicon(folder: str) -> Classifier:
    return Lexicon(_only_file(folder))


def _detoxify(
    folder: str, label: str = "toxicity", batch_size: int = 64, device: str = "auto"
) -> Classifier:
    # a scorer without a network, which is one not in limits.NETWORKS, is spared the import of torch
    from neurondynamics.evaluation.networks import load_detoxify

    configuration = Path(folder) / "configuration"
    return load_detoxify(_only_file(folder), configuration, label, batch_size, device)


def _classifier(folder: str, label: str, batch_size: int = 64, device: str = "auto") -> Classifier:
    from neurondynamics.evaluation.networks import load_classifier

    return load_classifier(Path(folder) / "source", label, batch_size, device)


def _only_file(folder: str) -> Path:
    source = Path(folder) / "source"
    files = sorted(path for path in source.rglob("*") if path.is_file())
    if len(files) != 1:
        raise ValueError(
            f"{source} holds {len(files)} files, and the scorer is made from one: "
            "name that one in its source"
        )
    return files[0]


CLASSIFIERS = {
    "profanity-check": ProfanityCheck,
    "lexicon": _lexicon,
    "detoxify": _detoxify,
    "classifier": _classifier,
}
