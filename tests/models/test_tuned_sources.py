"""Tuned versions that are brought: adapters are merged, and other models than the base refused."""

import json
import re
import shutil

import pytest
import tiny
import torch
from fetch_model import fetch_model
from neurondynamics.lm.likeness import tokenizer_differences
from neurondynamics.lm.loading import load_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("base") / "model")


def fetch(folder, source, base):
    fetch_model(str(folder), source={"path": str(source)}, shape={}, base=str(base))
    return folder


def write_adapter(folder, base, **options):
    """Write an adapter none of whose weights is zero."""
    torch.manual_seed(0)
    options = {"r": 2, "lora_alpha": 6, "target_modules": ["down_proj", "q_proj"]} | options
    adapted = get_peft_model(load_model(base, "float32", "cpu"), LoraConfig(**options))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_is_merged_into_the_base_model(case_of, tmp_path, family):
    base = case_of(family).folder
    modules = ["down_proj", "q_proj"] if family == "llama" else ["c_fc", "c_proj"]
    adapter = write_adapter(tmp_path / "adapter", base, target_modules=modules)
    merged = load_model(fetch(tmp_path / "tuned", adapter, base), "float32", "cpu").state_dict()
    factors = load_file(adapter / "adapter_model.safetensors")
    before = load_model(base, "float32", "cpu").state_dict()
    assert set(merged) == set(before)
    changed = set()
    for name, weight in before.items():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        expected = weight.double()
        if f"{key}A.weight" in factors:
            change = factors[f"{key}B.weight"].double() @ factors[f"{key}A.weight"].double()
            # GPT-2 stores its matrices the other way round
            expected = expected + 6 / 2 * (change.T if family == "gpt2" else change)
            changed.add(name.split(".")[-2])
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-5, atol=1e-5)
    assert changed == set(modules)
    assert not list((tmp_path / "tuned").glob("adapter*"))


def change_adapter(folder, change):
    """Damage an adapter in one way."""
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    stored, settings = load_file(weights), json.loads(config.read_text())
    first = sorted(stored)[0]
    if change == "missing":
        stored.pop(first)
    elif change == "odd":
        stored[first.replace("layers.0", "layers.7")] = stored[first].clone()
    elif change == "size":
        stored[first] = stored[first][:, :-1].clone()
    elif change == "modules":
        settings["target_modules"] = ["no_such_proj"]
    elif change == "kind":
        settings["peft_type"] = "IA3"
    save_file(stored, weights)
    config.write_text(json.dumps(settings))
    if change == "pickle":
        torch.save(stored, folder / "adapter_model.bin")
        weights.unlink()
    if change == "tokenizer":
        other = tiny.build_tokenizer()
        other.backend_tokenizer.normalizer = normalizers.Lowercase()
        other.save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "missing",
            "0 of its weights have no place, such as none, and 1 are missing, such as base_",
        ),
        ("odd", "1 of its weights have no place, such as base_model.*layers.7"),
        ("size", r"trained on .*model, does not fit: .*size mismatch"),
        ("modules", r"does not fit: .*no_such_proj"),
        ("kind", "the adapter is of the kind IA3, and only LORA is"),
        ("pickle", "no adapter_model.safetensors; pickles are not read"),
        ("tokenizer", "another tokenizer than the base model: .* remove the tokenizer's files"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(base, tmp_path, change, message):
    adapter = write_adapter(tmp_path / "adapter", base)
    change_adapter(adapter, change)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fetch(tmp_path / "tuned", adapter, base)
    assert not (tmp_path / "tuned").exists()


def test_an_adapter_is_no_base_model(base, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", base)
    with pytest.raises(ValueError, match="the source of `model` holds an adapter"):
        fetch_model(str(tmp_path / "mine"), source={"path": str(adapter)}, shape={}, base=None)


def test_a_tuned_version_of_the_base_is_taken_and_other_settings_are_told(base, tmp_path, caplog):
    """Vocabularies written in another way are the same; so is a tokenizer with other padding."""
    tuned = tmp_path / "source"
    tiny.save(tiny.nudge(tiny.build_model("llama"), 0.1), tuned)
    config = json.loads((tuned / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    (tuned / "config.json").write_text(json.dumps(config))
    other = tiny.build_tokenizer()
    other.pad_token, other.padding_side = tiny.END, "left"
    other.save_pretrained(tuned)
    fetch(tmp_path / "tuned", tuned, base)
    assert "config.json, rope_parameters: " in caplog.text
    assert caplog.text.count("config.json, ") == 1


def of_another_size(**changes):
    model = tiny.build_model("llama")
    for key, value in changes.items():
        setattr(model.config, key, value)
    return type(model)(model.config)


def wide(model):
    model.resize_token_embeddings(tiny.VOCABULARY + 8)
    return model


@pytest.mark.parametrize(
    ("build", "messages"),
    [
        (
            lambda: tiny.build_model("qwen2"),
            ["family: llama in the base model, qwen2 in the tuned"],
        ),
        (
            lambda: of_another_size(intermediate_size=48, num_hidden_layers=2),
            ["layers: 3 in the base model, 2 in the tuned", "neurons: 44 in the base model, 48 in"],
        ),
        (
            lambda: of_another_size(num_key_value_heads=4),
            ["key_value_width: 16 in the base model, 32"],
        ),
        (  # whose weights have the same shapes
            lambda: of_another_size(num_attention_heads=8, num_key_value_heads=4, head_dim=4),
            ["heads: 4 in the base model, 8 in the tuned", "head_width: 8 in the base model, 4"],
        ),
        (lambda: wide(of_another_size()), ["vocabulary: 400 in the base model, 408 in the tuned"]),
    ],
)
def test_another_model_is_refused_with_both_values(base, tmp_path, build, messages):
    source = tiny.save(build(), tmp_path / "source")
    with pytest.raises(ValueError, match="the tuned version cannot be compared") as error:
        fetch(tmp_path / "tuned", source, base)
    listed = str(error.value).splitlines()[1:]
    assert len(listed) == len(messages)
    assert all(line.startswith(f"- {start}") for line, start in zip(listed, messages, strict=True))
    assert not (tmp_path / "tuned").exists()


def test_another_tokenizer_is_refused(base, tmp_path):
    shutil.copytree(base, tmp_path / "source")
    changed = tiny.build_tokenizer()
    changed.backend_tokenizer.normalizer = normalizers.Lowercase()
    changed.save_pretrained(tmp_path / "source")
    with pytest.raises(ValueError, match=r"\n- tokenizer: the text 'Word WORD .*': \[") as e:
        fetch(tmp_path / "tuned", tmp_path / "source", base)
    assert "in the base model" in str(e.value)


def swap_merges(backend):
    content = json.loads(backend.to_str())
    content["model"]["merges"].reverse()
    return Tokenizer.from_str(json.dumps(content))


def swap_ids(backend):
    content = json.loads(backend.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    return Tokenizer.from_str(json.dumps(content))


def begin(backend):
    backend.post_processor = processors.TemplateProcessing(
        single=f"{tiny.END} $A", special_tokens=[(tiny.END, 0)]
    )
    return backend


def split_digits(backend):
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )
    return backend


def prefix(backend):
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return backend


def ordinary(backend):
    """Leave the special token's text to the ordinary ones."""
    content = json.loads(backend.to_str())
    content["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda backend: backend, None),
        (swap_merges, "the text"),
        (swap_ids, r"2 tokens of the vocabulary differ; 'a' is \d+ and \d+, 'b' is"),
        (begin, "the text ''"),
        (split_digits, None),  # no token of this vocabulary has two digits: the ids are the same
        (prefix, "the text 'word'"),
        (ordinary, "the text"),
    ],
)
def test_tokenizers_are_compared_by_what_they_do(change, differs):
    backend = change(tiny.build_tokenizer().backend_tokenizer)
    other = PreTrainedTokenizerFast(tokenizer_object=backend)
    found = tokenizer_differences(tiny.build_tokenizer(), other)
    assert len(found) == (differs is not None)
    assert re.search(differs or "^$", "".join(found))
