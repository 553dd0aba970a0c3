"""What is wrong is said without a traceback, and nothing that is right is called wrong."""

from pathlib import Path

import pytest
import yaml
from neurondynamics.study.merging import merged
from neurondynamics.study.schema import mistakes, read_schema
from neurondynamics.study.wording import hint, join, known

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def said_of(overlay):
    """What is said of an overlay on the default study."""
    return list(mistakes(merged([DEFAULT, yaml.safe_load(overlay)], read_schema())))


def test_a_name_need_not_be_a_text():
    assert hint(1, {2: "b", "c": 3}) == "; known are 2, c"
    assert hint(12, [123]) == "; did you mean '123'?"
    assert join("(top level)", 1) == "1"
    assert list(known("a", None, ["b"], "thing")) == ["a: there is no thing None; known are b"]


@pytest.mark.parametrize("overlay", ["1: 2", "{true: 2, x: 3}", "{2.5: {}, 1: 2, z: 0}"])
def test_a_key_of_any_type_is_unknown(overlay):
    names = {str(name) for name in yaml.safe_load(overlay)}
    found = said_of(overlay)
    assert {line.partition(": unknown key; ")[0] for line in found} == names
    within = said_of(f"{{model: {{{overlay.strip('{}')}}}}}")
    expected = {f"model.{name}" for name in names}
    assert {line.partition(": unknown key; ")[0] for line in within} == expected


@pytest.mark.parametrize(
    ("overlay", "key"),
    [
        ("{scorers: {lexicon: {kind: lexicn}}}", "scorers.lexicon.kind: 'lexicn'"),
        ("{preferences: {method: smpled}}", "preferences.method: 'smpled'"),
        ("{directions: {probe: {method: prob}}}", "directions.probe.method: 'prob'"),
    ],
)
def test_a_kind_that_is_unknown_is_all_that_is_said(overlay, key):
    (line,) = said_of(overlay)
    assert line.startswith(f"{key} is unknown; did you mean")


def test_what_a_known_kind_lacks_is_said():
    assert "scorers.x.threshold: this key is missing" in said_of("{scorers: {x: {kind: lexicon}}}")
    assert "scorers.x.kind: this key is missing" in said_of("{scorers: {x: {threshold: 0.5}}}")


def test_a_dataset_of_two_origins_may_have_none():
    dataset = "{wheel: a==1, hub: b/c, revision: d, files: [{path: x}], format: lines}"
    (line,) = said_of(f"{{datasets: {{x: {dataset}}}}}")
    assert line == (
        "datasets.x: give exactly one of wheel, hub, url, not wheel and hub; "
        "or none, and files of this machine"
    )
