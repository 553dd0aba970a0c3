"""Turning other forms of models into plain Hugging Face folders: GGUF files and adapters."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path

import gguf
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from neurondynamics.data.formats import refuse_foreign
from neurondynamics.lm.likeness import tokenizer_differences
from neurondynamics.lm.loading import load_model, load_tokenizer, save_model

logger = logging.getLogger(__name__)

TEXTS, TOKENS = 4, 8  # on which a merged model is compared with its adapter
TOLERANCE = 1e-4  # of logits, relative, in float32


def dequantise(files: list[Path], folder: str | Path) -> None:
    """Save a model and tokenizer of a GGUF file, in float32, as a Hugging Face folder.

    Raises ValueError if there is more than one file, since transformers reads no split GGUF, or if
    it does not read all that a file says of its model.
    """
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"name one GGUF file alone, not {names}: a split one has to be merged")
    (file,) = files
    refuse_foreign(file, "a GGUF file")
    logger.info("dequantising %s", file.name)
    options = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    quantised, report = AutoModelForCausalLM.from_pretrained(
        file.parent, dtype=torch.float32, output_loading_info=True, **options
    )
    _check_all_read(file, quantised, report["missing_keys"])
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


def _check_all_read(file: Path, model: PreTrainedModel, missing: Iterable[str]) -> None:
    """Raise ValueError if transformers passed over anything of a GGUF file that its model needs.

    It says nothing of tensors that its model has no place for, nor of scaled rotary positions,
    which stand in a tensor of factors (Llama 3.1 and later) or in the metadata.
    """
    reader = gguf.GGUFReader(file)
    factors = [tensor for tensor in reader.tensors if tensor.name.startswith("rope_")]
    scaled = [t.name for t in factors if (gguf.dequantize(t.data, t.tensor_type) != 1).any()]
    rope = getattr(model.config, "rope_parameters", None) or {}
    of_layers = [
        rope,
        *(part for part in rope.values() if isinstance(part, dict)),
    ]  # as Gemma 3 has
    if any(part.get("rope_type") == "default" for part in of_layers):
        kinds = {name: field.contents() for name, field in reader.fields.items()}
        scaled += [n for n, kind in kinds.items() if n.endswith("scaling.type") and kind != "none"]
    held = {t.name: int(t.n_elements) for t in reader.tensors if not t.name.startswith("rope_")}
    if model.config.tie_word_embeddings:  # some files hold a shared weight twice
        held.pop("output.weight", None)
    taken = sum(weight.numel() for weight in model.parameters())
    wrong = []
    if missing := sorted(missing):
        wrong.append(f"it lacks {len(missing)} of the model's weights, such as {missing[0]}")
    if sum(held.values()) != taken:
        odd = sorted(set(held) - _known_tensors(model)) or ["none by its name"]
        wrong.append(
            f"its tensors hold {sum(held.values()):,} numbers, and {taken:,} were read; no place "
            f"is known for {', '.join(odd[:4])}"
        )
    if scaled:
        wrong.append(f"its rotary positions are scaled by {', '.join(scaled)}, which are not read")
    if wrong:
        raise ValueError(
            f"{file.name}: transformers reads another model than the file holds: "
            f"{'; '.join(wrong)}. Name the folder or repository that the file was made from"
        )


def _known_tensors(model: PreTrainedModel) -> set[str]:
    """Return the names that tensors of a model have in a GGUF file, as transformers maps them."""
    of_kind = TENSOR_PROCESSORS.get(model.config.model_type, TensorProcessor)
    return set(get_gguf_hf_weights_map(model, of_kind(config=model.config.to_dict())))


def merge_adapter(adapter: Path, base: str | Path, folder: str | Path) -> None:
    """Save a LoRA adapter merged into the base model, in float32, as a whole model.

    In float32 whatever the base model is stored in, since a small change would be rounded away.
    Where the adapter changes one of two parts that share a weight, they no longer do. Raises
    ValueError if it comes with another tokenizer, does not fit the base model, or what was saved
    computes other logits than peft does with base model and adapter.
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if (adapter / "tokenizer.json").exists():
        _check_tokenizer(adapter, base)
    trained_on = config.get("base_model_name_or_path")
    logger.info("merging an adapter trained on %s into %s", trained_on, base)
    model = load_model(base, "float32", "cpu")
    stored = load_file(adapter / "adapter_model.safetensors")
    unfit = f"the adapter, trained on {trained_on}, does not fit:"
    try:
        with warnings.catch_warnings():  # of weights that are missing, which are counted below
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(model, adapter, local_files_only=True)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # whatever peft and torch make of files that are not of this model
        raise ValueError(f"{unfit} {error}") from error
    taken = set(get_peft_model_state_dict(adapted))
    lacking, odd = sorted(taken - set(stored)), sorted(set(stored) - taken)
    if lacking or odd:
        raise ValueError(
            f"{unfit} {len(odd)} of its weights have no place, such as {(odd or ['none'])[0]}, and "
            f"{len(lacking)} are missing, such as {(lacking or ['none'])[0]}"
        )
    tokens = _some_tokens(model)
    expected = _logits(adapted, tokens)
    tied = _untie(model)
    try:
        merged = adapted.merge_and_unload()
    except RuntimeError as error:  # such as biases that the base model has no place for
        raise ValueError(
            f"the adapter, trained on {trained_on}, cannot be merged: {error}"
        ) from error
    if tied:
        _tie_if_equal(merged)
    save_model(merged, load_tokenizer(base), folder)
    del model, adapted, merged
    _check_logits(expected, _logits(load_model(folder, "float32", "cpu"), tokens))


def _check_tokenizer(adapter: Path, base: str | Path) -> None:
    own, tokenizer = load_tokenizer(base), load_tokenizer(adapter)
    tokenizer.embeddings = own.embeddings  # an adapter has none of its own
    differences = tokenizer_differences(own, tokenizer)
    if differences:
        raise ValueError(
            f"the adapter has another tokenizer than the base model: {differences[0]}. If it was "
            "trained on the base model's own, remove the tokenizer's files from its folder"
        )
    added = sorted(n for n in tokenizer.get_vocab().values() if n >= own.embeddings)
    if added:
        logger.warning(
            "the adapter's tokenizer adds %s, which the model has no embedding for: passed over",
            ", ".join(map(repr, tokenizer.convert_ids_to_tokens(added))),
        )


def _untie(model: PreTrainedModel) -> bool:
    """Give a model's unembedding a weight of its own, under whatever an adapter wraps around it.

    Returns whether it shared the embedding's.
    """
    layer = _innermost(model.get_output_embeddings())
    if layer.weight is not _innermost(model.get_input_embeddings()).weight:
        return False
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    return True


def _innermost(layer: torch.nn.Module) -> torch.nn.Module:
    while True:
        if hasattr(layer, "base_layer"):
            layer = layer.base_layer
        elif hasattr(layer, "original_module"):
            layer = layer.original_module
        else:
            return layer


def _tie_if_equal(model: PreTrainedModel) -> None:
    """Let embedding and unembedding share a weight again if an adapter left them equal."""
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    tied = torch.equal(embedding.weight, unembedding.weight)
    if tied:
        unembedding.weight = embedding.weight
    else:
        logger.info("embedding and unembedding share no weight any more: one was adapted")
    for config in (model.config, model.config.get_text_config()):  # peft says no in any case
        config.tie_word_embeddings = tied


def _some_tokens(model: PreTrainedModel) -> torch.Tensor:
    """Return token ids from all of the vocabulary, (texts, tokens)."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return torch.linspace(0, vocabulary - 1, TEXTS * TOKENS).long().view(TEXTS, TOKENS)


@torch.inference_mode()
def _logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model.eval()(input_ids=tokens, use_cache=False).logits


def _check_logits(expected: torch.Tensor, found: torch.Tensor) -> None:
    """Raise ValueError if logits, (texts, tokens, vocabulary), differ by more than rounding."""
    size = float(expected.double().norm())
    difference = float((found.double() - expected.double()).norm()) / max(size, 1e-30)
    logger.info("logits of the merged model differ from peft's by %.1e, relative", difference)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the merged model's logits differ from those of base model and adapter by "
            f"{difference:.2g} of their norm, and at most {TOLERANCE:g} is rounding: merge the "
            "adapter with its own software, save the whole model, and name that"
        )
