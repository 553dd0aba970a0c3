"""Whatever study is written to start from passes, and is short."""

import importlib.util
import json
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from neurondynamics.study import shape
from neurondynamics.study.configuration import checked
from neurondynamics.study.costs import HEADS, SHAPE
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "workflow" / "new_study.py"
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
SMALL = {  # in neurons, as Pythia-14m and as the model of the tests
    3072: {"layers": 6, "neurons": 512},
    132: {"layers": 2, "neurons": 66},
    6: {"layers": 2, "neurons": 3},
}
LARGE = {key: DEFAULT["model"][key] for key in (*SHAPE, *HEADS)}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def load_new_study():
    specification = importlib.util.spec_from_file_location("new_study", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


new_study = load_new_study()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with models, whose shapes are known without transformers, and prompts."""
    monkeypatch.chdir(tmp_path)
    for name in ("my-model", "tuned", "base"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"of": name}))
        (tmp_path / name / "tokenizer.json").write_text('{"model": {}}')
        save_file({"weight": np.zeros(1)}, tmp_path / name / "model.safetensors")
    (tmp_path / "Model Q4.gguf").write_bytes(b"GGUF")
    with zipfile.ZipFile(tmp_path / "Packed.zip", "w") as archive:
        archive.writestr("inside/config.json", "{}")
    (tmp_path / "mine.txt").write_text("".join(f"prompt {number}\n" for number in range(40)))
    rows = "".join(json.dumps({"prompt": f"prompt {number}"}) + "\n" for number in range(3000))
    (tmp_path / "mine.jsonl").write_text(rows)
    for module in (shape, new_study):
        monkeypatch.setattr(module, "worked_out", lambda folder, gguf_file=None: dict(LARGE))
    return tmp_path


def written(*arguments, output="my-study.yaml"):
    new_study.main([*arguments, "--output", output])
    return Path(output).read_text(encoding="utf-8")


MODELS = [["my-model"], ["Model Q4.gguf"], ["Packed.zip"]]
NAMES = {"my-model": "my-model", "Model Q4.gguf": "model-q4", "Packed.zip": "packed"}
TUNED = [[], ["--tuned", "tuned"], ["--tuned", "base"], ["--tuned", "my-model"]]
LATER = (new_study.LEXICON, new_study.CLASSIFIER)  # put in place by hand
BEHAVIOURS = [[], ["--behaviour", "negative sentiment", "--adjective", "negative"]]
PROMPTS = [[], ["--prompts", "mine.txt"], ["--prompts", "mine.jsonl"]]


@pytest.mark.parametrize("model", MODELS, ids=lambda value: " ".join(value))
@pytest.mark.parametrize("tuned", TUNED, ids=lambda value: " ".join(value))
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda value: " ".join(value))
@pytest.mark.parametrize("prompts", PROMPTS, ids=lambda value: " ".join(value))
def test_every_study_that_is_written_passes(here, model, tuned, behaviour, prompts):
    text = written(*model, *tuned, *behaviour, *prompts)
    assert 20 <= len(text.splitlines()) <= 30, text
    assert text.endswith("\n")
    assert text.count("#") >= 10
    config = checked([DEFAULT, yaml.safe_load(text)], absent=LATER)
    assert config["model"]["source"] == {"path": model[0]}
    assert config["model"] == {
        "name": NAMES[model[0]],
        "source": {"path": model[0]},
        "dtype": "float32",
        **LARGE,
    }
    if tuned:
        (version,) = config["tuned"].values()
        assert version == {"source": {"path": tuned[1]}}
    else:
        assert list(config["tuned"]) == ["dpo"]
    if prompts:
        assert {
            split["dataset"] for split in (config["prompts"][s] for s in new_study.NUMBERS)
        } == {"my-prompts"}
    if behaviour:
        assert config["behaviour"] == {"name": "negative sentiment", "adjective": "negative"}
        assert list(config["scorers"]) == ["classifier", "lexicon"]


def shaped(monkeypatch, number):
    small = {**LARGE, **SMALL[number]}
    for module in (shape, new_study):
        monkeypatch.setattr(module, "worked_out", lambda folder, gguf_file=None: dict(small))


@pytest.mark.parametrize("number", SMALL)
@pytest.mark.parametrize("model", MODELS, ids=lambda value: " ".join(value))
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda value: " ".join(value))
@pytest.mark.parametrize("prompts", PROMPTS[::2], ids=lambda value: " ".join(value))
def test_a_small_model_goes_without_what_it_is_too_small_for(
    here, monkeypatch, number, model, behaviour, prompts
):
    shaped(monkeypatch, number)
    text = written(*model, *behaviour, *prompts)
    assert len(text.splitlines()) <= 30, text
    assert "experiments: # without" in text
    config = checked([DEFAULT, yaml.safe_load(text)], absent=LATER)
    assert config["curve"] == "cumulative"
    assert config["attribution"]["ablated"] == min(200, number)
    assert config["directions"]["svd"]["number"] == min(128, number)
    of = {name: list(one["interventions"]) for name, one in config["experiments"].items()}
    assert of.keys() == DEFAULT["experiments"].keys() | {"rankings"}
    tops = [f"top-{top}" for top in (1, 10, 100, 1000, 10000) if top <= number]
    assert of["cumulative"] == [*tops, "top-all"]
    # of one sign there may be a quarter
    signed = [f"ablate-positive-{top}" for top in (100, 200, 1000, 2000) if top <= number / 4]
    either = [f"ablate-{top}" for top in (100, 200, 1000) if top <= number]
    assert of["ablation"] == ["none", *either, *signed]


def test_an_experiment_of_which_nothing_is_left_is_dropped_and_its_curve():
    steps = [{"select": {"top": 10}, "operation": "zero"}]
    experiments = {"all": {"interventions": {"a": steps}}, "some": {"interventions": {"none": []}}}
    default = {"attribution": {"ablated": 2, "decoded": 2}, "experiments": experiments}
    small, large = ({"layers": 1, "neurons": number, "heads": 10} for number in (9, 10))
    of_all, of_some = (
        new_study.smaller_sections(small, {**default, "curve": curve}) for curve in ("all", "some")
    )
    assert of_all == [[], [of_all[1][0], "  all: null"], ["curve: null"]]
    assert of_some == [*of_all[:2], []]
    assert new_study.smaller_sections(large, default) == [[], [], []]
    steps[0]["select"] |= {"of": "heads"}
    assert new_study.smaller_sections(small, default) == [[], [], []]


def test_a_large_model_keeps_every_experiment(here):
    assert "experiments" not in yaml.safe_load(written("my-model"))


def test_the_shape_of_an_archive_is_that_of_its_outermost_description(here, monkeypatch):
    described = {"sub/deep/config.json": "deep", "sub/config.json": "top"}
    for name, said in described.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(said)
    with tarfile.open(here / "Big-1.4b.tar.gz", "w:gz") as archive:
        for name in described:
            archive.add(here / name, name)
    read = []

    def worked_out(folder, gguf_file=None):
        read.append((folder / "config.json").read_text())
        return LARGE | {"positions": 2048}

    monkeypatch.setattr(new_study, "worked_out", worked_out)
    model = yaml.safe_load(written("Big-1.4b.tar.gz"))["model"]
    assert read == ["top"]
    assert model["name"] == "big-1.4b"
    assert {key: model[key] for key in LARGE} == LARGE


def test_an_archive_that_describes_no_model_is_named_and_not_a_temporary_folder(here, monkeypatch):
    def worked_out(folder, gguf_file=None):
        raise ValueError(f"model.source: {folder / 'config.json'} describes no model")

    monkeypatch.setattr(new_study, "worked_out", worked_out)
    with pytest.raises(SystemExit, match=r": inside/config.json in Packed.zip describes no model"):
        new_study.main(["Packed.zip"])


def test_a_name_with_a_dot_stays_whole(here):
    (here / "my-model").rename(here / "pythia-1.4b")
    assert yaml.safe_load(written("pythia-1.4b"))["model"]["name"] == "pythia-1.4b"


def test_what_has_to_be_put_where_is_said_before_the_command(here, capsys):
    text = written("my-model", "--behaviour", "joy", "--adjective", "joyful")
    first, *then, last = capsys.readouterr().out.splitlines()
    assert first == "my-study.yaml is written."
    assert last == "What it would do: snakemake -n --configfile my-study.yaml"
    assert len(then) == 1
    header = text.partition("behaviour:")[0]
    for path in ("words.csv", "my-classifier"):
        assert path in then[0]
        assert path in header
    written("my-model", output="other.yaml")
    assert "words.csv" not in capsys.readouterr().out


def test_paths_in_commands_are_quoted(here, capsys):
    output = "my study's $HOME.yaml"
    text = written("my-model", output=output)
    for said in (capsys.readouterr().out.splitlines()[-1], text.splitlines()[1]):
        assert shlex.split(said)[-2:] == ["--configfile", output]


def test_names_that_are_taken_get_another(here):
    assert list(yaml.safe_load(written("my-model", "--tuned", "my-model"))["tuned"]) == [
        "my-model-tuned"
    ]
    text = written("my-model", "--tuned", "base", output="other.yaml")
    assert list(yaml.safe_load(text)["tuned"]) == ["base-tuned"]


def test_as_many_prompts_as_there_are(here):
    splits = yaml.safe_load(written("my-model", "--prompts", "mine.txt"))["prompts"]
    assert {name: split["number"] for name, split in splits.items()} == {
        "train": 20,
        "analysis": 10,
        "evaluation": 10,
    }


def test_a_repository_on_the_hub_is_pinned(here, monkeypatch, capsys):
    from neurondynamics.fetching import hub

    asked = []

    def download(repository, revision, repo_type, paths):
        assert f"hub for {repository} at {revision}" in capsys.readouterr().err  # beforehand
        asked.append((repository, revision))
        snapshot = here / "cache" / COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "config.json").write_text('{"of": "hub"}')
        return snapshot

    monkeypatch.setattr(hub, "download_snapshot", download)
    config = yaml.safe_load(written("Org/My.Model", "--tuned", f"org/tuned@{'f' * 40}"))
    assert config["model"]["name"] == "my.model"
    assert config["model"]["source"] == {"hub": "Org/My.Model", "revision": COMMIT}
    assert config["tuned"] == {"tuned": {"source": {"hub": "org/tuned", "revision": "f" * 40}}}
    assert asked == [("Org/My.Model", "main"), ("Org/My.Model", COMMIT)]


@pytest.mark.parametrize("name", ["org/model", "org/model@refs/pr/1", "my-model/final@main"])
def test_a_name_on_the_hub_looks_like_no_path(here, name):
    assert not new_study.looks_like_path(name)


@pytest.mark.parametrize("text", ["a", "a b", "1e5", "null", "on", "a: b", "a#b", "é'\"", "-x", ""])
def test_texts_are_read_back_as_they_are(text):
    assert yaml.safe_load(f"{{x: {new_study.scalar(text)}}}") == {"x": text}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no nowhere"),
        (["./my/model"], "there is no such path: ./my/model"),
        (["/my-model"], "there is no such path"),
        (["~/my-model"], "there is no such path"),
        (["a/b/c"], "there is no such path"),
        (["my-model/final"], "there is no such path"),
        (["models/mine.gguf"], "there is no such path"),
        (["models/mine.TAR.GZ"], "there is no such path"),
        (["my-model", "--tuned", "tuned/final"], "there is no such path: tuned/final"),
        (["empty.zip"], "empty.zip holds no config.json: state layers, neurons"),
        (["damaged.zip"], "damaged.zip is damaged"),
        (["my-model", "--adjective", "toxic"], "--adjective needs --behaviour"),
        (["my-model", "--tuned", "nowhere"], "there is no nowhere"),
        (["my-model", "--prompts", "nowhere.txt"], "nowhere.txt"),
        (["my-model", "--prompts", "my-model"], "ends in .txt, .jsonl"),
        (["my-model", "--prompts", "few.txt"], "too few"),
        (["my-model", "--prompts", "other.jsonl"], "text"),
        (["my-model", "--behaviour", "joy"], None),
        (["my-model", "--behaviour", "a, b", "--adjective", "b"], "behaviour.name"),
        (["my-model", "--output", "mine.txt"], "mine.txt exists"),
    ],
)
def test_what_cannot_be_written_is_refused_with_the_reason(here, capsys, arguments, said):
    zipfile.ZipFile(here / "empty.zip", "w").close()
    (here / "damaged.zip").write_bytes(b"PK")
    (here / "few.txt").write_text("one\ntwo\nTwo\n")
    (here / "other.jsonl").write_text('{"question": "one"}\n')
    before = {path.name for path in here.iterdir()}
    with pytest.raises(SystemExit) as caught:
        new_study.main(arguments)
    assert caught.value.code != 0
    assert (said or "--behaviour needs --adjective") in f"{caught.value}{capsys.readouterr().err}"
    assert {path.name for path in here.iterdir()} - before <= {"resources"}
    assert (here / "mine.txt").read_text().startswith("prompt 0")


def test_it_runs_from_the_command_line(tmp_path):
    command = [sys.executable, str(SCRIPT), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--tuned" in done.stdout
