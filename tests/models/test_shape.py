"""The shape of a model is read without its weights, and compared with what is declared."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from neurondynamics.fetching import hub
from neurondynamics.lm.shape import check_shape, described_shape, read_shape
from neurondynamics.study import shape
from neurondynamics.study.costs import HEADS, SHAPE
from neurondynamics.study.shape import with_shape, worked_out
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

WEIGHTS = "model.safetensors"
SCRIPTS = Path(shape.__file__).resolve().parents[2]
COMMIT = "f" * 40


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
        "heads": 4,
        "head_width": 16 if case.family == "qwen3" else 8,
        "width": tiny.HIDDEN,
        "key_value_width": KEY_WIDTHS.get(case.family, 4 * 8),
        "vocabulary": tiny.VOCABULARY,
        "parameters": sum(p.numel() for p in case.model.parameters()),
        "positions": None if case.family in ("bloom", "falcon-alibi") else 128,
    }


def test_a_description_is_enough(every_case, tmp_path):
    """The config.json alone says what the model with its weights does."""
    shutil.copy(every_case.folder / "config.json", tmp_path)
    assert described_shape(tmp_path) == read_shape(every_case.folder)


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


def without_biases(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"attention_bias": False, "mlp_bias": False}
    (folder / "config.json").write_text(json.dumps(config))


def with_a_layer_less(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))


def holding(*names):
    def change(folder):
        more = {name: torch.zeros(4, 4) for name in names}
        save_file(load_file(folder / WEIGHTS) | more, folder / WEIGHTS, metadata={"format": "pt"})

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_biases, r"21, such as model\.layers\.0\.mlp\.down_proj\.bias"),
        (with_a_layer_less, r"16, such as model\.layers\.2\.input_layernorm\.weight"),
        (
            holding("model.layers.0.self_attn.q_proj.lora_A.default.weight"),
            r"1, such as model\.layers\.0\.self_attn\.q_proj\.lora_A.*merge what has to be merged",
        ),
    ],
)
def test_weights_that_the_model_has_no_place_for_are_refused(copied, change, said):
    """Without them another model would be studied."""
    change(copied)
    with pytest.raises(ValueError, match=rf"config\.json has no place for: {said}"):
        read_shape(copied)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("gpt2", ["h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
        ("gptj", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("gpt_neox", ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.rotary_emb.inv_freq"]),
        ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq", "v_head.summary.weight"]),
    ],
)
def test_old_buffers_and_heads_of_training_do_no_harm(case_of, tmp_path, family, names):
    folder = shutil.copytree(case_of(family).folder, tmp_path / "model")
    holding(*names)(folder)
    assert read_shape(folder) == read_shape(case_of(family).folder)


def test_weights_of_another_size_are_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(ValueError, match=r"down_proj.weight is stored as \[32, 44\], and config"):
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


@pytest.fixture
def study(case_of, tmp_path, monkeypatch):
    """A working directory with a tiny llama; `study(**model)` completes what is said of a model."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(case_of("llama").folder, tmp_path / "mine")

    def completed(main_process=True, **model):
        config = {"seed": 3, "model": {"name": "m", "source": {"path": "mine"}, **model}}
        return with_shape(config, main_process)["model"]

    return completed


@pytest.fixture
def unasked(monkeypatch):
    """Working out a shape anew, or asking the hub, fails."""

    def fail(*arguments):
        raise AssertionError(arguments)

    monkeypatch.setattr(shape, "worked_out", fail)
    monkeypatch.setattr(hub, "download_snapshot", fail)


def test_a_folder_is_enough_and_is_read_once(study, monkeypatch):
    right = read_shape("mine")
    expected = {"name": "m", "source": {"path": "mine"}, **right, "dtype": "float32"}
    assert study() == expected
    monkeypatch.setattr(shape, "worked_out", None)
    assert study() == study(main_process=False) == expected
    (kept,) = Path("resources/shapes").iterdir()
    assert json.loads(kept.read_text()) == right
    # another description is another model
    monkeypatch.setattr(shape, "worked_out", lambda folder: {**right, "layers": 7})
    Path("mine/config.json").write_text("{}")
    assert study()["layers"] == 7


@pytest.mark.parametrize(
    "spoil",
    [
        lambda right: "",
        lambda right: json.dumps(right)[:-9],
        lambda right: "[]",
        lambda right: '{"layers": 3}',
        lambda right: json.dumps({**right, "width": "32"}),
        lambda right: json.dumps({**right, "width": 32.0}),
        lambda right: json.dumps({**right, "width": 0}),
        lambda right: json.dumps({**right, "width": True}),
    ],
)
def test_a_damaged_shape_is_worked_out_again(study, monkeypatch, spoil):
    right = read_shape("mine")
    monkeypatch.setattr(shape, "worked_out", lambda folder: right)
    study()
    (kept,) = Path("resources/shapes").iterdir()
    kept.write_text(spoil(right))
    with pytest.raises(ValueError, match=r"model\.source: resources/.+ is damaged"):
        study(main_process=False)
    assert study()["width"] == right["width"]
    assert json.loads(kept.read_text()) == right


@pytest.mark.parametrize("main_process", [True, False])
def test_resources_that_are_no_folder_are_named(study, monkeypatch, main_process):
    monkeypatch.setattr(shape, "worked_out", read_shape)
    Path("resources").touch()
    said = r"model\.source: .*cannot be read or kept: .*'resources/shapes.*or state layers"
    with pytest.raises(ValueError, match=said):
        study(main_process)


def test_later_parses_need_neither_torch_nor_transformers(study, monkeypatch):
    monkeypatch.setattr(shape, "worked_out", read_shape)
    study()
    code = (
        "import sys, yaml\n"
        "from neurondynamics.study.configuration import checked\n"
        f"default = yaml.safe_load(open({str(SCRIPTS.parents[1] / 'config.yaml')!r}))\n"
        "mine = {'name': 'm', 'source': {'path': 'mine'}}\n"
        "experiments = dict.fromkeys(default['experiments']) | {\n"
        "    s: {'state': s, 'interventions': {'none': []}} for s in ('base', 'tuned')}\n"
        "overlay = {'model': mine, 'attribution': {'ablated': 1, 'decoded': 1}, 'curve': None,\n"
        "           'experiments': experiments}\n"
        "for main_process in (True, False):\n"
        "    assert checked([default, overlay], main_process)['model']['layers'] == %d\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'pandas', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    ) % tiny.LAYERS
    environment = {"PYTHONPATH": str(SCRIPTS), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.usefixtures("unasked")
def test_what_is_stated_stays(study):
    stated = dict(zip(SHAPE, range(2, 8), strict=True))
    expected = {"name": "m", "source": {"path": "mine"}, **stated, "dtype": "bfloat16"}
    expected["positions"] = 128
    assert study(**stated, dtype="bfloat16") == expected
    assert not Path("resources").exists()  # nothing was read


def test_only_what_is_not_stated_is_filled_in(study, monkeypatch):
    found = dict(zip(SHAPE, range(2, 8), strict=True))
    monkeypatch.setattr(shape, "worked_out", lambda folder: found)
    assert study(layers=99)["layers"] == 99
    assert study(layers=99)["parameters"] == found["parameters"]
    assert "heads" not in study(layers=99)
    found |= {"heads": 8, "head_width": 9}
    Path("resources/shapes").rename("earlier")  # what was kept knew of no heads
    assert study(heads=5)["heads"] == 5
    assert study(heads=5)["head_width"] == 9


@pytest.mark.usefixtures("unasked")
def test_a_job_reads_only_what_the_main_process_made(study):
    with pytest.raises(ValueError, match=r"model\.source: resources/shapes/\w+\.json is missing"):
        study(main_process=False)
    with pytest.raises(ValueError, match=r"model\.source: resources/.+config\.json is missing"):
        study(main_process=False, source={"hub": "a/b", "revision": COMMIT})


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ("{", r"(?i)json"),
        ("{}", "model_type"),
        ('{"model_type": "no-such-family"}', "no-such-family"),
        (
            '{"model_type": "codegen", "n_layer": 1, "n_embd": 64, "n_head": 4}',
            r"'codegen' are not known; known are bloom",
        ),
        ('{"model_type": "t5", "d_model": 32, "num_layers": 1}', "'t5' are no causal"),
        ('{"model_type": "bert", "num_hidden_layers": 1}', "'bert' are not known"),
        ('{"model_type": "gpt2", "n_layer": 0, "vocab_size": 50}', "has no layers"),
        ('{"model_type": "gpt2", "n_layer": "x"}', "'x'"),
        ('{"model_type": "gpt2", "n_embd": -64}', "negative"),
        ('{"model_type": "mine", "auto_map": {"AutoConfig": "a.B"}}', "code of its own"),
    ],
)
def test_a_description_of_no_model_is_refused(tmp_path, description, said):
    (tmp_path / "config.json").write_text(description)
    with pytest.raises((ValueError, OSError), match=said) as caught:
        described_shape(tmp_path)
    assert "trust_remote_code" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_reason_comes_back_from_the_other_process(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "codegen", "n_layer": 1, "n_embd": 64, "n_head": 4}'
    )
    said = r"model\.source: .*config\.json describes cannot be studied: .*'codegen' are not known"
    with pytest.raises(ValueError, match=said) as caught:
        worked_out(tmp_path)
    assert "or state" not in str(caught.value)


def test_a_description_that_cannot_be_read_leaves_two_ways(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": ')
    said = r"model\.source: .*config\.json cannot be read: .*JSON.* Correct it, or state layers"
    with pytest.raises(ValueError, match=said):
        worked_out(tmp_path)


def test_a_process_that_fails_is_named(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('not installed here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = r"worked out with torch and transformers, which failed in .*not installed here.*or state"
    with pytest.raises(ValueError, match=said):
        worked_out(tmp_path)


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"path": "nowhere"}, r"model\.source\.path: there is no nowhere"),
        ({"path": "mine/nowhere"}, r"model\.source\.path: there is no mine/nowhere"),
        ({"path": "empty"}, r"^model\.source\.path: there is no config\.json in empty; name"),
        ({"path": "x.gguf"}, r"model: these keys are missing: layers.*, parameters\..*new_study"),
        ({"wheel": "a==1", "files": [{"path": "config.json"}]}, "model: these keys are missing"),
        ({"url": "https://a/b.zip", "sha256": "0"}, "model: these keys are missing"),
        (
            {"hub": "a/b", "revision": COMMIT, "files": [{"path": "x.gguf"}]},
            "model: these keys are missing",
        ),
    ],
)
def test_what_has_no_description_is_refused_with_the_keys(study, source, said):
    Path("x.gguf").touch()
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=said):
        study(source=source)


def test_a_model_that_was_fetched_has_a_description(study, monkeypatch):
    monkeypatch.setattr(shape, "worked_out", lambda folder: dict.fromkeys(SHAPE, len(folder.name)))
    shutil.move("mine", "resources/models/mod")
    found = study(name="mod", source={"wheel": "a==1", "files": [{"path": "b"}]})
    assert found["layers"] == len("mod")


def test_the_hub_is_asked_for_one_file_once(study, tmp_path, monkeypatch):
    asked = []

    def download(*arguments):
        asked.append(arguments)
        (tmp_path / "snapshot" / "in").mkdir(parents=True, exist_ok=True)
        shutil.copy("mine/config.json", "snapshot/config.json")
        shutil.copy("mine/config.json", "snapshot/in/config.json")
        return tmp_path / "snapshot"

    monkeypatch.setattr(hub, "download_snapshot", download)
    monkeypatch.setattr(
        shape, "worked_out", lambda folder: dict.fromkeys((*SHAPE, *HEADS, "positions"), 5)
    )
    source = {"hub": "a/b", "revision": "refs/pr/1"}
    assert study(source=source)["layers"] == 5
    assert asked == [("a/b", "refs/pr/1", "model", ["config.json"])]
    monkeypatch.setattr(shape, "worked_out", None)
    for main_process in (True, False):
        assert study(source=source, main_process=main_process)["layers"] == 5
    study(source={**source, "files": [{"path": "in/config.json"}, {"path": "in/x"}]})
    assert asked[1:] == [("a/b", "refs/pr/1", "model", ["in/config.json"])]


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (ValueError("the hub is gone."), r"model\.source\.hub: the hub is gone\. Or state layers"),
        (None, r"model\.source\.hub: a/b has no config\.json at f+: name another, or state layers"),
    ],
)
def test_a_hub_that_has_nothing_is_named(study, tmp_path, monkeypatch, trouble, said):
    def download(*arguments):
        if trouble:
            raise trouble
        return tmp_path / "empty"

    monkeypatch.setattr(hub, "download_snapshot", download)
    with pytest.raises(ValueError, match=said):
        study(source={"hub": "a/b", "revision": COMMIT})
    assert not list(Path("resources").rglob("config.json"))
