"""Whatever stands in a key of the schema, a study is refused by name or can be planned.

NEURONDYNAMICS_FUZZ=whole tries every value in every key; otherwise some of them, drawn once.
"""

import copy
import os
import random
import resource
import time
from pathlib import Path

import pytest
from neurondynamics.study import estimate, results
from neurondynamics.study.configuration import checked
from neurondynamics.study.interventions import with_controls
from neurondynamics.study.loader import parse, read_yaml
from neurondynamics.study.schema import read_schema, resolved
from neurondynamics.study.types import _alternatives as alternatives

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = read_yaml(ROOT / "config.yaml")
PATIENCE = 5.0  # seconds a study may take, on a busy machine
MEMORY = 2 * 2**20  # KiB
NUMBER = 100  # of what is tried in the suite
DEEP = "[" * 150 + "]" * 150
VALUES = (  # as they stand in a file
    *("true", "0", "-1", "1", "2.0", "1.5", "7", "1e5", "1e-3", "1.0e-300", "1e300", ".nan"),
    *(".inf", "-.inf", "4294967296", "1" + "0" * 30, "0x1F", "1_000", "010", "1:30", "off"),
    *(
        "2024-05-01",
        "''",
        "x",
        "nope",
        "'7'",
        "'1e5'",
        '"a\\n"',
        '"\\0"',
        "'{old}'",
        "../..",
        "a/b",
    ),
    *("~/x", "ümläut", "'" + "a" * 300 + "'", "'" + "b" * 100_000 + "'", "[]", "{}", "[[]]"),
    *("[x]", "[1, 1]", "{x: 1}", "{x: {y: {z: 1}}}", "[null]", "{x: null}", DEEP, "null"),
)
OTHER = """
datasets:
  mine: {files: [{path: mine.jsonl}], format: jsonl, where: {score: {minimum: 0, maximum: 1}}}
  hub: {hub: a/b, revision: main, files: [{path: x.csv}], format: csv}
  url: {url: "https://example.org/x.zip", sha256: SUM, files: [{path: x.txt}], format: lines}
prompts: {train: {dataset: mine, number: 2}, analysis: {dataset: mine, number: 2},
          evaluation: {dataset: mine, number: 2}}
corpus: {dataset: mine, continued: mine, windows: 1, continuations: 1}
scorers:
  profanity-check: null
  lexicon: {threshold: 0, kind: lexicon, source: {path: terms.csv}}
  detox: {kind: detoxify, threshold: 0.5, label: toxic, source: {path: terms.csv},
    configuration: {path: terms.csv}}
  classifier: {kind: classifier, threshold: 0.5, source: {path: terms.csv}, label: toxic}
sampling: {scorer: lexicon}
preferences: {method: steered, maximum: 9, dataset: mine, number: 9, prompt_tokens: 9,
  new_tokens: 9, direction: probe, step_size: 1, temperature: 1, top_k: 1, iterations: 1,
  horizon: 1, gamma: 1, gm_scale: 1, kl_scale: 0}
tuned:
  mine: {method: simpo, target_margin: 1, learning_rate: 1e-5, beta: 0.1, optimizer: rmsprop,
    warmup_steps: 2, epochs: 1, batch_size: 8, accumulation: 1, max_grad_norm: 10, seed: 0,
    lora: {rank: 4, alpha: 8, dropout: 0.1}, prompt_tokens: 9, continuation_tokens: 9,
    early_stopping: {held_out: 0.2, every: 1, patience: 1}, precision: bfloat16,
    gradient_checkpointing: true, gpus: 1, seeds: [1, 2]}
  brought: {source: {path: terms.csv}}
directions:
  labelled: {method: probe, texts: mine, label: score, layer: 1, tokens: 9, held_out: 0.25}
  ready: {method: file, path: vector.npy}
experiments:
  own:
    state: base
    interventions:
      listed: [{select: {neurons: [[0, 1]]}, operation: zero, positions: all}]
      filed: [{select: {file: neurons.csv}, operation: scale, factor: 2}]
      drawn: [{select: {random: {top: 9, by: cosine}, seed: 1}, operation: patch, shuffle_signs: 1}]
published:
  source: a paper
  scorer: a scorer
  interventions: {ablation: {none: {score: 0.5, perplexity: 20, f1: 0.2}}}
  groups: {TP-: {neurons: 9, reduction: 0.5, share: 0.3}}
""".replace("SUM", "0" * 64)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory with the files that the other study names."""
    monkeypatch.chdir(tmp_path)
    rows = (f'{{"text": "number {n}", "score": {n % 2}}}\n' for n in range(20))
    Path("mine.jsonl").write_text("".join(rows))
    Path("terms.csv").write_text("text,severity_rating\nsad,1\n")
    Path("neurons.csv").write_text("layer,neuron\n0,1\n")
    Path("vector.npy").write_bytes(b"")


def keys_of(definition, place=(), seen=()):
    """Yield the place of every key that the schema describes; * is a name, 0 a place in a list."""
    name = definition.get("$ref")
    if name in seen:
        return
    definition = resolved(definition)
    if place:
        yield place
    seen = (*seen, name) if name else seen
    others = [definition.get(key) or {} for key in ("then", "else")] + alternatives(definition)
    for part in (definition, *others):
        if isinstance(part.get("additionalProperties"), dict):
            yield from keys_of(part["additionalProperties"], (*place, "*"), seen)
        for key, value in part.get("properties", {}).items():
            yield from keys_of(value, (*place, key), seen)
        if "items" in part:
            yield from keys_of(part["items"], (*place, 0), seen)


PLACES = sorted(set(keys_of(read_schema())), key=str)


def changed(config, place, value):
    """Return a configuration with a value in a place, and the keys that lead there.

    A name is that of something that has the next key already, if there is one, or the first.
    """
    config = here = copy.deepcopy(config)
    path = []
    for key, following in zip(place, (*place[1:], None), strict=True):
        if key == "*":
            fitting = [name for name, one in here.items() if _has(one, following)]
            key = next(iter([*fitting, *here, "some"]))
        if key == 0 and not here:
            here.append(None)
        path.append(key)
        if following is None:
            here[key] = value
            break
        wanted = list if following == 0 else dict
        there = here[key] if key == 0 else here.get(key)
        here[key] = there if isinstance(there, wanted) else wanted()
        here = here[key]
    return config, path


def _has(value, key):
    if key == 0:
        return isinstance(value, list) and bool(value)
    return isinstance(value, dict) and (key in value or key == "*")


def drawn():
    cases = [(study, place, value) for study in (0, 1) for place in PLACES for value in VALUES]
    if os.environ.get("NEURONDYNAMICS_FUZZ") == "whole":
        return cases
    return random.Random(0).sample(cases, NUMBER)


def test_the_schema_is_walked():
    assert len(PLACES) > 150
    for place in (("seed",), ("tuned", "*", "lora", "rank"), ("prompts", "train", "exclude", 0)):
        assert place in PLACES
    assert ("experiments", "*", "interventions", "*", 0, "select", "top") in PLACES


def test_the_other_study_passes():
    checked([DEFAULT, parse(OTHER, "other")])


def test_a_study_is_refused_by_name_or_can_be_planned():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    wrong = [(case, said) for case in drawn() if (said := tried(*case))]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    assert not wrong, "\n".join(f"{case}: {said}" for case, said in wrong[:20])


def tried(study, place, text):
    """Return what is wrong with how a value in a place of a study is met, if anything."""
    layers = [DEFAULT, parse(OTHER, "other")][: 1 + study]
    start = time.monotonic()
    given, path = changed(layers[-1], place, parse(text, "value"))
    try:
        config = checked([*layers[:-1], given])
        list(results.targets(config))
        list(map(with_controls, config["experiments"].values()))
        estimate.needs(config)
    except ValueError as error:
        told = str(error)
        if len(told) > 20_000 or not named(told, path):
            return f"told {told[:300]}"
    except Exception as error:
        return f"fails with {error!r}"[:300]
    if time.monotonic() - start > PATIENCE:
        return "takes too long"
    return None


def named(message, path):
    """Whether a message names a key, one that holds it, or the part of the study it stands in."""
    texts = [key for key in path if isinstance(key, str)]
    return f"- {texts[0]}" in message or any(text in message for text in texts[-3:])
