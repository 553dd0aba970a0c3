"""Loading models and tokenizers from local folders, always the same way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from neurondynamics.data.files import replacing_folder
from neurondynamics.lm.devices import resolve_device
from neurondynamics.runtime import file_digest


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
    pickles in the folder are never run.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    return model.to(resolve_device(device)).eval().requires_grad_(False)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local model folder, without any code in it."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


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
