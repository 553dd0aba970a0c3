"""Loading models and tokenizers from local folders, always the same way."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from neurondynamics.runtime import file_digest


def set_threads(threads: int) -> None:
    """Let torch use as many threads as the rule was given."""
    torch.set_num_threads(threads)


def resolve_device(device: str) -> torch.device:
    """Turn `auto` into the first GPU, or the CPU where there is none."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def load_model(folder: str | Path, dtype: str, device: str) -> PreTrainedModel:
    """Load a causal language model for inference from a local folder of safetensors.

    `dtype` is a name of torch's, or `auto` for the one that the folder is stored in.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True
    )
    return model.to(resolve_device(device)).eval().requires_grad_(False)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local model folder."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    card: str | None = None,
) -> None:
    """Save a model folder under a temporary name, then rename it; `card` is its README.md."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        staged = Path(scratch) / folder.name
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        if card is not None:
            (staged / "README.md").write_text(card, encoding="utf-8")
        staged.rename(folder)


def weight_digest(folder: str | Path) -> str:
    """Return one sha256 for all weight files of a model folder."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return "+".join(file_digest(file) for file in files)


def tokenizer_digest(folder: str | Path) -> str:
    """Return the sha256 of a model folder's tokenizer."""
    return file_digest(Path(folder) / "tokenizer.json")


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], max_tokens: int
) -> list[list[int]]:
    """Tokenise prompts and keep the first `max_tokens` tokens of each.

    Raises ValueError naming a prompt that has no token at all.
    """
    encoded = [ids[:max_tokens] for ids in tokenizer(prompts).input_ids]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not ids:
            raise ValueError(f"the prompt {prompt!r} has no token")
    return encoded
