"""Whatever study is written to start from passes, and is short."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from neurondynamics.study import shape
from neurondynamics.study.configuration import checked
from neurondynamics.study.costs import SHAPE

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "workflow" / "new_study.py"
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
LARGE = {key: DEFAULT["model"][key] for key in SHAPE}
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
    (tmp_path / "Model Q4.gguf").write_bytes(b"GGUF")
    (tmp_path / "mine.txt").write_text("".join(f"prompt {number}\n" for number in range(40)))
    rows = "".join(json.dumps({"prompt": f"prompt {number}"}) + "\n" for number in range(3000))
    (tmp_path / "mine.jsonl").write_text(rows)
    for module in (shape, new_study):
        monkeypatch.setattr(module, "worked_out", lambda folder, gguf_file=None: dict(LARGE))
    return tmp_path


def written(*arguments, output="my-study.yaml"):
    new_study.main([*arguments, "--output", output])
    return Path(output).read_text(encoding="utf-8")


MODELS = [["my-model"], ["Model Q4.gguf"]]
TUNED = [[], ["--tuned", "tuned"], ["--tuned", "base"], ["--tuned", "my-model"]]
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
    config = checked([DEFAULT, yaml.safe_load(text)])
    assert config["model"]["source"] == {"path": model[0]}
    assert config["model"] == {
        "name": "my-model" if model == ["my-model"] else "model-q4",
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


def test_a_repository_on_the_hub_is_pinned(here, monkeypatch):
    from neurondynamics.fetching import hub

    asked = []

    def download(repository, revision, repo_type, paths):
        asked.append((repository, revision))
        snapshot = here / "cache" / COMMIT
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "config.json").write_text("{}")
        return snapshot

    monkeypatch.setattr(hub, "download_snapshot", download)
    config = yaml.safe_load(written("Org/My.Model", "--tuned", f"org/tuned@{'f' * 40}"))
    assert config["model"]["name"] == "my.model"
    assert config["model"]["source"] == {"hub": "Org/My.Model", "revision": COMMIT}
    assert config["tuned"] == {"tuned": {"source": {"hub": "org/tuned", "revision": "f" * 40}}}
    assert asked == [("Org/My.Model", "main"), ("Org/My.Model", COMMIT)]


@pytest.mark.parametrize("text", ["a", "a b", "1e5", "null", "on", "a: b", "a#b", "é'\"", "-x", ""])
def test_texts_are_read_back_as_they_are(text):
    assert yaml.safe_load(f"{{x: {new_study.scalar(text)}}}") == {"x": text}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no nowhere"),
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
