"""Parts of a model folder that do not go together, found without loading anything."""

import json
import re

import numpy as np
import pytest
from neurondynamics.fetching.folders import check_folder, is_adapter
from safetensors.numpy import save_file

CONFIG = {"model_type": "llama", "vocab_size": 40, "hidden_size": 4}
WEIGHTS = {"model.embed_tokens.weight": (40, 4), "model.norm.weight": (4,)}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
ADAPTER = {"peft_type": "LORA", "r": 2}


@pytest.fixture
def folder(tmp_path):
    """A whole model's folder, in two files of weights with their index."""
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "config.json", CONFIG)
    write(folder / "tokenizer.json", {"model": {"vocab": {}, "dropout": None}})
    places = {}
    for number, (name, shape) in enumerate(WEIGHTS.items(), start=1):
        places[name] = f"model-0000{number}-of-00002.safetensors"
        save_file({name: np.zeros(shape, np.float32)}, folder / places[name])
    write(folder / "model.safetensors.index.json", {"weight_map": places})
    return folder


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def rewrite(name, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text()) | changes
        write(folder / name, {key: value for key, value in content.items() if value is not None})

    return change


def replaced(name, content):
    return lambda folder: write(folder / name, content)


def cut(name, number):
    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:number])

    return change


def removed(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def moved_below(folder):
    (folder / "checkpoint-500").mkdir()
    (folder / "config.json").rename(folder / "checkpoint-500" / "config.json")


def swapped(folder):
    first, second = sorted(folder.glob("*-of-00002.safetensors"))
    first.rename(folder / "other")
    second.rename(first)
    (folder / "other").rename(second)


def quantised(folder):
    rewrite("config.json", quantization_config={"quant_method": "bitsandbytes"})(folder)
    name = "model-00001-of-00002.safetensors"
    whole = {"model.embed_tokens.weight": np.zeros((40, 4), np.uint8)}
    save_file(whole, folder / name)


def both_kinds(folder):
    write(folder / "adapter_config.json", ADAPTER)
    save_file({"a": np.zeros(1, np.float32)}, folder / "adapter_model.safetensors")


FIRST = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (removed("config.json"), "no Hugging Face model folder: it holds no config.json"),
        (moved_below, "A model lies in checkpoint-500: name that folder"),
        (removed("tokenizer.json"), "holds no tokenizer"),
        (replaced("config.json", POINTER), "config.json is a pointer of git-lfs"),
        (replaced("tokenizer.json", POINTER), "tokenizer.json is a pointer of git-lfs"),
        (replaced(FIRST, POINTER), f"{FIRST} is a pointer of git-lfs"),
        (replaced(FIRST, "<!DOCTYPE html><p>Log in"), f"{FIRST} is a web page"),
        (replaced(FIRST, ""), f"{FIRST} is empty"),
        (replaced("config.json", ""), "config.json is empty"),
        (replaced("tokenizer.json", "{\n"), "tokenizer.json, line 2, column 1: "),
        (replaced("generation_config.json", "[1]"), "generation_config.json holds list, not"),
        (replaced("tokenizer.json", "{}"), "tokenizer.json holds no tokenizer"),
        (replaced("config.json", "[" * 10_000), "config.json is no JSON that can be read"),
        (cut(FIRST, -4), f"{FIRST} is shorter than its header says, 732 bytes and not 736"),
        (cut(FIRST, 20), "is no safetensors file, or cut off in its header"),
        (removed(FIRST), f"lacks 1 of 2 files of weights, such as {FIRST}"),
        (removed("model.safetensors.index.json"), f"holds {FIRST} but no model.safetensors.index"),
        (rewrite("model.safetensors.index.json", weight_map=["a"]), "has no weight_map"),
        (swapped, "says that model.embed_tokens.weight is in model-00001"),
        (rewrite("config.json", vocab_size=50), "says vocab_size 50, and .*embed_tokens.* has 40"),
        (rewrite("config.json", pad_token_id=40), "pad_token_id is 40, and the model has 40 emb"),
        (
            rewrite("config.json", quantization_config={"quant_method": "gptq"}),
            r"quantization_config \(gptq\), and .* its weights are whole, so remove the key",
        ),
        (quantised, r"quantization_config \(bitsandbytes\).* dequantize\(\)"),
        (rewrite("config.json", attn_implementation="flash_attention_2"), "remove the key, which"),
        (rewrite("config.json", torch_dtype="torch.bfloat16"), "torch_dtype .* write bfloat16"),
        (
            replaced("tokenizer.json", {"model": {"type": "BPE", "dropout": 0.1}}),
            r"tokenizer\.json: model\.dropout is 0\.1, so a text has other tokens each time",
        ),
        (both_kinds, "holds a whole model, model-00001.* and an adapter, adapter_model.safetens"),
    ],
)
def test_what_does_not_go_together_is_named(folder, change, said):
    check_folder(folder)
    change(folder)
    with pytest.raises(ValueError, match=f"(?s){re.escape(str(folder))}.*{said}|{said}") as error:
        check_folder(folder)
    assert str(folder) in str(error.value)


def test_what_a_merge_leaves_behind_makes_no_adapter(folder):
    write(folder / "adapter_config.json", ADAPTER)
    assert not is_adapter(folder)
    check_folder(folder)
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (folder / name).unlink()
    assert is_adapter(folder)
    with pytest.raises(ValueError, match=r"the adapter has no adapter_model\.safetensors"):
        check_folder(folder)


def test_an_adapter_of_other_layers_is_refused(tmp_path):
    write(tmp_path / "adapter_config.json", ADAPTER | {"layer_replication": [[0, 2], [1, 3]]})
    with pytest.raises(ValueError, match=r"adapter_config\.json: layer_replication gives the ad"):
        check_folder(tmp_path)


def test_a_tokenizer_in_older_files_is_one(folder):
    (folder / "tokenizer.json").unlink()
    write(folder / "vocab.json", {"a": 0})
    with pytest.raises(ValueError, match="holds no tokenizer"):
        check_folder(folder)
    write(folder / "merges.txt", "#version: 0.2\n")
    check_folder(folder)
