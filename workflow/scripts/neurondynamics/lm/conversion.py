"""Turning other forms of models into plain Hugging Face folders: GGUF files and adapters."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from neurondynamics.lm.likeness import tokenizer_differences
from neurondynamics.lm.loading import load_model, load_tokenizer, save_model

logger = logging.getLogger(__name__)


def dequantise(files: list[Path], folder: str | Path) -> None:
    """Save a model and tokenizer of a GGUF file, in float32, as a Hugging Face folder.

    Raises ValueError if there is more than one file: transformers reads no split GGUF.
    """
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"name one GGUF file alone, not {names}: a split one has to be merged")
    (file,) = files
    logger.info("dequantising %s", file.name)
    options = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    quantised = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    # the loaded model counts as quantised and cannot be saved: its weights go into a plain one
    values = quantised.config.to_dict()
    config = type(quantised.config)(
        **{key: value for key, value in values.items() if key != "quantization_config"}
    )
    with torch.device("meta"):  # which takes the weights as they are, not a copy
        plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = quantised.generation_config
    save_model(plain, tokenizer, folder)


def merge_adapter(adapter: Path, base: str | Path, folder: str | Path) -> None:
    """Save a LoRA adapter merged into the base model, in that one's precision, as a whole model.

    Raises ValueError if it is an adapter of another kind, holds no safetensors, comes with another
    tokenizer, or does not fit the base model.
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise ValueError(f"the adapter is of the kind {config.get('peft_type')}, and only LORA is")
    if not (adapter / "adapter_model.safetensors").exists():
        raise ValueError("the adapter has no adapter_model.safetensors; pickles are not read")
    if (adapter / "tokenizer.json").exists():
        differences = tokenizer_differences(load_tokenizer(base), load_tokenizer(adapter))
        if differences:
            raise ValueError(f"the adapter has another tokenizer than the base: {differences[0]}")
    trained_on = config.get("base_model_name_or_path")
    logger.info("merging an adapter trained on %s into %s", trained_on, base)
    model = load_model(base, "auto", "cpu")
    stored = load_file(adapter / "adapter_model.safetensors")
    try:
        adapted = PeftModel.from_pretrained(model, adapter, local_files_only=True)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"the adapter, trained on {trained_on}, does not fit: {error}") from error
    taken = set(get_peft_model_state_dict(adapted))
    lacking, odd = sorted(taken - set(stored)), sorted(set(stored) - taken)
    if lacking or odd:
        raise ValueError(
            f"the adapter, trained on {trained_on}, does not fit: "
            f"{len(odd)} of its weights have no place, such as {(odd or ['none'])[0]}, and "
            f"{len(lacking)} are missing, such as {(lacking or ['none'])[0]}"
        )
    save_model(adapted.merge_and_unload(), load_tokenizer(base), folder)
