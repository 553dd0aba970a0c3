"""Scorers that run a neural network: Detoxify's checkpoints, and Hugging Face text classifiers.

Both are read from local files, without the hub and without running what is in them.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers

from neurondynamics.fetching.folders import check_description, check_folder
from neurondynamics.fetching.tokenizers import check_tokenizer
from neurondynamics.lm.devices import resolve_device
from neurondynamics.lm.encoding import check_vocabulary
from neurondynamics.lm.loading import left_over
from neurondynamics.lm.memory import halving
from neurondynamics.runtime import file_digest, progress

logger = logging.getLogger(__name__)

LONGEST = 8192  # tokens of a text at most, whatever a model and its tokenizer allow
PUBLISHED_NAME = re.compile(r"-([0-9a-f]{8})\.ckpt$")  # with the beginning of its sha256
NUMBERED = re.compile(r"\.\d+\.")  # in the name of a tensor of a layer
# what does not fit is reported, and refused in our own words
READING = {
    "dtype": torch.float32,
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,
}
# what Detoxify's package calls the classes of its first checkpoints
CLASS_NAMES = {
    "toxic": "toxicity",
    "severe_toxic": "severe_toxicity",
    "identity_hate": "identity_attack",
}


class Network:
    """The probability of one label, from a network that reads tokens.

    `to_probabilities` turns logits (batch, labels) into probabilities of the same shape; `column`
    is the label's. A text that is longer than the network can read is cut, as its tokenizer cuts.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer,
        column: int,
        to_probabilities: Callable[[torch.Tensor], torch.Tensor],
        batch_size: int,
        device: str,
    ):
        self._device = resolve_device(device)
        self._model, self._tokenizer = model.to(self._device).eval(), tokenizer
        self._column, self._to_probabilities = column, to_probabilities
        self._embeddings = model.get_input_embeddings().num_embeddings
        self._batch_size = batch_size if self._can_pad(model.config.pad_token_id) else 1
        self._longest = _longest(model, tokenizer)

    def _can_pad(self, expected: int | None) -> bool:
        """Tell whether the tokenizer pads with a token that the model takes for padding.

        Without one, only single texts can be read. Models that classify at a text's last token tell
        it from padding by the `pad_token_id` of their config.json.
        """
        pad = self._tokenizer.pad_token_id
        fits = pad is not None and pad < self._embeddings and expected in (None, pad)
        if not fits:
            logger.warning(
                "texts are read one at a time: the tokenizer pads with %s, the model of %d "
                "embeddings takes %s for padding",
                *(pad, self._embeddings, expected),
            )
        return fits

    def readable(self, texts: list[str]) -> np.ndarray:
        markers = self._tokenizer.num_special_tokens_to_add()
        return np.array([length > markers for length in self._lengths(texts)])

    def probabilities(self, texts: list[str]) -> np.ndarray:
        # Texts of like length share a batch, so that little of a batch is padding.
        order = np.argsort(self._lengths(texts), kind="stable")[::-1]
        scores = np.empty(len(texts))

        def score(rows: np.ndarray) -> np.ndarray:
            return self._score([texts[row] for row in rows])

        for start in progress(range(0, len(texts), self._batch_size), "scoring with a network"):
            for rows, part in halving(order[start : start + self._batch_size], score):
                scores[rows] = part
        return scores

    def _score(self, texts: list[str]) -> np.ndarray:
        batch = self._tokenizer(
            texts,
            truncation=True,
            max_length=self._longest,
            padding=len(texts) > 1,
            return_tensors="pt",
        ).to(self._device)
        with torch.inference_mode():
            logits = self._model(**batch).logits  # (batch, labels)
        wrong = (~logits.isfinite().all(dim=-1)).nonzero()
        if len(wrong):  # NaN would say that the text has no token
            raise ValueError(
                f"the classifier answers {logits[wrong[0, 0]].tolist()} to the text "
                f"{texts[wrong[0, 0]][:80]!r}: its weights hold NaN or infinity, or are damaged; "
                "fetch it again, or take another"
            )
        return self._to_probabilities(logits.double())[:, self._column].cpu().numpy()

    def _lengths(self, texts: list[str]) -> list[int]:
        encoded = self._tokenizer(texts, truncation=True, max_length=self._longest)["input_ids"]
        for text, ids in zip(texts, encoded, strict=True):
            if max(ids, default=0) >= self._embeddings:
                token = self._tokenizer.convert_ids_to_tokens(max(ids))
                raise ValueError(
                    f"the classifier has no embedding for {token!r}, token {max(ids)} of its "
                    f"tokenizer, in the text {text[:80]!r}: take the tokenizer that belongs to it"
                )
        return [len(ids) for ids in encoded]


def load_classifier(folder: Path, label: str, batch_size: int, device: str) -> Network:
    """Load a text classifier in Hugging Face's format, with weights in safetensors.

    Logits become probabilities as in Hugging Face's own TextClassificationPipeline: by a sigmoid
    for a multi-label classifier or a single logit, not at all for a regression, else by softmax.

    Raises ValueError for a folder that holds no such classifier, and for a label that is not in
    the `id2label` of its config.json, with those that are.
    """
    check_folder(folder)
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, **READING, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be read as a text classifier: {error}") from error
    _refuse_incomplete(report, folder)
    check_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings, folder)
    config = model.config
    if config.problem_type == "regression":
        shape, to_probabilities = "as it is", torch.Tensor.clone
    elif config.problem_type == "multi_label_classification" or config.num_labels == 1:
        shape, to_probabilities = "through a sigmoid", torch.sigmoid
    else:
        shape, to_probabilities = "through a softmax", _softmax
    unnamed = sorted(set(range(config.num_labels)) - set(config.id2label))
    if unnamed:
        raise ValueError(
            f"{folder / 'config.json'}: id2label names the labels {sorted(config.id2label)} and "
            f"none for logit {unnamed[0]}: logits are counted from 0 to {config.num_labels - 1}"
        )
    column = _column(label, [config.id2label[i] for i in range(config.num_labels)], folder)
    logger.info("%s: logit %d, %r, %s", config.architectures, column, label, shape)
    return Network(model, tokenizer, column, to_probabilities, batch_size, device)


def load_detoxify(
    checkpoint: Path, configuration: Path, label: str, batch_size: int, device: str
) -> Network:
    """Load a checkpoint in Detoxify's format, as github.com/unitaryai/detoxify/releases has them.

    `configuration`: the folder with config.json and tokenizer files of the model that the
    checkpoint was trained from, such as those of bert-base-uncased for toxic_original-c1212f89.

    The package's own loader unpickles whatever a checkpoint holds, and asks the hub, in whatever
    state that is, for the configuration and the tokenizer.

    Raises ValueError for files that are missing, damaged, or not what they should be, and for a
    label that is none of the checkpoint's classes, with those that are.
    """
    if not (configuration / "config.json").is_file():
        raise ValueError(
            f"{configuration} holds no config.json: it needs those and the tokenizer files of the "
            f"model that {checkpoint.name} was trained from"
        )
    check_description(configuration)
    check_tokenizer(configuration)
    stored = _read_checkpoint(checkpoint)
    try:
        architecture = stored["config"]["arch"]["args"]
        names = stored["config"]["dataset"]["args"]["classes"]
        model_class = getattr(transformers, architecture["model_name"])
        tokenizer_class = getattr(transformers, architecture["tokenizer_name"])
        # more than the classes that are named: the unbiased ones have outputs for identities too
        outputs = architecture["num_classes"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{checkpoint} is not a Detoxify checkpoint: {error}") from error
    column = _column(label, [CLASS_NAMES.get(name, name) for name in names], checkpoint)
    try:
        config = model_class.config_class.from_pretrained(
            configuration, num_labels=outputs, local_files_only=True
        )
        model, report = model_class.from_pretrained(
            None, config=config, state_dict=stored["state_dict"], **READING
        )
        tokenizer = tokenizer_class.from_pretrained(
            configuration, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{checkpoint} and {configuration} do not fit: {error}") from error
    _refuse_incomplete(report, checkpoint)
    check_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings, configuration)
    logger.info("%s: class %r through a sigmoid", architecture["model_name"], label)
    return Network(model, tokenizer, column, torch.sigmoid, batch_size, device)


def _read_checkpoint(path: Path) -> dict:
    published = PUBLISHED_NAME.search(path.name)
    if published and not file_digest(path).startswith(published[1]):
        raise ValueError(f"{path} is damaged: its sha256 does not begin with {published[1]}")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or holds more than weights and plain values: {error}"
        ) from error
    if not isinstance(stored, dict) or not {"config", "state_dict"} <= set(stored):
        raise ValueError(f"{path} is not a Detoxify checkpoint: no config or no state_dict")
    return stored


def _refuse_incomplete(report: dict, path: Path) -> None:
    """Refuse weights that would stay random, and stored ones of layers that would not be read.

    Heads left over of other tasks, such as a pooler, have no part in what a classifier computes;
    within layers, which have numbers, only old buffers have none.
    """
    problems = [f"lacks {name}" for name in sorted(report["missing_keys"])]
    for name, stored, expected in sorted(report["mismatched_keys"]):
        problems.insert(0, f"has {name} of shape {list(stored)}, not {list(expected)}")
    odd = left_over(name for name in report["unexpected_keys"] if NUMBERED.search(name))
    if odd:
        problems.append(
            f"has tensors that config.json has no place for, {odd}: take the one they belong to"
        )
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        first = ", ".join(problems[:5])
        raise ValueError(f"{path} is no text classifier of this configuration: it {first}{more}")


def _column(label: str, labels: list[str], path: Path) -> int:
    if label not in labels:
        raise ValueError(f"{path} has no label {label!r}, only {', '.join(labels)}")
    if labels.count(label) > 1:
        raise ValueError(
            f"{path} has the label {label!r} {labels.count(label)} times ({', '.join(labels)}), so "
            "which is meant is not known: give each logit a label of its own, as id2label in "
            "config.json does"
        )
    return labels.index(label)


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(dim=-1)


def _longest(model: torch.nn.Module, tokenizer) -> int:
    """Return how many tokens of a text are read.

    A folder without tokenizer_config.json sets no limit, and a text that is longer than the
    model's table of positions would stop the run.
    """
    limits = [LONGEST, tokenizer.model_max_length]
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions:
        # RoBERTa and its like keep the first positions for padding
        table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        limits.append(positions - (0 if padding is None else padding + 1))
    return min(limits)
