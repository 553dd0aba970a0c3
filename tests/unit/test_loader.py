"""YAML is read as its author meant it, and a mistake in it is told with file and line."""

import datetime
import subprocess
import sys
from pathlib import Path

import pytest
from neurondynamics.study.configuration import checked, overlay, stated
from neurondynamics.study.loader import parse, plain, read_yaml
from neurondynamics.study.types import typed

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = read_yaml(ROOT / "config.yaml")
NONE = {"none": []}


def read(text):
    return plain(parse(text, "mine.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1e5", 1e5),
        (".5", 0.5),
        ("2.0", 2.0),
        ("010", 10),
        ("0x1F", 31),
        ("-7", -7),
        ("true", True),
        ("off", "off"),
        ("yes", "yes"),
        ("2024-05-01", "2024-05-01"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("'7'", "7"),
        ("~", None),
        ("", None),
    ],
)
def test_types_are_those_of_the_core_schema(text, value):
    found = read(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", ["7", "1e5", "2024-05-01", "off", "null", "true", "NA", "1.10"])
def test_keys_are_texts_as_they_stand(name):
    assert read(f"{{{name}: 1, b: {{{name}: 2}}}}") == {name: 1, "b": {name: 2}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", r"mine\.yaml, line 3: the key a stands twice, first in line 1"),
        ("x:\n  - {7: 1, '7': 2}", r"line 2: the key 7 stands twice, first in line 2"),
        ("a: 1\nb: [1, 2}", r"mine\.yaml, line 2: "),
        ("a: 1\n\tb: 2", r"mine\.yaml, line 2: "),
        ("a: &x [*x]", r"line 1: its aliases"),
        ("a: &a [1, 1]\n" + "".join(f"b{n}: &b{n} [*{'a' if n == 0 else f'b{n - 1}'}, "
         f"*{'a' if n == 0 else f'b{n - 1}'}]\n" for n in range(30)), "its aliases"),
        ("[" * 300 + "]" * 300, "line 1: nested in more than 200 levels"),
        ("[" * 100_000, "line 1: nested in more than 200 levels"),
        ("? [a]\n: 1", "a key is a text"),
        ("a: 1e400", "line 1: 1e400 is beyond the numbers"),
        ("a: 1e-400", "line 1: 1e-400 is beyond the numbers"),
        ("a: " + "9" * 5000, "a number of 5000 digits"),
        ("a: !!python/name:os.system x", "line 1: could not determine a constructor"),
        ("a: !!int x", "line 1: 'x' is no number"),
        ("a: \x07", r"mine\.yaml: no YAML"),
        ("a: 1\n---\nb: 2", "expected a single document"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_file_and_line(text, said):
    with pytest.raises(ValueError, match=said):
        parse(text, "mine.yaml")


def test_merge_keys_and_aliases_work():
    assert read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
    }


def test_a_json_file_is_an_overlay(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"seed": 3, "tuned": {"dpo": {"learning_rate": 1e-05}}}')
    assert overlay(path) == {"seed": 3, "tuned": {"dpo": {"learning_rate": 1e-05}}}


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a: caf\xe9", "not UTF-8"), (b"- 1", "a configuration is a mapping"), (b"", "is a mapping")],
)
def test_what_is_no_overlay_is_refused(tmp_path, content, said):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"mine\.yaml.*{said}"):
        overlay(path)


def test_what_yte_works_out_is_left_to_snakemake(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("__use_yte__: true\n?if True:\n  seed: 1\n?else:\n  seed: 2\n")
    assert overlay(path) == {"seed": 1}


def test_config_of_the_command_line_has_the_same_types():
    said = ["curve=7", "seed=2.0", "tuned={dpo: {learning_rate: 2e-5}}", "device="]
    assert plain(stated(said)) == {
        "curve": 7,
        "seed": 2.0,
        "tuned": {"dpo": {"learning_rate": 2e-5}},
        "device": None,
    }
    with pytest.raises(ValueError, match="the key seed stands twice"):
        stated(["seed=1", "seed=2"])


def study(text):
    return checked([DEFAULT, parse(text, "mine.yaml")], main_process=False)


def test_numbers_are_what_their_key_wants():
    config = study(
        "shards: 1.0\nseed: 3.0\ntuned: {dpo: {learning_rate: 2e-5, beta: 1}}\n"
        "datasets: {wikipedia: {python_version: 3.10}}\n"
        "directions: {svd: {number: 64.0}}\nmodel: {layers: 30.0}"
    )
    whole = [config["shards"], config["seed"], config["directions"]["svd"]["number"]]
    assert [*whole, config["model"]["layers"]] == [1, 3, 64, 30]
    assert all(type(number) is int for number in whole)
    assert config["tuned"]["dpo"]["learning_rate"] == 2e-5
    assert config["datasets"]["wikipedia"]["python_version"] == "3.10"
    assert all(type(number) is float for number in (config["tuned"]["dpo"]["learning_rate"],))


def test_numbers_and_dates_are_names():
    """As intervention, experiment, scorer and version, and where they are referred to."""
    config = study(
        "curve: 10\n"
        "experiments: {10: {state: base, interventions: {1: [], 2024-05-01: [], off: []}}}\n"
        "claims: {ablations: [1, 2024-05-01], dampened: off}\n"
        "scorers: {1e5: {kind: profanity-check, threshold: 0.5}}\nsampling: {scorer: 1e5}\n"
        "tuned: {7: {source: {hub: a/b, revision: 1234567}}}"
    )
    assert list(config["experiments"]["10"]["interventions"]) == ["1", "2024-05-01", "off"]
    assert config["curve"] == "10"
    assert config["claims"]["ablations"] == ["1", "2024-05-01"]
    assert config["tuned"] == {"7": {"source": {"hub": "a/b", "revision": "1234567"}}}
    assert next(iter(config["scorers"])) == "1e5"


@pytest.mark.parametrize("name", [7, None, True, datetime.date(2024, 5, 1)])
def test_names_that_another_reader_made_no_texts_are_refused(name):
    with pytest.raises(ValueError, match="put it in quotes"):
        checked([DEFAULT, {"tuned": {name: {"source": {"path": "x"}}}}], main_process=False)


@pytest.mark.parametrize("name", ['"a\\n"', "''", "a b", "-a", "a/b", "a" * 101, '"a\\0"'])
def test_names_become_names_of_files(name):
    with pytest.raises(ValueError, match=r"- tuned: "):
        study(f"tuned: {{{name}: {{source: {{path: x}}}}}}")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("seed: 4294967296", "seed"),
        ("tuned: {dpo: {seed: 4294967296}}", "tuned.dpo.seed"),
        ("tuned: {dpo: {seeds: [4294967296]}}", r"tuned.dpo.seeds\[0\]"),
        ("sampling: {temperature: .nan}", "sampling.temperature"),
        ("sampling: {temperature: 1.0e-300}", "sampling.temperature"),
        ("sampling: {temperature: 1.0e-9}", "sampling.temperature"),
        ("tuned: {dpo: {beta: .inf}}", "tuned.dpo.beta"),
        ("statistics: {samples: 19}", "statistics.samples"),
        ("statistics: {confidence: 1.0e-9}", "statistics.confidence"),
        ("prompts: {analysis: {number: 1}}", "prompts.analysis.number"),
        ("generation: {new_tokens: 1}", "generation.new_tokens"),
        ("experiments: {controlled: {controls: {signs: 1" + "0" * 40 + "}}}", "experiments"),
        ('tuned: {dpo: {beta: "0.1"}}', "tuned.dpo.beta: '0.1' .* without quotes"),
        ("claims: {dampened: nope}", "claims.dampened"),
        ("claims: {ablations: [nope]}", r"claims.ablations\[0\]"),
    ],
)  # fmt: skip
def test_values_beyond_what_a_key_can_mean_are_refused(text, key):
    with pytest.raises(ValueError, match=f"- {key}"):
        study(text)


def test_a_value_of_no_key_keeps_its_type():
    assert typed(parse("[1, 2.0, x]", ""), {}) == [1, 2.0, "x"]


def test_a_mistake_in_the_default_study_is_told_with_its_line(tmp_path):
    """Before Snakemake reads it, which says neither file nor line."""
    for name in ("Snakefile", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    Path(tmp_path / "config.yaml").write_text("seed: 1\nclaims: {ablations: [a, b}\n")
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "config.yaml, line 2: " in done.stdout + done.stderr
