"""Loading models and tokenizers from local folders, always the same way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from neurondynamics.data.files import replacing_folder
from neurondynamics.lm.devices import resolve_device
from neurondynamics.lm.precision import refuse_lost
from neurondynamics.lm.special import read_special
from neurondynamics.runtime import file_digest

# stored by some versions of software, and no part of what a language model computes: masks,
# positions, and a head that only training read
HARMLESS = re.compile(
    r"(^|\.)(attn|attention)\.(attention\.)?(masked_)?bias$|(^|\.)inv_freq$|(^|\.)(cos|sin)_cached$"
    r"|(^|\.)position_ids$|^v_head\."
)
ALIGNED = 64  # bytes, as torch lays out its own memory
SHOWN = 3  # tensors that a message names
LOCAL = {"local_files_only": True, "trust_remote_code": False}  # neither the hub nor foreign code


@dataclass(frozen=True)
class Reading:
    """How texts are read: in which precision and where, and how much of them at a time.

    `max_tokens` is what is left of a longer text; `batch_size` counts texts.
    """

    dtype: str
    device: str
    threads: int
    max_tokens: int
    batch_size: int

    def load(self, folder: str | Path) -> PreTrainedModel:
        """Let torch use the threads, and load a model folder (see `load_model`)."""
        set_threads(self.threads)
        return load_model(folder, self.dtype, self.device)


def set_threads(threads: int) -> None:
    """Let torch use as many threads as the rule was given."""
    torch.set_num_threads(threads)


def load_model(folder: str | Path, dtype: str, device: str) -> PreTrainedModel:
    """Load a causal language model for inference from a local folder of safetensors.

    `dtype` is a name of torch's, or `auto` for the one that the folder is stored in. Code and
    pickles in the folder are never run. Texts end at the tokens that were decided on when the
    model was brought, or where its own files say so. Raises ValueError if too much of the change
    that tuning made is lost in `dtype` (see `refuse_lost`).
    """
    refuse_lost(folder, dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, **LOCAL)
    special = read_special(folder)
    if special is not None:
        ends = special["ends"]
        model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends or None
    model = model.to(resolve_device(device)).eval().requires_grad_(False)
    _align(model)
    return model


def _align(model: PreTrainedModel) -> None:
    """Copy the weights that lie unevenly in a file that is mapped into memory: products of a single
    row would be rounded otherwise than those with a copy of the same weights."""
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % ALIGNED:
            parameter.data = parameter.data.clone()


def load_config(folder: str | Path) -> PreTrainedConfig:
    """Load the configuration of a local model folder. Raises ValueError as `understanding`."""
    with understanding(folder, "model"):
        return AutoConfig.from_pretrained(folder, **LOCAL)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local model folder, without any code in it.

    Its `embeddings` says how many tokens the folder's model has embeddings for, if it holds one.
    Raises ValueError as `understanding`.
    """
    with understanding(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
        tokenizer("a")  # settings of a wrong kind show once they are used
    if (Path(folder) / "config.json").is_file():
        tokenizer.embeddings = load_config(folder).get_text_config().vocab_size
    return tokenizer


@contextmanager
def understanding(folder: str | Path, what: str) -> Iterator[None]:
    """Turn whatever a library makes of a folder's files into a ValueError that names the folder."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{folder} cannot be read as a {what}: {reason_of(error)}") from error


def left_over(names: Iterable[str]) -> str:
    """Say which stored tensors a model has no place for, though it may be another without them.

    `names` are those that transformers did not use; empty if all are harmless.
    """
    odd = sorted(name for name in names if not HARMLESS.search(name))
    return f"{len(odd)}, such as {', '.join(odd[:SHOWN])}" if odd else ""


def reason_of(error: Exception) -> str:
    """Return the first sentence of what a library says, which may list hundreds of names."""
    if "trust_remote_code" in str(error):
        return "it is made by code of its own repository, which is not run"
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    card: str | None = None,
) -> None:
    """Save a model folder, whole or not at all; `card` is its README.md.

    Raises OSError where the disk has no room for it.
    """
    with replacing_folder(folder, model.get_memory_footprint(return_buffers=False)) as staged:
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        if card is not None:
            (staged / "README.md").write_text(card, encoding="utf-8")


def weight_digest(folder: str | Path) -> str:
    """Return one sha256 for all weight files of a model folder."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return "+".join(file_digest(file) for file in files)


def tokenizer_digest(folder: str | Path) -> str:
    """Return the sha256 of a model folder's tokenizer."""
    return file_digest(Path(folder) / "tokenizer.json")
