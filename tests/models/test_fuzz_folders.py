"""Damage to the files of a model: refused by name, or what is fetched can be read."""

import json
import os
import random
import shutil

import pytest
import tiny
import torch
from damage import flip
from fetch_model import fetch_model
from neurondynamics.lm.loading import load_model, load_tokenizer
from peft import LoraConfig, get_peft_model

MODEL = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
MODEL += ("model.safetensors.index.json", "model-00001-of-00003.safetensors")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
NUMBER = int(os.environ.get("NEURONDYNAMICS_FUZZ", "2"))  # damages of each kind to each file
WRONG = (1e400, -1, 10**40, "", None, [], {}, True, "\0", [[[]]], "NaN", 3.5)


def truncated(path, draw):
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def flipped(path, draw):
    flip(path, draw.randrange(min(path.stat().st_size, 4000)), draw.randrange(8))


def emptied(path, draw):
    path.write_bytes(b"")


def random_bytes(path, draw):
    path.write_bytes(draw.randbytes(300))


def other_value(path, draw):
    """Give one key of a file in JSON, or of a header, another value."""
    if path.suffix != ".json":
        return flipped(path, draw)
    content = json.loads(path.read_text())
    content[draw.choice(sorted(content))] = draw.choice(WRONG)
    return path.write_text(json.dumps(content))


def of_another_kind(path, draw):
    path.write_text(draw.choice(["[]", "null", "7", '"text"', "version: 1\n", "\ufeff{}"]))


DAMAGES = (truncated, flipped, emptied, random_bytes, other_value, of_another_kind)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of a model in three files, and that of an adapter."""
    made = tmp_path_factory.mktemp("whole")
    model = tiny.build_model("llama", num_hidden_layers=1)
    model.save_pretrained(made / "model", max_shard_size="60KB")
    tiny.build_tokenizer().save_pretrained(made / "model")
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(load_model(made / "model", "float32", "cpu"), config).save_pretrained(
        made / "adapter"
    )
    assert {file.name for file in (made / "model").iterdir()} >= set(MODEL)
    return made


def what_it_does(folder):
    model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)
    return model(torch.arange(12)[None]).logits, tokenizer(list(tiny.PROMPTS)).input_ids


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("model", name) for name in MODEL), *(("adapter", name) for name in ADAPTER)],
)
def test_damage_is_named(folders, tmp_path, kind, name):
    draw = random.Random(name)
    base = str(folders / "model") if kind == "adapter" else None
    for damage in DAMAGES:
        for number in range(NUMBER):
            source = tmp_path / f"{damage.__name__}-{number}"
            shutil.copytree(folders / kind, source)
            damage(source / name, draw)
            target = tmp_path / "fetched" / source.name
            try:
                fetch_model(str(target), source={"path": str(source)}, shape={}, base=base)
            except ValueError as error:
                assert str(source) in str(error)  # noqa: PT017
                assert ".fetched" not in str(error)  # noqa: PT017
                assert f".{source.name}." not in str(error)  # noqa: PT017
                assert not target.exists()
            else:
                what_it_does(target)
