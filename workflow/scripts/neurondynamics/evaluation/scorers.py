"""Scorers: how strongly each text shows the behaviour under study, between 0 and 1.

A scorer is a function `score(texts) -> float64 array (n,)`. A text that cannot be scored gets NaN,
never 0, so that an empty continuation does not count as a harmless one.
"""

from __future__ import annotations

import inspect
import logging
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from neurondynamics.runtime import file_digest, progress

logger = logging.getLogger(__name__)

Scorer = Callable[[Sequence[str]], np.ndarray]


PUBLISHED_NAME = re.compile(r"-([0-9a-f]{8})\.ckpt$")  # with the beginning of its sha256
WHAT_DETOXIFY_NEEDS = (
    "The detoxify scorer needs two local paths: scorer.checkpoint, such as toxic_original-"
    "c1212f89.ckpt of github.com/unitaryai/detoxify/releases, and scorer.configuration, a folder "
    "with config.json and tokenizer files of the model that it was trained from, such as "
    "huggingface.co/google-bert/bert-base-uncased. Neither is downloaded, so that scores do not "
    "depend on what the hub holds today."
)


class Classifier(Protocol):
    """What a kind of scorer provides; it only ever sees distinct texts with visible characters."""

    def readable(self, texts: list[str]) -> np.ndarray:
        """Tell which texts hold something that the classifier can read, bool (n,)."""

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Score readable texts, float64 (n,)."""


def make_scorer(kind: str, **options) -> Scorer:
    """Build the scorer of a kind: `profanity-check` or `detoxify`.

    Options of both: `batch_size`. Options of `detoxify`: `checkpoint`, the path of a checkpoint in
    Detoxify's format, such as those it publishes; `configuration`, the folder with the config.json
    and tokenizer files of the model that it was trained from. Nothing is downloaded.

    The scorer scores equal texts once. It returns NaN for a text that is empty, white space, or
    without a single token for the classifier, and raises ValueError, naming the text, where the
    classifier's answer for any other text is not a number between 0 and 1.

    Raises ValueError for an unknown kind or option, and for files that are missing, damaged, no
    Detoxify checkpoint, or hold more than data.
    """
    if kind not in CLASSIFIERS:
        raise ValueError(f"unknown scorer kind {kind!r}; the kinds are {', '.join(CLASSIFIERS)}")
    accepted = list(inspect.signature(CLASSIFIERS[kind]).parameters)
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ValueError(
            f"scorer {kind!r} has no option {', '.join(unknown)}; it has {', '.join(accepted)}"
        )
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


class Detoxify:
    """The `toxicity` output of a Detoxify transformer, on a GPU where there is one."""

    def __init__(
        self,
        checkpoint: str | None = None,
        configuration: str | None = None,
        batch_size: int = 64,
    ):
        from neurondynamics.lm.devices import resolve_device

        if checkpoint is None or configuration is None:
            raise ValueError(WHAT_DETOXIFY_NEEDS)
        self._model, self._tokenizer, classes = _load(checkpoint, configuration)
        if "toxicity" not in classes:
            raise ValueError(
                f"checkpoint {checkpoint} has no class 'toxicity', only {', '.join(classes)}"
            )
        self._column = classes.index("toxicity")
        self._batch_size = batch_size
        self._device = resolve_device("auto")
        self._model.to(self._device).eval()
        # A folder without tokenizer_config.json sets no limit, and a text that is longer than the
        # model's position table would stop the run. RoBERTa keeps the first positions for padding.
        positions = self._model.base_model.embeddings.position_embeddings
        reserved = 0 if positions.padding_idx is None else positions.padding_idx + 1
        self._longest = min(self._tokenizer.model_max_length, positions.num_embeddings - reserved)

    def readable(self, texts: list[str]) -> np.ndarray:
        markers = self._tokenizer.num_special_tokens_to_add()
        return np.array([length > markers for length in self._lengths(texts)])

    def probabilities(self, texts: list[str]) -> np.ndarray:
        import torch

        # Texts of like length share a batch, so that little of a batch is padding.
        order = np.argsort(self._lengths(texts), kind="stable")[::-1]
        scores = np.empty(len(texts))
        for start in progress(range(0, len(texts), self._batch_size), "scoring with Detoxify"):
            rows = order[start : start + self._batch_size]
            batch = self._tokenizer(
                [texts[row] for row in rows],
                truncation=True,
                max_length=self._longest,
                padding=True,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                logits = self._model(**batch).logits  # (batch, classes)
            scores[rows] = torch.sigmoid(logits[:, self._column].double()).cpu().numpy()
        return scores

    def _lengths(self, texts: list[str]) -> list[int]:
        encoded = self._tokenizer(texts, truncation=True, max_length=self._longest)
        return [len(tokens) for tokens in encoded["input_ids"]]


def _load(checkpoint: str, configuration: str):
    """Load a checkpoint of Detoxify's format without the hub, and without running what is in it.

    The package's own loader unpickles whatever a checkpoint holds, and asks the hub, in whatever
    state that is, for the configuration and the tokenizer of the model it was trained from.
    """
    import torch
    import transformers

    for path in (checkpoint, configuration):
        if not Path(path).exists():
            raise ValueError(f"{path} does not exist. {WHAT_DETOXIFY_NEEDS}")
    published = PUBLISHED_NAME.search(Path(checkpoint).name)
    if published and not file_digest(checkpoint).startswith(published[1]):
        raise ValueError(f"{checkpoint} is damaged: its sha256 does not begin with {published[1]}")
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{checkpoint} is damaged or holds more than weights and plain values: {error}"
        ) from error
    if not {"config", "state_dict"} <= set(stored):
        raise ValueError(f"{checkpoint} is not a Detoxify checkpoint: no config or no state_dict")
    renamed = {
        "toxic": "toxicity",
        "severe_toxic": "severe_toxicity",
        "identity_hate": "identity_attack",
    }
    classes = [renamed.get(name, name) for name in stored["config"]["dataset"]["args"]["classes"]]
    architecture = stored["config"]["arch"]["args"]
    model_class = getattr(transformers, architecture["model_name"])
    tokenizer_class = getattr(transformers, architecture["tokenizer_name"])
    model = model_class(
        model_class.config_class.from_pretrained(
            configuration, num_labels=len(classes), local_files_only=True
        )
    )
    # Checkpoints written by older transformers hold buffers, such as position_ids, that are no
    # longer stored: what is left over does no harm, what is missing would stay random.
    missing = model.load_state_dict(stored["state_dict"], strict=False).missing_keys
    if missing:
        raise ValueError(f"{checkpoint} lacks {', '.join(missing)} of {architecture['model_name']}")
    tokenizer = tokenizer_class.from_pretrained(
        configuration, local_files_only=True, trust_remote_code=False
    )
    return model, tokenizer, classes


CLASSIFIERS = {"profanity-check": ProfanityCheck, "detoxify": Detoxify}
