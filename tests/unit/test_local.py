"""Before any job, all that files of this machine and names on the command line can tell."""

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from neurondynamics.study import local
from neurondynamics.study.configuration import checked
from neurondynamics.study.loader import parse, read_yaml
from neurondynamics.study.sources import Sources
from neurondynamics.study.stage import linked
from neurondynamics.study.targets import asked, check
from snakemake.exceptions import WorkflowError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = read_yaml(ROOT / "config.yaml")
TEXTS = b"".join(b"prompt number %d\n" % number for number in range(20))
FILES = {
    "prompts.txt": TEXTS,
    "articles.txt": b"an article\nanother one\n",
    "labelled.csv": b"text,bad\none,1\ntwo,0\n",
    "pairs.jsonl": b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n',
    "terms.csv": b"text,severity_rating\nsad,1\n",
    "neurons.csv": b"layer,neuron\n0,1\n29,1535\n",
    "vector.npy": b"",
}
STUDY = f"""
datasets:
  mine:
    files: [{{path: prompts.txt, sha256: {hashlib.sha256(TEXTS).hexdigest()}}}]
    format: lines
  articles: {{files: [{{path: articles.txt}}], format: lines}}
  labelled: {{files: [{{path: labelled.csv}}], format: csv}}
  pairs: {{files: [{{path: pairs.jsonl}}], format: jsonl}}
prompts:
  train: {{dataset: mine, number: 6}}
  analysis: {{dataset: mine, number: 6}}
  evaluation: {{dataset: mine, number: 6}}
corpus: {{dataset: articles}}
preferences: {{method: ready, dataset: pairs, maximum: 9}}
scorers: {{lexicon: {{kind: lexicon, threshold: 0, source: {{path: terms.csv}}}}}}
directions:
  labelled: {{method: probe, texts: labelled, label: bad, tokens: 9, held_out: 0.5}}
  ready: {{method: file, path: vector.npy}}
experiments:
  own:
    state: base
    interventions:
      filed: [{{select: {{file: neurons.csv}}, operation: zero}}]
      drawn: [{{select: {{random: {{file: neurons.csv}}, seed: 0}}, operation: zero}}]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with the files of the study."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    return tmp_path


def study(more="{}"):
    return checked([DEFAULT, parse(STUDY, "study"), parse(more, "more")])


def problems(more="{}"):
    with pytest.raises(ValueError, match="the configuration is wrong") as caught:
        study(more)
    return [line.removeprefix("- ") for line in str(caught.value).splitlines()[1:]]


def test_a_study_of_whole_files_passes(here):
    study()


@pytest.mark.parametrize(
    ("name", "content", "key", "said"),
    [
        ("prompts.txt", TEXTS + b"x\n", "datasets.mine.files", "expected sha256"),
        ("articles.txt", b"caf\xe9\n", "datasets.articles.files", "line 1: not UTF-8"),
        ("articles.txt", b"\n", "datasets.articles.files", "no text"),
        ("articles.txt", gzip.compress(b"x", mtime=0), "datasets.articles.files", "articles.txt"),
        ("labelled.csv", b"text,bad\none,good\n", "directions.labelled.label", "'bad'"),
        ("labelled.csv", b"text,good\none,1\n", "directions.labelled.label", "'bad'"),
        ("pairs.jsonl", b"[1]\n", "datasets.pairs.files", "line 1"),
        ("terms.csv", b"word,weight\nsad,1\n", "scorers.lexicon.source.path", "no column"),
        ("terms.csv", None, "scorers.lexicon.source.path", "there is no file terms.csv"),
        ("vector.npy", None, "directions.ready.path", "there is no file vector.npy"),
        ("neurons.csv", b"a,b\n1,2\n", ".filed[0].select.file", "no field 'layer'"),
        ("neurons.csv", b"layer,neuron\n30,0\n", ".drawn[0].select.random.file", "0 to 29"),
        ("neurons.csv", b"layer,neuron\n0,1536\n", ".filed[0].select.file", "0 to 1535"),
        ("neurons.csv", b"layer,neuron\n0,-1\n", ".filed[0].select.file", "no neuron -1"),
        ("neurons.csv", b"layer,neuron\n0,1\n0,1\n", ".filed[0].select.file", "twice"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_key_and_file(here, name, content, key, said):
    Path(name).unlink()
    if content is not None:
        Path(name).write_bytes(content)
    told = [line for line in problems() if name in line]
    assert any(key in line and said in line for line in told), told


def test_all_of_it_is_said_at_once(here):
    Path("articles.txt").write_bytes(b"caf\xe9\n")
    Path("terms.csv").write_bytes(b"word\nsad\n")
    Path("neurons.csv").unlink()
    told = problems("seed: 0\nattribution: {decoded: 100000}\ntuned: {x: {source: {path: gone}}}")
    for name in ("articles.txt", "terms.csv", "neurons.csv", "gone", "attribution.decoded"):
        assert any(name in line for line in told), name


@pytest.mark.parametrize(
    ("neurons", "said"),
    [("[[30, 0]]", "0 to 29"), ("[[0, 1536]]", "0 to 1535"), ("[[0, 1], [0, 1]]", "twice")],
)
def test_listed_neurons_are_those_of_the_model(here, neurons, said):
    steps = f"[{{select: {{neurons: {neurons}}}, operation: zero}}]"
    (line,) = problems(f"experiments: {{own: {{interventions: {{listed: {steps}}}}}}}")
    assert line.startswith("experiments.own.interventions.listed[0].select.neurons[")
    assert said in line


@pytest.mark.parametrize("name", ["a" * 300, "a/" + "b" * 256, "~", "."])
def test_paths_that_are_no_files_are_said_with_their_key(here, name):
    told = problems(f"datasets: {{mine: {{files: [{{path: '{name}'}}], format: lines}}}}")
    assert any(line.startswith("datasets.mine.files: ") for line in told)


def test_what_took_a_while_is_read_once(here, monkeypatch):
    monkeypatch.setattr(local, "QUICK", 0)
    study()
    for name in ("read_dataset", "read_rows"):
        monkeypatch.setattr(local, name, None)
    study()
    Path("articles.txt").write_bytes(b"other\n")
    with pytest.raises(TypeError):  # it is read again
        study()


def test_what_is_fetched_already_may_be_gone(here):
    Path("terms.csv").unlink()
    Path("prompts.txt").unlink()
    for path in ("resources/scorers/lexicon", "resources/datasets/mine"):
        Path(path).mkdir(parents=True)
    study()


def test_results_of_another_study_are_asked_for_by_name(here):
    path = "results/gpt2-medium/base/preferences.jsonl"
    config = study(f"datasets: {{pairs: {{files: [{{path: {path}}}], format: jsonl}}}}")
    with pytest.raises(WorkflowError) as caught:
        Sources(config).dataset_files(SimpleNamespace(dataset="pairs"))
    told = str(caught.value)
    assert told.startswith(f"datasets.pairs.files: there is no file {path}")
    assert f"paper.yaml workflow/studies/gpt2-medium.yaml -- {path}" in told


@pytest.mark.parametrize("path", ["{old}/a.txt", "base {v1}", "{a,b+}.csv"])
def test_braces_in_paths_are_no_wildcards(here, path):
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("here")
    link = linked(path)
    assert "{" not in link
    assert Path(link).read_text() == "here"
    assert linked(path) == link
    assert linked("plain/a {b-c}.txt") == "plain/a {b-c}.txt"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("resources/models/nope", "no fetched model 'nope'; known are smollm2-135m"),
        ("resources/models/dpo", "no fetched model 'dpo'"),
        ("resources/datasets/min", "no dataset 'min'; did you mean 'mine'?"),
        ("resources/scorers/nope", "no scorer 'nope'"),
        ("results/smollm/dpo/neurons.parquet", "no model 'smollm'"),
        ("results/smollm2-135m/dop/neurons.parquet", "no tuned version 'dop'; did you mean 'dpo'?"),
        ("results/smollm2-135m/base/features/x.safetensors", "no features 'x'"),
        ("results/smollm2-135m/base/directions/prob.json", "did you mean 'probe'?"),
        ("results/smollm2-135m/base/prompts/test.jsonl", "no split 'test'"),
        ("results/smollm2-135m/dpo/activations/base-x/1-of-1.h5", "no state 'base-x'"),
        ("results/smollm2-135m/dpo/experiments/owm/choice.json", "did you mean 'own'?"),
        ("results/smollm2-135m/dpo/experiments/own/scores/x/1-of-1.parquet", "no scorer 'x'"),
        (
            "results/smollm2-135m/dpo/experiments/own/measures/2-of-1.parquet",
            "no shard 2-of-1; with",
        ),
        ("results/smollm2-135m/base/activations/base/1-of-2.h5", "`shards: 1` there is 1-of-1"),
        ("results/smollm2-135m/dpo/exported/own/file", "no intervention 'file'"),
    ],
)
def test_names_in_targets_are_those_of_the_study(here, target, said):
    with pytest.raises(ValueError, match="there is ") as caught:
        check(study(), [target], ROOT)
    assert said in str(caught.value)


def test_targets_that_a_study_has_pass(here):
    of_study = (
        *("resources/models/smollm2-135m", "resources/datasets/mine", "elsewhere/x", "results"),
        "results/smollm2-135m/base/continuations/train-scored/1-of-1.parquet",
        "results/smollm2-135m/base/activations/base/1-of-1.h5",
        "results/smollm2-135m/base/directions/probe.safetensors",
        "results/smollm2-135m/dpo/directions/probe/groups.csv",
        "results/smollm2-135m/dpo/exported/own/filed",
        "results/smollm2-135m/dpo/exported/controlled/mean-TP-AN-~random-1",
    )
    check(study(), of_study, ROOT)


def test_targets_are_those_of_the_command_line():
    command = ["/venv/bin/snakemake", "./results/x/y", "-n", "--configfile", "results/a.yaml"]
    assert asked(command) == ["results/x/y"]
    assert asked([*command[:1], "all", "--directory", "results/x"]) == []
    assert asked(["/venv/bin/pytest", "results/x/y"]) == []


def test_a_folder_with_braces_is_refused(here):
    with pytest.raises(ValueError, match=r"braces in .*a \{study\}"):
        check(study(), [], Path("a {study}/workflow"))


def test_an_unknown_target_is_told_by_the_command(tmp_path):
    options = ["-n", "--cores", "1", "--directory", str(tmp_path), "--", "resources/models/nope"]
    command = [sys.executable, "-m", "snakemake", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "resources/models/nope: there is no fetched model 'nope'" in done.stdout + done.stderr
