"""The shape of a model folder, found without reading its weights, and its check.

Run as a program, with a folder that holds a config.json and optionally the name of a GGUF file in
it, it prints the shape, or why the file is `unreadable` or the model `refused`, in JSON: a study
is parsed without torch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
)

from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.loading import LOCAL, left_over, reason_of, understanding

TOO_LONG = (  # positions, lengths by their keys
    "the model reads at most {} tokens, the positions of its config.json, and is asked for more: "
    "{}. Lower that"
)


def read_shape(folder: str | Path) -> dict[str, int | None]:
    """Return layers, neurons (d_mlp) and attention heads of a layer, head_width, width (d_model),
    key_value_width, vocabulary, parameters, and positions, the tokens that the model reads at most
    (None where nothing says).

    The model is built on torch's meta device, which has no memory, so this is cheap for a model of
    any size. `key_value_width` is what a layer keeps of one token as keys; tied parameters count
    once. Raises ValueError if files are damaged, do not fit, lack a weight or hold one that the
    model has no place for, or layers differ from each other.
    """
    with understanding(folder, "model"):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map="meta",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **LOCAL,
        )
    for name, stored, built in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"the weights of {folder} do not fit its config.json: {name} is stored as "
            f"{list(stored)}, and config.json makes it {list(built)}. They are of different models"
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"the weight files of {folder} lack {len(missing)}, such as {missing[0]}")
    odd = left_over(report["unexpected_keys"])
    if odd:
        raise ValueError(
            f"the weights of {folder} have tensors that its config.json has no place for: {odd}. "
            "Without them it is another model: take the config.json that belongs to the weights, "
            "or load both with the software that made them, merge what has to be merged, and save "
            "the whole model with save_pretrained"
        )
    return _shape_of(model, folder)


def described_shape(folder: str | Path, gguf_file: str | None = None) -> dict[str, int | None]:
    """Return the same of the model that a folder's config.json, or a GGUF file, describes.

    No weights need be there. Raises ValueError as `read_shape`, and if the model is none that
    transformers knows or can build, and OSError for a file that cannot be read.
    """
    options = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(f"models of type {config.model_type!r} are no causal language models")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ImportError):
        raise
    except Exception as error:  # whatever transformers makes of values that it did not expect
        raise ValueError(reason_of(error)) from error
    return _shape_of(model, folder)


def _shape_of(model: PreTrainedModel, folder: str | Path) -> dict[str, int]:
    """Return the shape of a model on the meta device."""
    if not getattr(model.config, "num_hidden_layers", 1):
        raise ValueError(f"the model of {folder} has no layers")
    anatomy = dissect(model)
    cache = DynamicCache(config=model.config)
    model(torch.zeros(1, 1, dtype=torch.long, device="meta"), past_key_values=cache)
    neurons = {layer.n_neurons for layer in anatomy.layers}
    kept = {layer.keys.shape[1] * layer.keys.shape[3] for layer in cache.layers}
    if len(neurons) > 1 or len(kept) > 1:
        raise ValueError(
            f"the layers of {folder} differ: they have {sorted(neurons)} neurons and keys of the "
            f"widths {sorted(kept)}; only models whose layers are alike can be studied"
        )
    return {
        "layers": len(anatomy.layers),
        "neurons": neurons.pop(),
        "heads": anatomy.layers[0].heads,
        "head_width": anatomy.layers[0].head_width,
        "width": anatomy.layers[0].value_vectors().shape[1],
        "key_value_width": kept.pop(),
        "vocabulary": anatomy.unembedding.weight.shape[0],
        "parameters": model.num_parameters(),
        "positions": _positions(model),
    }


def _positions(model: PreTrainedModel) -> int | None:
    if getattr(model.config, "alibi", False):  # biases by distance, of any length
        return None
    found = getattr(model.config, "max_position_embeddings", None)
    return found if type(found) is int and found > 0 else None


def check_positions(folder: str | Path, lengths: dict[str, int]) -> None:
    """Raise ValueError if a model reads fewer tokens than the configuration asks for.

    `lengths` are tokens by the keys that they follow from. The positions that config.json states
    are those that the model was trained on; computing beyond them either fails or means nothing.
    """
    positions = read_shape(folder)["positions"]
    if positions is not None:
        too_long = [f"{key}: {n}" for key, n in lengths.items() if n > positions]
        if too_long:
            raise ValueError(TOO_LONG.format(positions, ", ".join(too_long)))


def check_shape(folder: str | Path, declared: dict[str, int]) -> None:
    """Raise ValueError unless a model has the shape that the configuration says it has.

    `declared` holds some of the keys of `read_shape`, which stand under `model` in the
    configuration. The error lists all values as they belong there.
    """
    found = read_shape(folder)
    wrong = [key for key, value in declared.items() if found[key] != value]
    if wrong:
        differences = ", ".join(
            f"model.{key} is {found[key]}, not {declared[key]}" for key in wrong
        )
        values = "".join(f"\n  {key}: {found[key]}" for key in declared)
        raise ValueError(
            "the model is not what the configuration says of it: "
            f"{differences}; what it says should be\nmodel:{values}"
        )


if __name__ == "__main__":
    try:
        print(json.dumps(described_shape(*sys.argv[1:])))
    except OSError as error:
        print(json.dumps({"unreadable": str(error).rstrip(".")}))
    except ImportError:  # nothing is known of the model
        raise
    except Exception as error:  # a model that cannot be run fails in ways of its own
        print(json.dumps({"refused": str(error)}))
