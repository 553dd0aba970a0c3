"""The shape of a model is read without its weights, and compared with what is declared."""

import json
import shutil

import pytest
import tiny
import torch
import yaml
from neurondynamics.lm.shape import check_shape, read_shape
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

WEIGHTS = "model.safetensors"


@pytest.fixture
def copied(case_of, tmp_path):
    """A copy of a tiny llama's folder, to spoil."""
    return shutil.copytree(case_of("llama").folder, tmp_path / "model")


# four heads of 8, or fewer of keys
KEY_WIDTHS = dict.fromkeys(("llama", "mistral", "phi3", "qwen2", "gemma2", "gemma3_text"), 2 * 8)
KEY_WIDTHS |= {"qwen3": 2 * 16, "falcon": 8}  # one head of keys for all


def test_shape_of_every_family(every_case):
    case = every_case
    assert read_shape(case.folder) == {
        "layers": tiny.LAYERS,
        "neurons": 4 * tiny.HIDDEN if case.family == "bloom" else tiny.NEURONS,
        "width": tiny.HIDDEN,
        "key_value_width": KEY_WIDTHS.get(case.family, 4 * 8),
        "vocabulary": tiny.VOCABULARY,
        "parameters": sum(p.numel() for p in case.model.parameters()),
    }


def test_parameters_worked_by_hand(tmp_path):
    sizes = {"hidden_size": 12, "intermediate_size": 20, "vocab_size": 50, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8}
    layer = 12 * 24 + 2 * 12 * 8 + 24 * 12 + 3 * 12 * 20 + 2 * 12  # q, k and v, o, MLP, norms
    for tied, embeddings in ((True, 1), (False, 2)):
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))
        model.save_pretrained(tmp_path / str(tied))
        found = read_shape(tmp_path / str(tied))
        assert found["parameters"] == 2 * layer + 12 + embeddings * 50 * 12
        assert found["key_value_width"] == 8


def test_weights_are_not_read(copied):
    # what is stored does not matter, so a model of NaN has a shape too
    weights = {
        name: torch.full_like(t, torch.nan) for name, t in load_file(copied / WEIGHTS).items()
    }
    save_file(weights, copied / WEIGHTS, metadata={"format": "pt"})
    assert read_shape(copied)["layers"] == tiny.LAYERS


def test_a_missing_weight_is_named(copied):
    weights = load_file(copied / WEIGHTS)
    name = "model.layers.1.mlp.up_proj.weight"
    del weights[name]
    save_file(weights, copied / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_shape(copied)


def test_weights_of_another_size_are_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(RuntimeError, match=r"size mismatch|mismatched"):
        read_shape(copied)


def test_a_truncated_file_is_refused(copied):
    content = (copied / WEIGHTS).read_bytes()
    (copied / WEIGHTS).write_bytes(content[:-1])
    with pytest.raises(Exception, match=r"(?i)incomplete|not fully covered"):
        read_shape(copied)


@pytest.mark.parametrize("key", ["layers", "neurons", "width", "vocabulary", "parameters"])
def test_a_wrong_value_is_named_and_all_values_can_be_pasted(case_of, key):
    folder = case_of("gpt2").folder
    right = read_shape(folder)
    check_shape(folder, right)
    with pytest.raises(ValueError, match=rf"model\.{key} is {right[key]}, not 7") as caught:
        check_shape(folder, right | {key: 7})
    pasted = str(caught.value).split("should be\n")[1]
    assert yaml.safe_load(pasted) == {"model": right}


def test_what_is_not_declared_may_be_anything(case_of):
    check_shape(case_of("qwen2").folder, {"layers": tiny.LAYERS, "width": tiny.HIDDEN})
